"""The one error class of the project, and the exit codes that go with it (floor 0)."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DIVERGED = 3
    HUB = 4
    INTERRUPTED = 130


class EBMError(Exception):
    """A known failure: what is wrong (expected, received, where) and what to do about it.

    Args:
        message: one line, lower case, no full stop.
        hint: what the user can do next; empty where there is nothing to say.
        code: exit code of the command line.
        details: further lines, one problem each (a recipe reports all of its mistakes at once).
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        code: Exit = Exit.FAILED,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.details = details


class UsageError(EBMError):
    """Wrong arguments or an invalid recipe: exit code 2."""

    def __init__(self, message: str, hint: str = "", *, details: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint, code=Exit.USAGE, details=details)


class DivergedError(EBMError):
    """Learning or sampling left the finite numbers: exit code 3, the last good state is saved."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, code=Exit.DIVERGED)

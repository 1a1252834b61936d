"""The one error class of the project, and the exit codes that go with it."""

from __future__ import annotations

import errno
import os
import re
from enum import IntEnum

from ebmcli.text import shortened


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

    A field that the caller set is named in backquotes, as Python knows it (`step_size`); the command line shows the
    option of that name in its place.

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


class ConsentError(EBMError):
    """A file names code to import, and the user has not allowed that: exit code 1.

    The command line puts the whole command to type in the place of the hint.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "if you know where the file and that code come from, allow it: trusted=True")


class DivergedError(EBMError):
    """Learning or sampling left the finite numbers: exit code 3, the last good state is saved."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, code=Exit.DIVERGED)


_REMEDIES = {
    errno.EACCES: "you may not write or read there: choose another place, or change its permissions",
    errno.EPERM: "you may not do this there: choose another place",
    errno.EROFS: "the place is read-only: choose another",
    errno.ENOSPC: "make room on the disk, or choose another place",
    errno.EDQUOT: "your share of the disk is used up: make room, or choose another place",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder: give the name of a file",
    errno.EEXIST: "something else is there: choose another name",
    errno.ENOENT: "is the path right, and can a folder be made there?",
    errno.ELOOP: "a link there leads to itself",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.EINVAL: "the system does not take this name: give another",
}
"""What can be done, by what the system says."""


def of_system(error: OSError, what: str = "") -> EBMError:
    """A refusal of the operating system in our form: the file, why, and what can be done.

    Args:
        error: as it was raised.
        what: what could not be done, such as "cannot write a.png"; its file's name where left out.
    """
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else "a file"
    why = (error.strerror or str(error)).strip()
    return EBMError(
        f"{what or shortened(name)}: {why}",
        _REMEDIES.get(error.errno or 0, "choose another place"),
    )


_NO_ROOM = re.compile(
    "can't allocate|unable to allocate|out of memory|storage size calculation overflowed|multiplication overflow"
    "|array is too big|maximum allowed dimension",
    re.IGNORECASE,
)
"""How torch and NumPy say that an array does not fit into memory, or into any."""
_AMOUNT = re.compile(r"(\d[\d.]*) ?(bytes|[KMGTPE]i?B)")


def of_memory(error: Exception) -> EBMError | None:
    """A want of memory in our form, with how much was asked for where that is known; None for any other failure."""
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError | ValueError) and _NO_ROOM.search(str(error))
    ):
        return None
    found = _AMOUNT.search(str(error))
    amount = "" if found is None else f"{int(found[1]):,} bytes" if found[1].isdecimal() else f"{found[1]} {found[2]}"
    return EBMError(
        f"there is not enough memory{f' for {amount} at once' if amount else ''}",
        "take fewer or smaller images, chains or updates at once; `batch_size`, `count` and a recipe's numbers say how "
        "many",
    )

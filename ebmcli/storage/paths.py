"""Paths as people type them."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from ebmcli.errors import UsageError
from ebmcli.text import shortened

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a file's name, and of a path, that systems allow."""


def typed_path(name: str | os.PathLike[str]) -> Path:
    """The path that was typed, with `~` and `~user` at its beginning replaced; whether it is there is not asked.

    Raises:
        UsageError: no file can have such a name, or `~user` has no home folder.
    """
    text = os.fspath(name)
    try:
        plain = os.fsencode(text)
    except ValueError:  # a letter that the system's file names cannot hold
        plain = b"\0"
    too_long = len(plain) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in plain.split(os.fsencode(os.sep)))
    if too_long or b"\0" in plain:
        why = "it is too long" if too_long else "it has letters that names of files cannot have"
        raise UsageError(f"no file can be called {shortened(text)!r}: {why}", "check the name")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~user of nobody here
        raise UsageError(f"{shortened(text)} has no home folder to begin at", "give the whole path") from error


def full_path(name: str | None, known: Container[str]) -> str | None:
    """The full path of what was typed, so that work goes on with it from another folder.

    Args:
        name: a path, or a name of something that is not on this disk; None for nothing.
        known: names that are never paths.

    Returns:
        None where `name` is None or known, or nothing is there.

    Raises:
        UsageError: as `typed_path`.
    """
    if name is None or name in known:
        return None
    path = typed_path(name)
    return str(path.resolve()) if path.exists() else None

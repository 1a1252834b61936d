"""Paths as people type them."""

from __future__ import annotations

import os
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

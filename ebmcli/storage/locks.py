"""One process at a time in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ebmcli.errors import EBMError

try:
    import fcntl
except ImportError:  # Windows has no such lock, and two processes in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file that is locked. It says nothing, and stays."""


def hold(folder: Path) -> IO[str] | None:
    """Keep `folder` to this process as long as the result lives, and no longer than the process, however it ends.

    Raises:
        EBMError: another process is at work in it, or the folder cannot be written to.
    """
    if fcntl is None:
        return None
    try:
        file = open(folder / LOCK, "a")  # noqa: SIM115 - held as long as it lives
    except OSError as error:
        raise EBMError(f"cannot write {folder / LOCK}: {error.strerror}", "is the folder read-only?") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise EBMError(
            f"another process is at work in {folder}", "wait for it, or stop it with Ctrl-C first"
        ) from error
    return file


def held(folder: Path) -> bool:
    """Whether a process is at work in it now (never, where the system has no such lock)."""
    if fcntl is None or not (folder / LOCK).exists():
        return False
    with open(folder / LOCK, "rb") as file:  # the folder may be read-only: nothing is written to ask
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def turn(path: Path, patience: float) -> Iterator[None]:
    """Inside, no other process is: each waits for its turn, and one that dies gives its turn up.

    For work whose result the next one finds, and which may be done twice: where the system has no such lock, or
    nobody's turn ended in `patience` seconds, it goes on without.

    Args:
        path: the file that is locked, made where it is missing. It stays.
        patience: seconds to wait at most.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o600)
    except OSError:  # the folder takes no file, and so no result either: there is nothing to wait for
        yield
        return
    try:
        end = time.monotonic() + patience
        while fcntl is not None and time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)

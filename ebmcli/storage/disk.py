"""The few operations on a disk that everything which must survive a power cut goes through.

A file's content is on the disk when `sync` of the file returns, its name when `sync` of its folder does; what was
done before may be lost by a power cut, in any order. Tests put recording and failing operations in the place of these.
All raise OSError.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
"""What systems say that have no way to flush a folder."""


def write(path: Path, content: bytes) -> None:
    """Make or replace a file's content."""
    with open(path, "wb") as file:
        file.write(content)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, which is made if it is not there."""
    with open(path, "ab") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Return once a file's content, or the names in a folder, are on the disk."""
    if not path.is_dir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        return
    if os.name == "nt":  # Windows keeps the names itself, and opens no folder
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file takes the place of another."""
    os.replace(source, target)


def make(folder: Path) -> None:
    """Make a folder whose parent is there, unless it is there itself."""
    folder.mkdir(exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file or an empty folder."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


def crash_point(name: str) -> None:
    """Where tests kill the process: SIGKILL if the environment's EBM_CRASH_AT is `name`.

    Killing from outside never hits the instants that matter; this does.
    """
    if os.environ.get("EBM_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)

"""Folders and files that no other user can write to.

What a program loads as code must have been written by its own user. So the folder that keeps such files is made with
mode 0700, and before anything is read from it its owner and mode are looked at, and those of the file. Systems without
owners of this kind (Windows) skip these questions: there the user's own folders are closed to others by the system.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ebmcli.storage import disk
from ebmcli.storage.files import remove_tree

LARGEST = 2**26
"""Bytes of a file that `read` takes at most."""


class Kept(NamedTuple):
    """A folder of our own, and why it is not the one that was wanted (empty where it is)."""

    folder: Path
    instead: str


def cache_folder() -> Path:
    """`$EBM_CACHE`, else `$XDG_CACHE_HOME/ebmcli`, else `~/.cache/ebmcli`.

    Raises:
        RuntimeError: it is in the home folder, and the user has none.
    """
    if own := os.environ.get("EBM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "ebmcli"


_owners = hasattr(os, "geteuid")  # whether files have owners and modes here


def _foreign(facts: os.stat_result) -> bool:
    return _owners and facts.st_uid != os.geteuid()


def _open_to(facts: os.stat_result) -> str:
    """Why somebody else may have written what `facts` are of; empty where nobody can have."""
    if _foreign(facts):
        return "it belongs to another user"
    return "other users can write to it" if _owners and facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def fault(folder: Path) -> str:
    """Why files in `folder` may be somebody else's, or cannot be kept there: a clause; empty where all is well.

    A symbolic link counts as what it points to if it is our own, and as a fault otherwise.
    """
    try:
        link, facts = os.lstat(folder), os.stat(folder)
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISLNK(link.st_mode) and _foreign(link):
        return "it is a symbolic link of another user's"
    if not stat.S_ISDIR(facts.st_mode):
        return "it is not a folder"
    return _open_to(facts) or ("" if os.access(folder, os.W_OK | os.X_OK) else "it cannot be written to")


def _candidates() -> Iterator[Path]:
    """The cache folder, and where its files may lie instead."""
    with suppress(RuntimeError):
        yield cache_folder()
    with suppress(RuntimeError):
        yield Path.home() / ".cache" / "ebmcli"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"ebmcli-{user}"


def own_folder() -> Kept:
    """The cache folder, made with mode 0700 where it is missing; another one that is ours if it has a fault.

    The others are `~/.cache/ebmcli`, a folder of the user's in the temporary folder, and last a new one that this
    process removes at its end.

    Raises:
        OSError: there is no place for a folder at all.
    """
    instead = ""
    for folder in _candidates():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = fault(folder)
        except OSError as error:
            found = str(error.strerror)
        if not found:
            return Kept(folder.resolve(), instead)  # resolved: a link that is turned later changes nothing
        instead = instead or f"{folder}: {found}"
    last = Path(tempfile.mkdtemp(prefix="ebmcli-"))
    atexit.register(shutil.rmtree, last, ignore_errors=True)
    return Kept(last, instead)


def read(path: Path) -> bytes:
    """The whole of a file that is ours alone.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, is a link or no file, is too large, or another user may have written it.
    """
    names = ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY")  # not to follow a link, nor to wait for a pipe
    with open(path, "rb", opener=lambda p, _: os.open(p, os.O_RDONLY | sum(getattr(os, n, 0) for n in names))) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError("it is not a file")
        if why := _open_to(facts):
            raise OSError(why)
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(f"it has more than {LARGEST} bytes")
    return data


def keep(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all, whatever was there; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # made with mode 0600
    os.close(handle)
    temporary = Path(name)
    try:
        disk.write(temporary, data)
        disk.sync(temporary)
        if path.is_dir() and not path.is_symlink():  # nothing is renamed onto a folder
            remove_tree(path)
        disk.rename(temporary, path)
    finally:
        with suppress(OSError):  # after the renaming there is none
            temporary.unlink()
    disk.sync(path.parent)

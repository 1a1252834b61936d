"""Files that are written whole or not at all, and those that lines are added to.

A whole file is written under a temporary name beside its place and flushed to the disk, then renamed, and its folder
flushed too: after a kill or a power cut at any moment the old file is there or the new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ebmcli.errors import EBMError
from ebmcli.storage import disk

HINT = "is the disk full, or the folder read-only? make room, or choose another place"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what could not be written, where the system only says why.

    Raises:
        EBMError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise EBMError(f"cannot write {path}: {error.strerror or error}", HINT) from error


def temporary_name(path: Path) -> Path:
    """The name beside `path` under which this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` at the end, or vanishes if anything goes wrong.

    Folders on the way are made.

    Raises:
        EBMError: `path` is a folder, or cannot be written; what was there before is left as it was.
    """
    if path.is_dir():
        raise EBMError(f"cannot write {path}: it is a folder", "give the name of a file")
    temporary = temporary_name(path)
    with writing(path):
        make_folder(path.parent)
        try:
            yield temporary
            disk.sync(temporary)
            disk.rename(temporary, path)
            disk.sync(path.parent)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what counts
                if temporary.exists():
                    disk.remove(temporary)


def write_whole(path: Path, content: bytes | str) -> Path:
    """Write a file whole or not at all; returns its path. Text is written as UTF-8.

    Raises:
        EBMError: as `replacing`.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        disk.write(temporary, data)
    return path


def append(path: Path, text: str) -> None:
    """Add whole lines to a file; they are on the disk for certain after `sync`.

    Lines that could not be added whole are taken away again, as far as the disk lets us.

    Raises:
        EBMError: it cannot be written.
    """
    with writing(path):
        before = path.stat().st_size if path.exists() else 0
        try:
            disk.append(path, text.encode())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            raise


def sync(path: Path) -> None:
    """Return once a file that was added to is on the disk, its name too.

    Raises:
        EBMError: it cannot be flushed.
    """
    with writing(path):
        disk.sync(path)
        disk.sync(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder for good, all of whose content is on the disk already.

    Raises:
        EBMError: it cannot be renamed.
    """
    with writing(target):
        disk.rename(source, target)
        disk.sync(target.parent)
        if source.parent != target.parent:
            disk.sync(source.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, for good.

    Raises:
        OSError: it cannot be made.
    """
    missing = [p for p in (folder, *folder.parents) if not p.is_dir()]
    for path in reversed(missing):
        disk.make(path)
        disk.sync(path.parent)


def remove_tree(folder: Path, first: str = "") -> None:
    """Remove a folder and all in it, the file named `first` before the others.

    Raises:
        OSError: something in it cannot be removed.
    """
    for path in sorted(folder.iterdir(), key=lambda p: p.name != first):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            disk.remove(path)
    disk.remove(folder)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half written in a folder and in those inside it."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        with contextlib.suppress(OSError):  # in nobody's way: it is only not removed
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                disk.remove(path)

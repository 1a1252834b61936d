"""What files lie at a path: regular ones only, without those that systems and file managers make for themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain

_SYSTEM = frozenset(
    (
        # Storage servers
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
        # Windows
        *("$recycle.bin", "$extend", "recycler", "recycled", "system volume information", "found.000"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        # macOS and its servers; their other files begin with a dot or with __MACOSX
        *("network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r"),
        # Linux, Android, Python
        *("lost+found", "lost.dir", "__pycache__"),
    )
)
"""Lower-case names of folders and files that operating systems, file managers and storage servers make."""

_DEEPEST = 200
"""Folders below one another that are walked through; links may lead in a circle that no other test sees."""


class File(NamedTuple):
    """One file.

    Attributes:
        name: relative to the source, with `/`.
        path: where it is.
        suffix: lower case, with the dot.
        size: bytes.
        changed: time of the last change, ns.
    """

    name: str
    path: Path
    suffix: str
    size: int
    changed: int


@dataclass(frozen=True)
class Listing:
    """All files under a folder (recursive, sorted by name, hidden ones left out), or one file.

    Attributes:
        root: the folder or file.
        files: those that are looked at.
        is_folder: whether `root` is a folder.
        notes: what else was seen on the way, one line each: system folders, links that were followed.
    """

    root: Path
    files: tuple[File, ...]
    is_folder: bool
    notes: tuple[str, ...] = ()

    def head(self, count: int) -> bytes:
        """The first bytes of a single file; none of a folder."""
        if self.is_folder:
            return b""
        with open(self.root, "rb") as stream:
            return stream.read(count)


def readable(name: str) -> str:
    r"""A name or path with bytes that are no UTF-8 as escapes (`caf\xe9`), so that every file and stream takes it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_aside(name: str) -> bool:
    """Whether a file or folder of that name (no path) is hidden or made by a system, so that no data is in it."""
    return name.startswith(".") or name.lower() in _SYSTEM or name.startswith("__MACOSX")


def scan(path: Path) -> Listing:
    """List the files of `path`.

    Raises:
        EBMError: it holds no file, is an empty file, a named pipe or a device, or cannot be read.
    """
    walk = _Walk()
    try:
        is_folder = path.is_dir()
        if is_folder:
            files = tuple(sorted(walk.files(path), key=lambda file: file.name))
        else:
            status = check_plain(path)
            with open(path, "rb"):
                files = (_file(path.name, path, status),)
    except OSError as error:
        where = error.filename or path
        raise EBMError(f"cannot read {where}: {error.strerror or error}", "check its permissions") from error
    if not files:
        raise EBMError(f"{path} is an empty folder: expected images, received no files", "check the path")
    if not is_folder and not files[0].size:
        raise EBMError(f"{path} is empty: expected images, received 0 bytes", "copy or download it again")
    return Listing(path, files, is_folder, tuple(walk.notes()))


@dataclass
class _Walk:
    """One walk through a folder. Linked folders come last, so that no link changes the names of what it leads to."""

    seen: set[tuple[int, int]] = field(default_factory=set)
    links: list[tuple[str, Path]] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def files(self, root: Path) -> Iterator[File]:
        """The files under `root`, those behind links to folders too, each folder once."""
        # A link to the folder itself, or to one that it lies in, would bring in everything there.
        above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
        yield from self._tree(root, "")
        while self.links:
            waiting, self.links = sorted(self.links), []
            for name, path in waiting:
                if _identity(path) not in above | self.seen:
                    self.followed.append(name)
                    yield from self._tree(path, f"{name}/", linked=True)

    def notes(self) -> Iterator[str]:
        """What the walk went past, and where it followed links."""
        if self.aside:
            yield f"left alone, made by the system: {_some(sorted(set(self.aside)))}"
        if self.followed:
            yield f"linked folders are followed: {_some(self.followed)}"

    def _tree(self, top: Path, prefix: str, linked: bool = False) -> Iterator[File]:
        waiting = [(top, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            identity = _identity(folder)
            if linked and identity in self.seen:
                continue
            self.seen.add(identity)
            if prefix.count("/") > _DEEPEST:
                raise EBMError(f"{folder} lies more than {_DEEPEST} folders deep", "give a folder further down")
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if is_aside(entry.name):
                        if not entry.name.startswith((".", "__")) and entry.is_dir():
                            self.aside.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append((folder / entry.name, f"{name}/"))
                    elif entry.is_dir():
                        self.links.append((name, folder / entry.name))
                    elif entry.is_file():
                        yield _file(name, folder / entry.name, entry.stat())


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _file(name: str, path: Path, status: os.stat_result) -> File:
    suffix = os.path.splitext(name)[1].lower()
    return File(name, path, suffix, status.st_size, status.st_mtime_ns)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

"""What the readers of all layouts share: a listing of files, and an opened source of images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np

    Item = tuple[str, Path | bytes | np.ndarray]
    """One image: its name in messages, and an encoded file (or its bytes) or pixels uint8 `[h w]` or `[h w c]`."""

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "t10k", "testing", "val", "valid", "validation"),
}
"""The splits that can be asked for, and what files and folders of each are called."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Suffixes of the image files that are read, lower case."""

_SMALL = 64 * 2**20  # bytes up to which a single file is known by its content


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
    """All files under a folder (recursive, sorted by name, hidden ones left out), or one file."""

    root: Path
    files: tuple[File, ...]
    is_folder: bool

    def head(self, count: int) -> bytes:
        """The first bytes of a single file; none of a folder."""
        if self.is_folder:
            return b""
        with open(self.root, "rb") as stream:
            return stream.read(count)


@dataclass
class Source:
    """Recognised files, opened but not yet decoded.

    Attributes:
        layout: what they were recognised as.
        files: the files that are read.
        declared: number of images they declare, or how it is found where that means reading them.
        items: the first `n` images, in order; raises EBMError where a file breaks its own format.
        notes: what was assumed, for the user; `items` may add to it.
        stamp: what the content is, where that is known without files.
        revision: commit of a set of the Hub.
    """

    layout: str
    files: tuple[File, ...]
    declared: int | Callable[[], int]
    items: Callable[[int], Iterator[Item]]
    notes: list[str] = field(default_factory=list)
    stamp: str = ""
    revision: str = ""

    @property
    def count(self) -> int:
        """Number of images; found at first use."""
        if callable(self.declared):
            self.declared = self.declared()
        return self.declared

    def key(self, *settings: object) -> str:
        """Hash of what the files are and of `settings`: relative names, sizes and times of change.

        A single small file counts by its content, so that copies of it share one entry.
        """
        if self.stamp:
            return hashlib.sha256(json.dumps([self.stamp, settings]).encode()).hexdigest()[:32]
        [first, *others] = self.files
        if not others and first.size <= _SMALL:
            what: object = hashlib.sha256(first.path.read_bytes()).hexdigest()
        else:
            what = [(file.name, file.size, file.changed) for file in self.files]
        return hashlib.sha256(json.dumps([what, settings]).encode()).hexdigest()[:32]


def scan(path: Path) -> Listing:
    """List the files of `path`.

    Raises:
        EBMError: it holds no file, is an empty file, or cannot be read.
    """
    try:
        if path.is_dir():
            files = tuple(sorted(_walk(path, ""), key=lambda file: file.name))
        else:
            with open(path, "rb"):
                files = (_file(path.name, path, path.stat()),)
    except OSError as error:
        where = error.filename or path
        raise EBMError(f"cannot read {where}: {error.strerror or error}", "check its permissions") from error
    if not files:
        raise EBMError(f"{path} is an empty folder: expected images, received no files", "check the path")
    if not path.is_dir() and not files[0].size:
        raise EBMError(f"{path} is empty: expected images, received 0 bytes", "copy or download it again")
    return Listing(path, files, is_folder=path.is_dir())


def _walk(folder: Path, prefix: str) -> Iterator[File]:
    """All files under `folder`, without hidden ones, links to folders, and links that lead nowhere."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield _file(prefix + entry.name, folder / entry.name, entry.stat())


def _file(name: str, path: Path, status: os.stat_result) -> File:
    suffix = os.path.splitext(name)[1].lower()
    return File(name, path, suffix, status.st_size, status.st_mtime_ns)

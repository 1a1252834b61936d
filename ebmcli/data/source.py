"""What the readers of all layouts share: a listing of files, and an opened source of images."""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ebmcli.data.listing import File
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np

    Item = tuple[str, Path | bytes | np.ndarray]
    """One image: its name in messages, and an encoded file (or its bytes) or pixels uint8 `[h w]` or `[h w c]`."""

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "t10k", "testing", "val", "valid", "validation", "dev"),
}
"""The splits that can be asked for, and what files and folders of each are called."""

PICTURES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp"),
    *(".jfif", ".jpe", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".dib", ".avif", ".jp2", ".tga"),
)
"""Suffixes of the image files that are read, lower case."""

UNREAD = (
    *(".heic", ".heif", ".jxl", ".svg", ".eps", ".psd", ".ico", ".pdf", ".exr", ".hdr", ".pfm", ".fits", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".xcf", ".ai", ".apng", ".pcx", ".qoi"),
    *(".mp4", ".avi", ".mov", ".mkv", ".webm"),
)
"""Suffixes of pictures and films that are not read, so that leaving them out is said."""

DAMAGED = (
    # What the standard library's readers of archives raise on damaged files is not one class.
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, LookupError, ArithmeticError, MemoryError),
)
LARGEST = 256 * 2**20
"""Bytes of one encoded picture, beyond which it is none."""

_SMALL = 64 * 2**20  # bytes up to which a single file is known by its content


@dataclass
class Source:
    """Recognised files, opened but not yet decoded.

    Attributes:
        layout: what they were recognised as.
        files: the files that are read.
        declared: number of images they declare, or how it is found where that means reading them.
        items: the first `n` images, in order; raises EBMError where a file breaks its own format.
        notes: what was taken and assumed, for the user; `declared` and `items` may add to it.
        doubts: what was left out that may be missed, and what may be meant otherwise; they are said as warnings.
        stamp: what the content is, where that is known without files.
        revision: commit of a set of the Hub.
        reading: which way of reading the files this is, where an earlier version read the same ones otherwise.
    """

    layout: str
    files: tuple[File, ...]
    declared: int | Callable[[], int]
    items: Callable[[int], Iterator[Item]]
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    stamp: str = ""
    revision: str = ""
    reading: str = ""

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
        settings = (*settings, self.reading) if self.reading else settings
        if self.stamp:
            return hashlib.sha256(json.dumps([self.stamp, settings]).encode()).hexdigest()[:32]
        [first, *others] = self.files
        if not others and first.size <= _SMALL:
            what: object = hashlib.sha256(first.path.read_bytes()).hexdigest()
        else:
            what = [(file.name, file.size, file.changed) for file in self.files]
        return hashlib.sha256(json.dumps([what, settings]).encode()).hexdigest()[:32]


def kinds(names: Iterable[str]) -> list[str]:
    """What to say of the kinds of pictures that are read, where there are several: one line, or none."""
    counts = Counter(PurePosixPath(name).suffix.lower().lstrip(".") for name in names)
    if len(counts) < 2:
        return []
    return [", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())]


def unread(names: Iterable[str]) -> list[str]:
    """What to say of the pictures among `names` that are of kinds which are not read: one line, or none."""
    left = Counter(suffix for name in names if (suffix := PurePosixPath(name).suffix.lower()) in UNREAD)
    if not left:
        return []
    shares = ", ".join(f"{count:,} {kind}" for kind, count in left.most_common(4))
    return [f"{left.total():,} pictures of kinds that are not read are left out ({shares}): save them as png"]


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Around everything that unpacks `path`: what a damaged file makes its reader raise is one known error.

    Raises:
        EBMError: the file is truncated, damaged, or of a form that is not known.
    """
    try:
        yield
    except DAMAGED as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "the file is truncated or damaged; copy or download it again"
        if "password" in what:
            hint = "unpack it and give the folder"
        raise EBMError(f"cannot unpack {path}: {what}", hint) from error

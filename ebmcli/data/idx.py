"""Reader of IDX files, the format MNIST and its relatives were published in, gzipped or not."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ebmcli.data.archives import budget
from ebmcli.data.listing import File, Listing
from ebmcli.data.source import LARGEST, SPLITS, Source, unpacking
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_IMAGES = 0x00000803  # unsigned bytes in three dimensions: count, rows, columns
_HEADER = 16  # bytes
_NAME = re.compile(r"(?:.*[/-])?(?P<split>[a-z0-9]+)-images[-.]idx3-ubyte(?:\.gz)?")
_FILE = re.compile(r".*[-.]idx\d-ubyte(?:\.gz)?")
_GZIP = b"\x1f\x8b"


def recognise(listing: Listing) -> bool:
    """A file with an IDX name or the beginning of one, or a folder that holds files of images so named."""
    if listing.is_folder:
        return any(_NAME.fullmatch(file.name) for file in listing.files)
    if _FILE.fullmatch(listing.root.name):
        return True
    try:
        with _stream(listing.root) as stream:
            return stream.read(3) == b"\0\0\x08"
    except EBMError:
        return False


def open_source(listing: Listing, split: str) -> Source:
    """Open the file of `split`, header checked.

    Raises:
        EBMError: no file of that split, another magic number, no images, or a truncated file.
    """
    file = _choose(listing, split)
    with _stream(file.path) as stream:
        head = stream.read(_HEADER)
    magic = int.from_bytes(head[:4], "big")
    if magic != _IMAGES:
        what = "labels, not images" if magic == 0x00000801 else "not IDX images"
        raise EBMError(
            f"{file.path} is {what}: expected magic number 0x{_IMAGES:08x}, received 0x{magic:08x}",
            "give the file called ...-images-idx3-ubyte, or the folder that holds it",
        )
    if len(head) < _HEADER:
        raise _truncated(file.path, _HEADER, len(head))
    count, rows, columns = struct.unpack(">3I", head[4:])
    if not (count and rows and columns):
        raise EBMError(
            f"{file.path} holds no pixels: {count} images of {rows}×{columns} px",
            "copy or download the file again",
        )
    _check_size(file, count, rows, columns)

    def items(n: int) -> Iterator[Item]:
        yield from _items(file, n, (count, rows, columns))

    return Source("IDX images", (file,), count, items)


def _check_size(file: File, count: int, rows: int, columns: int) -> None:
    """Refuse what cannot be in the file before memory and disk are asked for it."""
    with open(file.path, "rb") as stream:
        packed = stream.read(2) == _GZIP
    claimed = _HEADER + count * rows * columns
    if rows * columns > LARGEST or claimed > (budget(file.size) if packed else file.size):
        if not packed and rows * columns <= LARGEST:
            raise _truncated(file.path, claimed, file.size)
        raise EBMError(
            f"{file.path} is damaged: its header claims {count:,} images of {rows:,}×{columns:,} px, "
            f"which {file.size:,} bytes cannot hold",
            "copy or download the file again",
        )


def _choose(listing: Listing, split: str) -> File:
    """The file of the split; a lone file that says nothing of splits is the training set."""
    named = [(file, _NAME.fullmatch(file.name)) for file in listing.files]
    if not listing.is_folder and (split == "train" or not named[0][1]):
        if split != "train":
            raise EBMError(f"{listing.root} has no split {split!r}: it is one file", "leave the split out")
        return listing.files[0]
    fitting = [file for file, match in named if match and match["split"] in SPLITS[split]]
    # The same set may lie there packed and unpacked: the unpacked file is read.
    unpacked = {file.name for file in fitting}
    fitting = [file for file in fitting if file.name.removesuffix(".gz") not in unpacked - {file.name}]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(file.name for file in fitting or [file for file, match in named if match])
    raise EBMError(
        f"{listing.root}: expected one IDX file of split {split!r}, received {len(fitting)} (there: {there})",
        "name the file itself, or another split",
    )


def _items(file: File, n: int, shape: tuple[int, int, int]) -> Iterator[Item]:
    import numpy as np

    count, rows, columns = shape
    size, done = rows * columns, 0
    with _stream(file.path) as stream:
        stream.read(_HEADER)
        while done < n:
            block = min(n - done, max(1, 2**20 // size))
            data = stream.read(block * size)
            if len(data) < block * size:
                raise _truncated(file.path, _HEADER + count * size, _HEADER + done * size + len(data))
            pixels = np.frombuffer(data, dtype=np.uint8).reshape(block, rows, columns)
            yield from ((f"{file.name}[{done + i}]", image) for i, image in enumerate(pixels))
            done += block
        if done == count and stream.read(1):
            raise EBMError(
                f"{file.path} is longer than its header says: expected {_HEADER + count * size:,} bytes",
                "its header is damaged; copy or download the file again",
            )


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it is gzipped, whatever its name says."""
    with unpacking(path), open(path, "rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        with gzip.open(raw) if packed else raw as stream:
            yield stream  # type: ignore[misc]


def _truncated(path: Path, expected: int, received: int) -> EBMError:
    message = f"{path} is truncated: expected {expected:,} bytes by its header, received {received:,}"
    return EBMError(message, "copy or download the file again")

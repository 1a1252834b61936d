"""Reader of CIFAR-10's binary records: `.bin` files, the folder of them, or `cifar-10-binary.tar.gz` as published.

A record is one byte of label and 3,072 of pixels, 32×32, all red ones first, then green, then blue.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ebmcli.data.archives import SUFFIXES, is_archive, members
from ebmcli.data.listing import Listing
from ebmcli.data.source import Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_RECORD = 1 + 3 * 32 * 32  # bytes
_BATCH = re.compile(r"(?:.*/)?(?P<name>(?P<part>data|test)_batch(?:_\d+)?)\.bin")
_PYTHON = re.compile(r"cifar-10-batches-py/")
_LARGEST = 2**28  # bytes of a batch
_TOGETHER = 2**29  # bytes of an archive's batches, which are held in memory
_AGAIN = "download cifar-10-binary.tar.gz again"


def recognise(listing: Listing) -> bool:
    """A batch, a folder of them, or an archive among whose first files is one."""
    if listing.is_folder:
        return any(_BATCH.fullmatch(file.name) for file in listing.files)
    if _BATCH.fullmatch(listing.root.name):
        return True
    if listing.files[0].suffix not in SUFFIXES or not is_archive(listing.root):
        return False
    try:
        first = [member.name for member in itertools.islice(members(listing.root), 4)]
    except EBMError:
        return False
    return any(_BATCH.fullmatch(name) or _PYTHON.match(name) for name in first)


def open_source(listing: Listing, split: str) -> Source:
    """The records of `split` in the order of the batches' names.

    Raises:
        EBMError: no batch of that split, a batch that is no whole number of records, or a damaged archive.
    """
    packed = not listing.is_folder and not _BATCH.fullmatch(listing.root.name)
    part = "data" if split == "train" else "test"
    wanted = [file for file in listing.files if (match := _BATCH.fullmatch(file.name)) and match["part"] == part]
    if not packed and not wanted:
        expected = "data_batch_1.bin" if part == "data" else "test_batch.bin"
        raise EBMError(
            f"{listing.root} has no split {split!r}: expected {expected}",
            _AGAIN,
        )

    def batches() -> list[tuple[str, int]]:
        """Name and records of each batch."""
        there = _packed(listing.root, part) if packed else ((f.name, f.size) for f in wanted)
        found = [(_check(listing.root, name, size), size // _RECORD) for name, size in there]
        if not found:
            raise EBMError(f"{listing.root} has no split {split!r}: no {part}_batch in it", _AGAIN)
        if packed and sum(records for _, records in found) * _RECORD > _TOGETHER:
            raise EBMError(f"{listing.root} holds far more than CIFAR-10 is, and is not read", _AGAIN)
        return sorted(found)

    def pixels() -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each batch, in the order of the names."""
        batches()  # what is too large is refused before it is read
        if packed:  # its members have an order of their own: a published archive's batches are 154 MB
            yield from sorted(_read(listing.root, part).items())
        else:
            for file in sorted(wanted, key=lambda file: file.name):
                yield file.name, file.path.read_bytes()

    def items(n: int) -> Iterator[Item]:
        import numpy as np

        done = 0
        for name, data in pixels():
            records = np.frombuffer(data, dtype=np.uint8).reshape(-1, _RECORD)[:, 1:]
            for number, image in enumerate(records.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)):
                if done == n:
                    return
                yield f"{name}[{number}]", image
                done += 1

    def count() -> int:
        return sum(records for _, records in batches())

    return Source("CIFAR-10 records", tuple(wanted) or listing.files, count, items)


def _packed(path: Path, part: str) -> Iterator[tuple[str, int]]:
    """Name and size of the batches of an archive."""
    for member in members(path):
        if _PYTHON.match(member.name):
            raise EBMError(
                f"{path} is the set as pickles, which are never loaded",
                "get the binary version: cifar-10-binary.tar.gz",
            )
        match = _BATCH.fullmatch(member.name)
        if match and match["part"] == part:
            yield member.name, member.size


def _read(path: Path, part: str) -> dict[str, bytes]:
    """The bytes of an archive's batches by name."""
    found = ((member, _BATCH.fullmatch(member.name)) for member in members(path))
    return {member.name: member.read() for member, match in found if match and match["part"] == part}


def _check(path: Path, name: str, size: int) -> str:
    if size <= 0 or size % _RECORD or size > _LARGEST:
        raise EBMError(
            f"{name} in {path} is damaged: expected records of {_RECORD:,} bytes, received {size:,} bytes", _AGAIN
        )
    return name

"""Reader of NumPy files: `.npy`, and `.npz` with one array or one called `images`. Nothing is unpickled."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from ebmcli.data.source import PICTURES, SPLITS, File, Listing, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np

    from ebmcli.data.source import Item

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_SUFFIXES = (".npz", ".npy")
_BROKEN = (EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError)
_SHAPES = "[n h w], [n h w c] or [n c h w] with c = 1, 3 or 4"
_RANGES = ((0.0, 1.0), (-1.0, 1.0))
_BLOCK = 2**21  # bytes read at once


def recognise(listing: Listing) -> bool:
    """A NumPy file by its name or content, or a folder that NumPy files fill more of than pictures do.

    So labels in an array beside a folder's pictures, or a preview picture beside an array, mislead nobody.
    """
    arrays = sum(file.size for file in listing.files if file.suffix in _SUFFIXES)
    pictures = sum(file.size for file in listing.files if file.suffix in PICTURES)
    return arrays > pictures or listing.head(6) == _NPY


def open_source(listing: Listing, split: str) -> Source:
    """Open the array of `split`: the only one, `images`, `x_train`/`x_test` or `train_images`/`test_images`.

    Raises:
        EBMError: no such array or split, a pickle, another shape or type, or a truncated file.
    """
    file = _choose_file(listing, split)
    member = _choose_member(file.path, split, listing.is_folder)
    where = f"{file.path}[{member}]" if member else str(file.path)
    with _stream(file.path, member) as stream:
        shape, _, dtype = _header(stream, where)
    if dtype.hasobject:
        raise EBMError(f"{where} holds Python objects, which are never unpickled", "save the images as uint8")
    if dtype.kind != "f" and dtype != "uint8":
        raise EBMError(
            f"{where}: expected uint8 in 0..255 or floats in [0, 1] or [-1, 1], received {dtype}",
            "convert the array, as with .astype('uint8')",
        )
    axes = _axes(shape)
    if axes is None or 0 in shape:
        raise EBMError(f"{where}: expected {_SHAPES}, received {list(shape)}", "reshape the array")
    notes: list[str] = []

    def items(n: int) -> Iterator[Item]:
        low, high = _range(file.path, member, where) if dtype.kind == "f" else (0.0, 0.0)
        if high:
            notes.append(f"floats recognised as [{low:g}, {high:g}]")
        done = 0
        for block in _blocks(file.path, member, where, n):
            if high:
                block = ((block.astype("float64") - low) * (255 / (high - low))).round().astype("uint8")
            for image in block.transpose(axes):
                yield f"{where}[{done}]", image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
                done += 1

    return Source(f"NumPy array {list(shape)} {dtype}", (file,), shape[0], items, notes)


def _choose_file(listing: Listing, split: str) -> File:
    """The only NumPy file of a folder, else the one called like the split or `images`."""
    files = [file for file in listing.files if file.suffix in _SUFFIXES] or list(listing.files)
    named = [file for file in files if file.path.stem in (*SPLITS[split], "images")]
    for choice in (files, named):
        if len(choice) == 1:
            return choice[0]
    there = ", ".join(file.name for file in files[:5])
    raise EBMError(
        f"{listing.root}: expected one NumPy file, received {len(files)} ({there})",
        "name the file itself",
    )


def _choose_member(path: Path, split: str, in_folder: bool) -> str:
    """Name of the array in an `.npz`; empty for an `.npy`."""
    with open(path, "rb") as stream:
        head = stream.read(6)
    names = [""]
    if head.startswith(_ZIP):
        with _unpacking(path), zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    elif head != _NPY:
        what = "a pickle, which is never loaded" if head[:1] == b"\x80" else f"bytes {head!r}"
        raise EBMError(f"{path}: expected a NumPy file, received {what}", "save it with numpy.save or savez")
    aliases = {form.format(alias) for alias in SPLITS[split] for form in ("x_{}", "{}_images")}
    labelled = [name for name in names if name in aliases]
    plain = ["images"] if "images" in names else names
    unlabelled = plain if split == "train" or (in_folder and path.stem in SPLITS[split]) else []
    for choice in (labelled, unlabelled):
        if len(choice) == 1:
            return choice[0]
    there = ", ".join(name or "one array" for name in names) or "none"
    raise EBMError(
        f"{path}: expected an array called images, or a single one, for split {split!r}, received {there}",
        "save the images under the key images",
    )


def _axes(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of axes that makes `[n h w]` or `[n h w c]`; where both fit, channels are last."""
    if len(shape) == 3:
        return (0, 1, 2)
    if len(shape) == 4 and shape[3] in (1, 3, 4):
        return (0, 1, 2, 3)
    if len(shape) == 4 and shape[1] in (1, 3, 4):
        return (0, 2, 3, 1)
    return None


def _range(path: Path, member: str, where: str) -> tuple[float, float]:
    """Which of the known ranges of floats the array fills; a pass over the whole of it."""
    import numpy as np

    low, high = math.inf, -math.inf
    for block in _blocks(path, member, where):
        # numpy's minimum carries a NaN on, Python's does not.
        low, high = float(np.minimum(low, block.min())), float(np.maximum(high, block.max()))
    for known in _RANGES:
        if known[0] <= low and high <= known[1]:
            return known
    raise EBMError(
        f"{where}: expected floats in [0, 1] or [-1, 1], received values from {low:g} to {high:g}",
        "scale them, or save them as uint8 in 0..255",
    )


def _blocks(path: Path, member: str, where: str, n: int | None = None) -> Iterator[np.ndarray]:
    """The first `n` rows of the array (all by default), a few at a time."""
    import numpy as np

    with _stream(path, member) as stream:
        shape, fortran, dtype = _header(stream, where)
        order: Literal["F", "C"] = "F" if fortran else "C"
        size = math.prod(shape[1:]) * dtype.itemsize
        # In Fortran order an image's pixels lie scattered over the file: it is read whole.
        step = shape[0] if fortran else max(1, _BLOCK // size)
        stop = shape[0] if n is None else n
        for start in range(0, shape[0] if fortran else stop, step):
            rows = min(step, shape[0] - start)
            data = stream.read(rows * size)
            if len(data) < rows * size:
                expected, received = shape[0] * size, start * size + len(data)
                raise EBMError(
                    f"{where} is truncated: expected {expected:,} bytes of pixels, received {received:,}",
                    "copy or download the file again",
                )
            block = np.frombuffer(data, dtype=dtype).reshape((rows, *shape[1:]), order=order)
            yield block[: stop - start]


@contextmanager
def _stream(path: Path, member: str) -> Iterator[IO[bytes]]:
    """The bytes of an `.npy`, be it a file or a member of an `.npz`."""
    with _unpacking(path):
        if not member:
            with open(path, "rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as packed:
                yield packed


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        hint = "the file is truncated or damaged; copy or download it again"
        raise EBMError(f"cannot unpack {path}: {error}", hint) from error


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type, from the beginning of an `.npy`."""
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        return readers[npy.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise EBMError(f"{where} is not a NumPy array: {error}", "save it with numpy.save or savez") from error

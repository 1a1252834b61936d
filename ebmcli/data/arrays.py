"""Reader of NumPy files: `.npy`, and `.npz` with one array of images. Nothing is unpickled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.data import npy, splits
from ebmcli.data.listing import File, Listing
from ebmcli.data.npy import Array
from ebmcli.data.source import PICTURES, SPLITS, Source
from ebmcli.errors import EBMError
from ebmcli.text import shortened

if TYPE_CHECKING:
    import numpy as np

    from ebmcli.data.source import Item

_SUFFIXES = (".npz", ".npy")
_SHAPES = "[n h w], [n h w c] or [n c h w] with c = 1, 3 or 4"
_RANGES = ((0.0, 1.0), (-1.0, 1.0))
_CHANNELS = (1, 3, 4)
_FLAT = {784: (28, 28), 3 * 32 * 32: (3, 32, 32), 3 * 64 * 64: (3, 64, 64)}
"""Rows that are read as planes: those of MNIST, and of CIFAR-10 and ImageNet made small, one colour after another."""
_NAMES = ("images", "image", "imgs", "img", "pictures", "x", "data", "pixels")
"""Names of an array of images beside others, lower case."""
_FORMS = ("x_{}", "{}_images")
"""Usual names of the array of a part."""
_OTHER_FORMS = ("{}_x", "{}_data", "{}")
"""Names that it has where no array is called `images` and there are others."""
_PIECE = 2**22  # values that are scaled at once


class Layout(NamedTuple):
    """How the rows of an array are images.

    Attributes:
        images: how many.
        row: shape of one of them as it is stored.
        axes: the order of axes that makes `[n h w]` or `[n h w c]`.
        note: what was assumed, for the user; empty where nothing was.
        doubt: what may be meant otherwise; empty where nothing may.
    """

    images: int
    row: tuple[int, ...]
    axes: tuple[int, ...]
    note: str = ""
    doubt: str = ""


def recognise(listing: Listing) -> bool:
    """A NumPy file by its name or content, or a folder that NumPy files fill more of than pictures do.

    So labels in an array beside a folder's pictures, or a preview picture beside an array, mislead nobody.
    """
    arrays = sum(file.size for file in listing.files if file.suffix in _SUFFIXES)
    pictures = sum(file.size for file in listing.files if file.suffix in PICTURES)
    return arrays > pictures or npy.is_array(listing.head(6))


def open_source(listing: Listing, split: str, column: str | None = None) -> Source:
    """Open the array of `split`, or the numbered files that hold one each.

    Args:
        listing: of the file or folder.
        split: "train" or "test".
        column: name of the array in an `.npz`; by default the only one, `images`, that of the part
            (`x_train`, `test_images`), or the only one that can be images.

    Raises:
        EBMError: no such array or split, a pickle, another shape or type, or a truncated file.
    """
    files = _choose_files(listing, split, column)
    arrays: list[Array] = []
    notes: list[str] = []
    for file in files:
        array, note = _choose_array(file, split, listing.is_folder, column)
        arrays.append(array)
        notes += [note] if note and note not in notes else []
    layouts = [_check(array) for array in arrays]
    first = arrays[0]
    odd = next((array for array in arrays if array.dtype.kind != first.dtype.kind), None)
    if odd:
        raise EBMError(f"{odd.where} has {odd.dtype}, {first.where} has {first.dtype}", "save all in one type")
    what = f"NumPy array {list(first.shape)} {first.dtype}"
    if len(files) > 1:
        what = f"{len(files)} NumPy files of arrays such as {list(first.shape)} {first.dtype}"
        notes.append(f"{files[0].name} to {files[-1].name} belong together")
    elif layouts[0].row == first.shape:
        what = f"one picture as a NumPy array {list(first.shape)} {first.dtype}"
    left = [file.name for file in listing.files if file.suffix in _SUFFIXES and file not in files]
    if left:
        notes.append(f"{len(left)} other NumPy files left alone ({', '.join(left[:3])})")
    notes += dict.fromkeys(layout.note for layout in layouts if layout.note)
    doubts = list(dict.fromkeys(layout.doubt for layout in layouts if layout.doubt))
    source = Source(what, tuple(files), sum(layout.images for layout in layouts), lambda n: iter(()), notes, doubts)
    source.items = lambda n: _items(arrays, layouts, n, source.notes)
    source.reading = f"array {column}" if column else ""
    return source


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """How an array of that shape holds images; None where it does not, or where that cannot be told."""
    n, *row = shape or (0,)
    if 0 in shape:
        return None
    if len(shape) == 2 and row[0] in _FLAT and n != row[0]:
        plane = _FLAT[row[0]]
        said = "×".join(str(side) for side in plane)
        axes = (0, 1, 2) if len(plane) == 2 else (0, 2, 3, 1)
        return Layout(n, plane, axes, f"rows of {row[0]:,} values are read as {said}, as in the usual sets")
    if len(shape) == 3 and shape[2] in _CHANNELS and shape[1] != shape[2]:
        return Layout(1, shape, (0, 1, 2, 3), f"{list(shape)} is one picture of {shape[0]}×{shape[1]} px")
    if len(shape) == 3:
        one = f"{list(shape)} is read as 3 grey pictures; one colour picture is saved as [1, 3, {shape[1]}, {shape[2]}]"
        return Layout(n, tuple(row), (0, 1, 2), doubt=one if n == 3 else "")
    if len(shape) == 4 and shape[3] in _CHANNELS:
        return Layout(n, tuple(row), (0, 1, 2, 3))
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return Layout(n, tuple(row), (0, 2, 3, 1))
    return None


def _check(array: Array) -> Layout:
    """The layout of an array of images.

    Raises:
        EBMError: another type or shape; the hint says what makes images of it and destroys nothing.
    """
    layout = layout_of(array.shape)
    if array.dtype.kind != "f" and array.dtype != "uint8":
        raise EBMError(
            f"{array.where}: expected uint8 in 0..255 or floats in [0, 1] or [-1, 1], received {array.dtype}",
            _type_hint(array),
        )
    if layout is None:
        raise EBMError(
            f"{array.where}: expected {_SHAPES}, received {shortened(list(array.shape), 60)}", _shape_hint(array.shape)
        )
    return layout


def _shape_hint(shape: tuple[int, ...]) -> str:
    """What makes images of an array of that shape."""
    size = shape[-1] if shape else 0
    if len(shape) == 2 and 0 not in shape:
        for channels, plane in ((1, ""), (3, "3, ")):
            side = math.isqrt(size // channels)
            if channels * side * side == size and side > 1:
                flat = f"for flat images reshape it with array.reshape(-1, {plane}{side}, {side})"
                return f"{flat}; for one grey picture with array[None]"
        return "for one grey picture reshape it with array[None]; flat images need their height and width"
    if len(shape) == 4 and shape[2] in _CHANNELS:
        return "bring the axis of images to the front with numpy.moveaxis(array, 3, 0)"
    return "reshape the array"


def _type_hint(array: Array) -> str:
    """What makes uint8 of an array, by the values that it has."""
    if array.dtype.kind == "b":
        return "save array.astype('uint8') * 255"
    if array.dtype.kind not in "iu" or layout_of(array.shape) is None:
        return "save the images as uint8, 0 black and 255 white"
    low, high = _span([array])
    if low >= 0 and high <= 1:
        return f"they are {low:g} to {high:g}: save array.astype('uint8') * 255"
    if low >= 0 and high <= 255:
        return f"they are {low:g} to {high:g}: save array.astype('uint8')"
    return _scaled(low, high)


def _scaled(low: float, high: float) -> str:
    """The line that brings values to 0..255."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return "take out what is no number, and save the images as uint8 in 0..255"
    shifted = "array" if low == 0 else f"(array - {low:g})" if low > 0 else f"(array + {-low:g})"
    return f"if {low:g} is black and {high:g} white, save ({shifted} * (255 / {high - low:g})).round().astype('uint8')"


def _choose_files(listing: Listing, split: str, column: str | None) -> list[File]:
    """The only NumPy file of a folder, the one called like the split or `images`, or numbered ones together."""
    files = [file for file in listing.files if file.suffix in _SUFFIXES] or list(listing.files)
    named = [file for file in files if file.path.stem in (*SPLITS[split], "images")]
    for choice in (files, named):
        if len(choice) == 1:
            return choice
    parts = [splits.part_of(str(PurePosixPath(file.name).with_suffix(""))) for file in files]
    own = [file for file, part in zip(files, parts, strict=True) if part == split or not any(parts)]
    groups: dict[str, list[File]] = {}
    for file in own if split == "train" or any(parts) else []:
        groups.setdefault(re.sub(r"\d+", "#", file.name), []).append(file)
    fitting = [group for group in groups.values() if _has_images(group[0], split, column)]
    if len(fitting) == 1:
        return sorted(fitting[0], key=lambda file: [int(part) for part in re.findall(r"\d+", file.name)])
    there = ", ".join(file.name for file in files[:5])
    raise EBMError(
        f"{listing.root}: expected one NumPy file, received {len(files)} ({there})",
        "name the file itself",
    )


def _has_images(file: File, split: str, column: str | None) -> bool:
    try:
        array, _ = _choose_array(file, split, True, column)
    except EBMError:
        return False
    return _may_be_images(array)


def _may_be_images(array: Array) -> bool:
    return (array.dtype.kind == "f" or array.dtype == "uint8") and layout_of(array.shape) is not None


def _choose_array(file: File, split: str, in_folder: bool, column: str | None) -> tuple[Array, str]:
    """The array of a file that holds the images, and what to say of the choice.

    Raises:
        EBMError: none or several may be meant; the message names them.
    """
    path, names = file.path, npy.names(file.path)
    there = ", ".join(name or "one array" for name in names) or "none"
    if column is not None:
        if column not in names:
            raise EBMError(f"{path} has no array {column!r}: it has {there}", "name one of these with `column`")
        return npy.open_array(path, column), ""
    called = [form.format(alias) for alias in SPLITS[split] for form in _FORMS]
    whole = split == "train" or (in_folder and splits.part_of(path.stem) == split)
    called += ["images", *(names if len(names) == 1 else ())] if whole else []
    called += [form.format(alias) for alias in SPLITS[split] for form in _OTHER_FORMS]
    for name in called:
        if name in names:
            return npy.open_array(path, name), ""
    if whole:
        fitting = [array for name in names if (array := _peek(path, name)) and _may_be_images(array)]
        known = [array for array in fitting if array.member.lower() in _NAMES]
        for choice in (fitting, known):
            if len(choice) == 1:
                return choice[0], f"array {choice[0].member} of {there}"
        if fitting:
            there = ", ".join(array.member for array in fitting) + "; --column NAME takes one of them"
    raise EBMError(
        f"{path}: expected an array called images, or a single one, for split {split!r}, received {there}",
        "save the images under the key images",
    )


def _peek(path: Path, name: str) -> Array | None:
    """An array beside others; None for one that cannot be read, which then is not the one that is meant."""
    try:
        return npy.open_array(path, name)
    except EBMError:
        return None


def _span(arrays: Sequence[Array]) -> tuple[float, float]:
    """The least and the greatest value; a pass over the whole of the arrays. Both are NaN where one value is."""
    import numpy as np

    low, high = math.inf, -math.inf
    for array in arrays:
        for block in npy.blocks(array):
            # numpy's minimum carries a NaN on, Python's does not.
            low, high = float(np.minimum(low, block.min())), float(np.maximum(high, block.max()))
    return low, high


def _range(arrays: Sequence[Array]) -> tuple[float, float]:
    """Which of the known ranges of floats the arrays fill."""
    low, high = _span(arrays)
    for known in _RANGES:
        if known[0] <= low and high <= known[1]:
            return known
    hint = _scaled(low, high)
    if low >= 0 and 1 < high <= 255:
        hint = f"if 255 is white, save array.round().astype('uint8'); {hint}"
    raise EBMError(
        f"{arrays[0].where}: expected floats in [0, 1] or [-1, 1], received values from {low:g} to {high:g}", hint
    )


def _items(arrays: Sequence[Array], layouts: Sequence[Layout], n: int, notes: list[str]) -> Iterator[Item]:
    """The first `n` images of all arrays, in their order."""
    low, high = _range(arrays) if arrays[0].dtype.kind == "f" else (0.0, 0.0)
    if high:
        notes.append(f"floats recognised as [{low:g}, {high:g}]")
    left = n
    for array, layout in zip(arrays, layouts, strict=True):
        rows = array._replace(shape=(1, *array.shape)) if layout.row == array.shape else array
        done = 0
        for block in npy.blocks(rows, left):
            pixels = _scale(block, low, high) if high else block
            for image in pixels.reshape(len(block), *layout.row).transpose(layout.axes):
                yield f"{array.where}[{done}]", image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
                done += 1
        left -= done
        if not left:
            return


def _scale(block: np.ndarray, low: float, high: float) -> np.ndarray:
    """Floats in [low, high] as uint8 in 0..255; a few at a time, for they are float64 on the way."""
    import numpy as np

    flat, pixels = block.reshape(-1), np.empty(block.shape, np.uint8)
    out = pixels.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype("float64")
        out[start : start + _PIECE] = ((piece - low) * (255 / (high - low))).round().astype("uint8")
    return pixels

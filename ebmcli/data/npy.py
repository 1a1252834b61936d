"""Arrays in `.npy` and `.npz` files: what their headers say, checked, and their rows a few at a time."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from ebmcli.data.archives import budget
from ebmcli.data.source import LARGEST, unpacking
from ebmcli.errors import EBMError
from ebmcli.text import shortened

if TYPE_CHECKING:
    import numpy as np

_NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"
_HEADER = 2**17  # bytes that a header has at most
_BLOCK = 2**21  # bytes read at once
_WHOLE = 2**29  # bytes of an array that has to be in memory as a whole
_AGAIN = "copy or download the file again"


class Array(NamedTuple):
    """One array, of which only the header was read.

    Attributes:
        path: of the file.
        member: its name in an `.npz`; empty for an `.npy`.
        shape: of the array.
        fortran: whether the first axis changes fastest in the file.
        dtype: of the values.
        start: bytes before the values.
    """

    path: Path
    member: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def where(self) -> str:
        """File and name of the array, for messages."""
        return f"{self.path}[{self.member}]" if self.member else str(self.path)

    @property
    def row(self) -> int:
        """Bytes of one row: all that one index of the first axis names."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def names(path: Path) -> list[str]:
    """Names of the arrays in a file; one empty name for an `.npy`.

    Raises:
        EBMError: it is no NumPy file, or a damaged one.
    """
    with open(path, "rb") as stream:
        head = stream.read(6)
    if head == _NPY:
        return [""]
    if head.startswith(ZIP):
        with unpacking(path), zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    what = "a pickle, which is never loaded" if head[:1] == b"\x80" else f"bytes {head!r}"
    raise EBMError(f"{path}: expected a NumPy file, received {what}", "save it with numpy.save or savez")


def is_array(head: bytes) -> bool:
    """Whether a file that begins so is an `.npy`."""
    return head.startswith(_NPY)


def open_array(path: Path, member: str = "") -> Array:
    """Read the header of an array and hold what it claims against the size of the file.

    Raises:
        EBMError: no header, one that no array has, Python objects, or fewer bytes than the shape asks for.
    """
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    where = f"{path}[{member}]" if member else str(path)
    with _stream(path, member) as stream:
        head = io.BytesIO(stream.read(_HEADER))  # a header may claim any length, and memory would be asked for it
        try:
            version = npy.read_magic(head)
            if version not in readers:
                raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
            shape, fortran, dtype = readers[version](head)
        except Exception as error:  # what NumPy raises on a damaged header is not one class
            what = " ".join(str(error).split())[:200] or type(error).__name__
            raise EBMError(f"{where} is not a NumPy array: {what}", "save it with numpy.save or savez") from error
        found = Array(path, member, tuple(int(side) for side in shape), fortran, dtype, head.tell())
    if dtype.hasobject:
        raise EBMError(f"{where} holds Python objects, which are never unpickled", "save the images as uint8")
    if any(side < 0 for side in found.shape):
        raise EBMError(f"{where} is damaged: its header claims the shape {shortened(list(found.shape), 60)}", _AGAIN)
    expected, received = math.prod(found.shape) * dtype.itemsize, _size(path, member) - found.start
    if received < expected:
        raise _truncated(found, expected, received)
    return found


def blocks(array: Array, n: int | None = None) -> Iterator[np.ndarray]:
    """The first `n` rows of the array (all by default), a few at a time.

    Raises:
        EBMError: a row, or an array that cannot be read in parts, is too large for memory; a truncated file.
    """
    import numpy as np

    rows, size = array.shape[0], array.row
    if size > LARGEST or (array.fortran and array.member and rows * size > _WHOLE):
        raise EBMError(
            f"{array.where}: {list(array.shape)} {array.dtype} is too large to be read in parts",
            "save it in C order, one image a row, with numpy.save",
        )
    stop, step = rows if n is None else min(n, rows), max(1, _BLOCK // max(1, size))
    if array.fortran:  # an image's pixels lie scattered over the file
        whole = _whole(array)
        for start in range(0, stop, step):
            yield np.ascontiguousarray(whole[start : min(start + step, stop)])
        return
    with _stream(array.path, array.member) as stream:
        stream.read(array.start)
        for start in range(0, stop, step):
            count = min(step, stop - start)
            data = stream.read(count * size)
            if len(data) < count * size:
                raise _truncated(array, rows * size, start * size + len(data))
            yield np.frombuffer(data, dtype=array.dtype).reshape((count, *array.shape[1:]))


def _whole(array: Array) -> np.ndarray:
    import numpy as np

    if not array.member:
        return np.memmap(array.path, array.dtype, "r", array.start, array.shape, "F")
    with _stream(array.path, array.member) as stream:
        stream.read(array.start)
        data = stream.read(array.shape[0] * array.row)
    if len(data) < array.shape[0] * array.row:
        raise _truncated(array, array.shape[0] * array.row, len(data))
    return np.frombuffer(data, dtype=array.dtype).reshape(array.shape, order="F")


def _truncated(array: Array, expected: int, received: int) -> EBMError:
    message = f"{array.where} is truncated: expected {expected:,} bytes of pixels, received {max(0, received):,}"
    return EBMError(message, _AGAIN)


def _size(path: Path, member: str) -> int:
    """Bytes of an array with its header.

    Raises:
        EBMError: it would unpack to more than images do.
    """
    size = path.stat().st_size
    if not member:
        return size
    with unpacking(path), zipfile.ZipFile(path) as archive:
        claimed = archive.getinfo(f"{member}.npy").file_size
    if claimed > budget(size):
        raise EBMError(
            f"{path}[{member}] would unpack to far more than images are ({claimed:,} bytes) and is not read", _AGAIN
        )
    return claimed


@contextmanager
def _stream(path: Path, member: str) -> Iterator[IO[bytes]]:
    """The bytes of an `.npy`, be it a file or a member of an `.npz`."""
    with unpacking(path):
        if not member:
            with open(path, "rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as packed:
                yield packed

"""The cache of decoded images: uint8 arrays `[n c h w]` in `.npy` files, each with a small JSON beside it.

An entry is written under a temporary name, flushed to disk, then renamed, JSON last; an entry without its
JSON does not exist. Two processes that decode the same files at once therefore each write their own file,
and the later rename replaces equal content by equal content.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np

_HEADER = 128  # bytes; an .npy header of fixed length, so that the count can be written last
_STALE = 24 * 3600.0  # seconds after which a temporary file belongs to a process that was killed


def folder() -> Path:
    """Folder `data` in `$EBM_CACHE`, else in `$XDG_CACHE_HOME/ebmcli`, else in `~/.cache/ebmcli`."""
    own, xdg = os.environ.get("EBM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    base = Path(own) if own else (Path(xdg) if xdg else Path("~/.cache")) / "ebmcli"
    return base.expanduser() / "data"


def find(key: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """The entry of that key, memory-mapped read-only, and its JSON; None where no whole one is."""
    import numpy as np

    array_path, meta_path = _paths(key)
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        array = np.load(array_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    whole = array.dtype == np.uint8 and isinstance(meta, dict) and list(array.shape) == meta.get("shape")
    return (array, meta) if whole else None


class Writer:
    """Takes blocks `[b c h w]` uint8 one after another; `finish` makes the array of them.

    It writes sequentially instead of through a memory map: a full disk is then an error, not a crash.
    """

    def __init__(self, stream: IO[bytes], item: tuple[int, int, int], path: Path | None, need: int) -> None:
        self._stream, self._item, self._path, self._need = stream, item, path, need
        self.count = 0
        self._write(_npy_header(0, item))

    @property
    def on_disk(self) -> bool:
        """False where the cache folder cannot be written and the array is kept in memory."""
        return self._path is not None

    def append(self, block: np.ndarray) -> None:
        """Add images `[b c h w]` uint8."""
        import numpy as np

        if len(block):
            self._write(np.ascontiguousarray(block).data.cast("B"))
            self.count += len(block)

    def finish(self, key: str, meta: dict[str, Any]) -> np.ndarray:
        """Publish the images under `key`, `meta` beside them; returns them read-only, `[n c h w]` uint8."""
        import numpy as np

        shape = (self.count, *self._item)
        self._stream.seek(0)
        self._write(_npy_header(self.count, self._item))
        if self._path is None:
            assert isinstance(self._stream, io.BytesIO)
            return np.frombuffer(self._stream.getvalue(), dtype=np.uint8, offset=_HEADER).reshape(shape)
        array_path, meta_path = _paths(key)
        note = self._path.with_suffix(".json.tmp")
        try:
            _sync(self._stream)
            self._stream.close()
            with open(note, "w", encoding="utf-8") as stream:
                json.dump({"shape": shape, **meta}, stream, indent=1)
                _sync(stream)
            _replace(self._path, array_path)
            _replace(note, meta_path)
        except OSError as error:
            raise _full(self._path.parent, self._need, str(error.strerror or error)) from error
        return np.load(array_path, mmap_mode="r", allow_pickle=False)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._stream.write(data)
        except OSError as error:
            raise _full(folder(), self._need, str(error.strerror or error)) from error


@contextmanager
def writer(count: int, item: tuple[int, int, int]) -> Iterator[Writer]:
    """A `Writer` for at most `count` images of shape `item` (c, h, w); what it leaves unfinished is removed.

    Where the cache folder cannot be written the images go to memory (`Writer.on_disk` is False).

    Raises:
        EBMError: the disk is full, or would be.
    """
    need, where = count * item[0] * item[1] * item[2] + _HEADER, folder()
    path = where / f".{uuid.uuid4().hex}.npy.tmp"
    try:
        where.mkdir(parents=True, exist_ok=True)
        _sweep(where)
        stream = open(path, "w+b")  # noqa: SIM115 (closed below, or by finish)
    except OSError:
        yield Writer(io.BytesIO(), item, None, need)
        return
    try:
        free = shutil.disk_usage(where).free
        if free < need:
            raise _full(where, need, f"{free / 1e6:,.0f} MB are free")
        yield Writer(stream, item, path, need)
    finally:
        with suppress(OSError):
            stream.close()
        for left in (path, path.with_suffix(".json.tmp")):
            left.unlink(missing_ok=True)


def _paths(key: str) -> tuple[Path, Path]:
    return folder() / f"{key}.npy", folder() / f"{key}.json"


def _full(where: Path, need: int, received: str) -> EBMError:
    return EBMError(
        f"cannot keep the decoded images in {where}: expected room for {need / 1e6:,.0f} MB, {received}",
        "make room, or set EBM_CACHE to a folder on another disk",
    )


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _replace(source: Path, target: Path) -> None:
    """Rename over; where the target is held open (Windows) the equal file that is there stays."""
    try:
        os.replace(source, target)
    except PermissionError:
        if not target.exists():
            raise


def _sweep(where: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for path in where.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _npy_header(count: int, item: tuple[int, int, int]) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(count, *item)}, }}"
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11).encode() + b"\n"

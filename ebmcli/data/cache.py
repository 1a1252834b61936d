"""The cache of decoded images: uint8 arrays `[n c h w]` in `.npy` files, each with a small JSON beside it.

An entry is written under a hidden name, flushed to disk, then renamed, JSON last; an entry without its JSON does not
exist. What an interrupted process has written is gone on with: a journal says up to where it is sound. One process
at a time writes an entry, under a lock that ends with the process; another one waits for it and takes its result.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain
from ebmcli.storage.private import cache_folder
from ebmcli.storage.reading import read_json

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("ebmcli.data")

_HEADER = 128  # bytes; an .npy header of fixed length, so that the count can be written last
_DIGEST = 32  # bytes of one item's digest
_STALE = 24 * 3600.0  # seconds after which a temporary file belongs to a process that was killed
_FORGOTTEN = 14 * _STALE  # seconds after which nobody goes on with what was interrupted
_JOURNAL_EVERY = 2048  # items between two entries of the journal
_MEMORY = 2**30  # bytes that are kept in memory at most where the cache cannot be written


def folder() -> Path:
    """Folder `data` in `$EBM_CACHE`, else in `$XDG_CACHE_HOME/ebmcli`, else in `~/.cache/ebmcli`."""
    return cache_folder() / "data"


class Meta(TypedDict):
    """What is kept beside an array: what an `ImageSet` says of itself."""

    shape: list[int]
    """of the array"""
    identity: str
    skipped: list[str]
    notes: list[str]
    name: NotRequired[str]
    split: NotRequired[str]
    revision: NotRequired[str]
    reasons: NotRequired[list[str]]
    later: NotRequired[tuple[list[str], list[str]]]
    """notes and doubts that only decoding shows"""
    remarks: NotRequired[dict[str, int]]


class Kept(NamedTuple):
    """An entry of the cache."""

    key: str
    size: int
    """bytes on the disk"""
    meta: dict[str, Any]


def entries() -> list[Kept]:
    """All whole entries, the newest last."""
    found = []
    for note in folder().glob("*.json"):
        kept = find(note.stem)
        if kept:
            with suppress(OSError):  # taken out by another process meanwhile
                size, written = note.with_suffix(".npy").stat().st_size, note.stat().st_mtime
                found.append((written, Kept(note.stem, size, kept[1])))
    return [kept for _, kept in sorted(found, key=lambda pair: pair[0])]


def remove(key: str) -> None:
    """Take an entry out, JSON first, so that no half of it is ever taken for whole."""
    array_path, meta_path = _paths(key)
    with _writing(0):
        meta_path.unlink(missing_ok=True)
        array_path.unlink(missing_ok=True)


def remove_unfinished() -> int:
    """Take out what interrupted processes have left; returns how many bytes. What one is writing now stays."""
    freed = 0
    for path in [*folder().glob(".*.part"), *folder().glob(".*.tmp")]:
        with suppress(OSError), open(path, "r+b") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in (path, *_beside(path)):
                if left.exists():
                    freed += left.stat().st_size
                    left.unlink()
    return freed


def find(key: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """The entry of that key, memory-mapped read-only, and its JSON; None where no whole one is."""
    import numpy as np

    array_path, meta_path = _paths(key)
    try:
        meta = read_json(meta_path, Meta)
        check_plain(array_path)
        array = np.load(array_path, mmap_mode="r", allow_pickle=False)
    except Exception:  # what NumPy raises on a damaged file is not one class; a damaged entry is decoded anew
        return None
    whole = array.dtype == np.uint8 and array.ndim == 4 and list(array.shape) == meta["shape"]
    return (array, dict(meta)) if whole else None


class Writer:
    """Takes blocks `[b c h w]` uint8 one after another; `finish` makes the array of them.

    It writes sequentially instead of through a memory map: a full disk is then an error, not a crash.

    Attributes:
        items: how many items of the source were taken so far, by an interrupted process too.
        count: how many images of them are kept.
        bad: name and reason of those that could not be decoded.
        remarks: what was done with how many of them.
    """

    def __init__(self, stream: IO[bytes], item: tuple[int, int, int], path: Path | None, need: int) -> None:
        self._stream, self._item, self._path, self._need = stream, item, path, need
        self.items = self.count = self._noted = 0
        self.bad: dict[str, str] = {}
        self.remarks: Counter[str] = Counter()
        self._identity = hashlib.sha256()
        self._sums: IO[bytes] | None = None
        if path is not None:
            self._sums_path, self._journal_path = _beside(path)
            self._go_on()
        if not self.items:
            self._stream.seek(0)
            self._stream.truncate()
            self._write(self._stream, _npy_header(0, item))

    @property
    def on_disk(self) -> bool:
        """False where the cache folder cannot be written and the array is kept in memory."""
        return self._path is not None

    @property
    def identity(self) -> str:
        """16 hexadecimal digits: hash of the digests of all items so far."""
        return self._identity.hexdigest()[:16]

    def append(self, block: np.ndarray, digests: bytes, bad: dict[str, str], remarks: Counter[str]) -> None:
        """Add images `[b c h w]` uint8, the digests of all items (32 bytes each), those left out, and remarks."""
        import numpy as np

        if len(block):
            self._write(self._stream, np.ascontiguousarray(block).data.cast("B"))
        if self._sums is not None:
            self._write(self._sums, digests)
        self._identity.update(digests)
        self.bad.update(bad)
        self.remarks.update(remarks)
        self.count += len(block)
        self.items += len(digests) // _DIGEST
        if self.items - self._noted >= _JOURNAL_EVERY:
            self.note()

    def note(self) -> None:
        """Write down how far it has come, after that much is on the disk."""
        if self._path is None or self._sums is None:
            return
        with _writing(self._need):
            _sync(self._stream)
            _sync(self._sums)
            temporary = self._journal_path.with_suffix(".journal.tmp")
            with open(temporary, "w", encoding="utf-8") as stream:
                kept = {"items": self.items, "count": self.count, "bad": self.bad, "remarks": self.remarks}
                json.dump(kept, stream)
                _sync(stream)
            os.replace(temporary, self._journal_path)
        self._noted = self.items

    def finish(self, key: str, meta: dict[str, Any]) -> np.ndarray:
        """Publish the images under `key`, `meta` beside them; returns them read-only, `[n c h w]` uint8."""
        import numpy as np

        shape = (self.count, *self._item)
        self._stream.seek(0)
        self._write(self._stream, _npy_header(self.count, self._item))
        if self._path is None:
            assert isinstance(self._stream, io.BytesIO)
            return np.frombuffer(self._stream.getvalue(), dtype=np.uint8, offset=_HEADER).reshape(shape)
        array_path, meta_path = _paths(key)
        note = self._path.with_name(f".{uuid.uuid4().hex}.json.tmp")
        with _writing(self._need):
            try:
                _sync(self._stream)
                with open(note, "w", encoding="utf-8") as stream:
                    json.dump({"shape": shape, **meta}, stream, indent=1)
                    _sync(stream)
                _replace(self._path, array_path)
                _replace(note, meta_path)
            finally:
                note.unlink(missing_ok=True)
        return np.load(array_path, mmap_mode="r", allow_pickle=False)

    def close(self) -> None:
        """Close the files."""
        for stream in (self._sums, self._stream):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _go_on(self) -> None:
        """Take up what an interrupted process has left, as far as its journal says that it is sound."""
        size = self._item[0] * self._item[1] * self._item[2]
        try:
            self._sums = open(self._sums_path, "r+b" if self._sums_path.exists() else "w+b")  # noqa: SIM115
            journal = json.loads(self._journal_path.read_text(encoding="utf-8"))
            items, count, bad = int(journal["items"]), int(journal["count"]), dict(journal["bad"])
            remarks = Counter(dict(journal.get("remarks", {})))
            digests = self._sums.read(items * _DIGEST)
            end = _HEADER + count * size
            if len(digests) == items * _DIGEST and self._stream.seek(0, os.SEEK_END) >= end and count <= items:
                self._stream.truncate(end)
                self._stream.seek(end)
                self._sums.truncate(len(digests))
                self.items, self.count, self.bad, self._noted = items, count, bad, items
                self.remarks = remarks
                self._identity.update(digests)
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if self._sums is not None:
            self._sums.seek(0)
            self._sums.truncate()

    def _write(self, stream: IO[bytes], data: bytes | memoryview) -> None:
        with _writing(self._need):
            stream.write(data)


@contextmanager
def writer(key: str, count: int, item: tuple[int, int, int]) -> Iterator[Writer | None]:
    """A `Writer` for at most `count` images of shape `item` (c, h, w), which goes on where an earlier one ended.

    None where another process has just made the entry. What fails leaves nothing behind; what is interrupted stays,
    to be gone on with. Where the cache folder cannot be written the images go to memory (`Writer.on_disk`).

    Raises:
        EBMError: the disk is full, or would be; or the folder cannot be written and memory would not do.
    """
    need, where = count * item[0] * item[1] * item[2] + _HEADER, folder()
    try:
        where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the compiled kernel is kept there too
        where.mkdir(exist_ok=True)
        _sweep(where)
        opened = _open(where / f".{key}.part", key)
    except OSError as error:
        if need > _MEMORY:
            raise EBMError(
                f"the cache folder {where} cannot be written: {error.strerror or error}; the decoded images take "
                f"{need / 1e6:,.0f} MB, too much for memory",
                "set EBM_CACHE to a folder on a disk with room",
            ) from error
        log.warning(f"the cache folder {where} cannot be written ({error.strerror}): the images are kept in memory")
        yield Writer(io.BytesIO(), item, None, need)
        return
    if opened is None:
        yield None
        return
    path, stream = opened
    sink: Writer | None = None
    try:
        free = shutil.disk_usage(where).free
        if free + os.fstat(stream.fileno()).st_size < need:
            raise _full(where, need, f"{free / 1e6:,.0f} MB are free")
        sink = Writer(stream, item, path, need)
        yield sink
    except Exception:
        _drop(path)
        raise
    except BaseException:  # Ctrl-C: the next start goes on
        if sink is not None:
            with suppress(EBMError):
                sink.note()
        raise
    else:
        _drop(path)
    finally:
        if sink is not None:
            sink.close()
        stream.close()


def _open(path: Path, key: str) -> tuple[Path, IO[bytes]] | None:
    """The unfinished entry, locked; None if another process finished it while this one waited."""
    if fcntl is None:  # without locks every process writes its own, and nothing is gone on with
        path = path.with_name(f".{uuid.uuid4().hex}.part")
        return path, open(path, "w+b")
    while True:
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is decoding these images; waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            stream.close()
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
            path = path.with_name(f".{uuid.uuid4().hex}.part")  # a file system without locks
            return path, open(path, "w+b")
        except BaseException:
            stream.close()
            raise
        if find(key):
            # Made by the one that held the lock; a file that it left no name for goes with this handle.
            with suppress(OSError):
                if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    _drop(path)
            stream.close()
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return path, stream
        stream.close()  # renamed or removed meanwhile


def _paths(key: str) -> tuple[Path, Path]:
    return folder() / f"{key}.npy", folder() / f"{key}.json"


def _beside(path: Path) -> tuple[Path, Path]:
    """Digests and journal of an unfinished entry."""
    return path.with_suffix(".sums"), path.with_suffix(".journal")


def _drop(path: Path) -> None:
    for left in (path, *_beside(path)):
        with suppress(OSError):
            left.unlink(missing_ok=True)


@contextmanager
def _writing(need: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _full(folder(), need, str(error.strerror or error)) from error


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
    """Remove temporary files of processes that were killed, and what nobody has gone on with for two weeks."""
    for pattern, age in (("*.tmp", _STALE), ("*.part", _FORGOTTEN), ("*.sums", _FORGOTTEN), ("*.journal", _FORGOTTEN)):
        for path in where.glob(f".{pattern}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > age:
                    path.unlink()


def _npy_header(count: int, item: tuple[int, int, int]) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(count, *item)}, }}"
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11).encode() + b"\n"

"""Archives (.tar, .tar.gz, .tgz, .zip) read as they are: nothing is unpacked to the disk, and bombs are refused."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.data.folders import choose
from ebmcli.data.source import PICTURES, Listing, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

SUFFIXES = (".tgz", ".tar", ".gz", ".zip")
_TAR = 257  # where a tar says what it is
_LARGEST = 256 * 2**20  # bytes of one member that is read
_RATIO = 200  # times the size of the archive that its members may declare together
_FREE = 256 * 2**20  # bytes they may declare in any case
_MEMBERS = 5_000_000


class Member(NamedTuple):
    """A file in an archive; `read` gives its bytes, before the next one is asked for."""

    name: str
    size: int
    read: Callable[[], bytes]


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, gzipped or not, by its beginning."""
    with open(path, "rb") as stream:
        head = stream.read(_TAR + 5)
    if head.startswith(b"PK\x03\x04") or head[_TAR:] == b"ustar":
        return True
    if not head.startswith(b"\x1f\x8b"):
        return False
    unpack = zlib.decompressobj(31)
    try:
        with open(path, "rb") as stream:
            return unpack.decompress(stream.read(2**16), _TAR + 5)[_TAR:] == b"ustar"
    except zlib.error:
        return False


def members(path: Path) -> Iterator[Member]:
    """The regular files of an archive in its order, read in one pass.

    Raises:
        EBMError: a name that leads out of the archive, sizes beyond all measure, or a damaged archive.
    """
    budget = _RATIO * path.stat().st_size + _FREE
    walk = _zip if zipfile.is_zipfile(path) and not _is_tar(path) else _tar
    with _reading(path):
        for number, member in enumerate(walk(path)):
            parts = member.name.replace("\\", "/").split("/")
            if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
                raise EBMError(
                    f"{path} has a file that leads out of it ({member.name[:80]!r}) and is not read",
                    "get the archive from where it was published",
                )
            budget -= member.size
            picture = Path(member.name).suffix.lower() in PICTURES
            if budget < 0 or number >= _MEMBERS or (picture and member.size > _LARGEST):
                raise EBMError(
                    f"{path} would unpack to far more than images are ({member.name[:80]}: {member.size:,} bytes) "
                    "and is not read",
                    "get the archive from where it was published",
                )
            yield member._replace(read=partial(_guarded, path, member.read))


def recognise(listing: Listing) -> bool:
    """One archive file."""
    return not listing.is_folder and listing.files[0].suffix in SUFFIXES and is_archive(listing.root)


def open_source(listing: Listing, split: str) -> Source:
    """The pictures of an archive in its order; of one with `train/` and `test/` those of `split`.

    Raises:
        EBMError: there are none, or as `members` and `ebmcli.data.folders.choose`.
    """
    path = listing.root

    def names() -> list[str]:
        found = [member.name for member in members(path) if _is_picture(member.name)]
        if not found:
            raise EBMError(f"{path} holds no images", "expected jpg, png, webp or bmp files in it")
        chosen = choose(path, found, split)
        return [found[i] for i in chosen]

    known: list[str] = []

    def count() -> int:
        known[:] = names()
        return len(known)

    def items(n: int) -> Iterator[Item]:
        wanted = set((known or names())[:n])
        for member in members(path):
            if member.name in wanted:
                wanted.discard(member.name)
                yield member.name, member.read()
            if not wanted:
                return

    return Source("archive of images", listing.files, count, items)


def _is_picture(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith((".", "__MACOSX")) and part != "." for part in parts)
    return not hidden and name.lower().endswith(PICTURES)


def _tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for entry in archive:
            if not entry.isfile():  # folders, links and devices are left alone
                continue
            yield Member(entry.name.removeprefix("./"), entry.size, partial(_bytes, archive, entry))
            archive.members = []  # type: ignore[attr-defined] # all that it remembers would grow with the archive


def _bytes(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry)
    data = stream.read() if stream else b""
    if len(data) < entry.size:
        raise EOFError("it ends early")
    return data


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue

            def read(entry: zipfile.ZipInfo = entry) -> bytes:
                with archive.open(entry) as stream:
                    return stream.read(entry.file_size + 1)

            yield Member(entry.filename, entry.file_size, read)


def _is_tar(path: Path) -> bool:
    with open(path, "rb") as stream:
        return not stream.read(4).startswith(b"PK\x03\x04")


def _guarded(path: Path, read: Callable[[], bytes]) -> bytes:
    with _reading(path):
        return read()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    # NotImplementedError is what zipfile says of a method of compression that it does not know.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise EBMError(
            f"cannot unpack {path}: {error}", "the file is truncated or damaged; copy or download it again"
        ) from error
    except RuntimeError as error:  # what zipfile says of a password
        raise EBMError(f"cannot unpack {path}: {error}", "unpack it and give the folder") from error

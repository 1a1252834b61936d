"""Archives (.tar, .tar.gz, .tgz, .zip) read as they are: nothing is unpacked to the disk, and bombs are refused."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.data.folders import choose
from ebmcli.data.listing import Listing, is_aside
from ebmcli.data.source import LARGEST, PICTURES, Source, kinds, unpacking, unread
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

SUFFIXES = (".tgz", ".tar", ".gz", ".zip")
_TAR = 257  # where a tar says what it is
_RATIO = 200  # times the size of the archive that its members may declare together
_FREE = 256 * 2**20  # bytes they may declare in any case
_MEMBERS = 5_000_000
_LONG = 2**20  # bytes of a name or of remarks on a member, which are held in memory
_DRIVE = re.compile(r"[A-Za-z]:")


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


def budget(size: int) -> int:
    """Bytes that a compressed file of `size` bytes may claim to hold: pictures never shrink more."""
    return _RATIO * size + _FREE


def members(path: Path) -> Iterator[Member]:
    """The regular files of an archive in its order, read in one pass.

    Raises:
        EBMError: a name that leads out of the archive, sizes beyond all measure, or a damaged archive.
    """
    left = budget(path.stat().st_size)
    with unpacking(path):
        walk = _zip if zipfile.is_zipfile(path) and not _is_tar(path) else _tar
        for number, member in enumerate(walk(path)):
            parts = member.name.replace("\\", "/").split("/")
            if not parts[0] or ".." in parts or _DRIVE.match(parts[0]):
                raise EBMError(
                    f"{path} has a file that leads out of it ({member.name[:80]!r}) and is not read",
                    "get the archive from where it was published",
                )
            left -= member.size
            picture = Path(member.name).suffix.lower() in PICTURES
            if left < 0 or member.size < 0 or number >= _MEMBERS or (picture and member.size > LARGEST):
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
    source = Source("archive of images", listing.files, 0, lambda n: iter(()), reading="parts and kinds of 2")

    def names() -> list[str]:
        there = [member.name for member in members(path) if not _is_aside(member.name)]
        found = [name for name in there if name.lower().endswith(PICTURES)]
        if not found:
            left = "; ".join(unread(there))
            raise EBMError(
                f"{path} holds no images that are read" + (f": {left}" if left else ""),
                f"expected files of these kinds in it: {', '.join(PICTURES)}",
            )
        choice = choose(path, found, split)
        chosen = [found[i] for i in choice.which]
        source.notes += [*kinds(chosen), *choice.notes]
        source.doubts += choice.doubts + unread(there)
        return chosen

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

    source.declared, source.items = count, items
    return source


def _is_aside(name: str) -> bool:
    return any(is_aside(part) for part in PurePosixPath(name).parts)


class _Careful(tarfile.TarInfo):
    """A member whose long name or remarks are read only where they are not beyond all measure."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _REMARKS and self.size > _LONG):
            raise tarfile.ReadError(f"a name or remark of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


_REMARKS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*", tarinfo=_Careful) as archive:
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

            # What packs on Windows may separate folders by backslashes.
            yield Member(entry.filename.replace("\\", "/"), entry.file_size, read)


def _is_tar(path: Path) -> bool:
    with open(path, "rb") as stream:
        return not stream.read(4).startswith(b"PK\x03\x04")


def _guarded(path: Path, read: Callable[[], bytes]) -> bytes:
    with unpacking(path):
        return read()

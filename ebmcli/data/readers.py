"""The layouts that are recognised: one table, tried from the top. A further layout is one more line here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ebmcli.data import archives, arrays, cifar, folders, idx, parquet
from ebmcli.data.source import PICTURES, SPLITS, Listing, Source, scan
from ebmcli.errors import EBMError


@dataclass(frozen=True)
class Reader:
    """One layout.

    Attributes:
        about: what it reads, for messages.
        recognise: cheaply, whether the files have this layout.
        open: the images of a split, not yet decoded; raises EBMError.
    """

    about: str
    recognise: Callable[[Listing], bool]
    open: Callable[[Listing, str], Source]


# Names of IDX files say most, so they come first; a folder of pictures may hold anything: it is last.
READERS: tuple[Reader, ...] = (
    Reader("IDX files (.gz or not)", idx.recognise, idx.open_source),
    Reader(".npz or .npy", arrays.recognise, arrays.open_source),
    Reader("CIFAR-10's binary records", cifar.recognise, cifar.open_source),
    Reader("parquet", parquet.recognise, parquet.open_source),
    Reader("a tar, tgz or zip of pictures", archives.recognise, archives.open_source),
    Reader("a folder of jpg, png, webp or bmp", folders.recognise, folders.open_source),
)

_HINTS = {
    "one image": (PICTURES, "give the folder that holds the images"),
    "an archive": ((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"), "unpack it and give the folder"),
}


def open_source(path: Path, split: str) -> Source:
    """Recognise the layout of `path` and open its images of `split`.

    Raises:
        EBMError: missing, empty or unreadable files, a layout that is not known, or what its reader raises.
    """
    if split not in SPLITS:
        raise EBMError(f"there is no split {split!r}", f"splits: {', '.join(SPLITS)}")
    listing = scan(path)
    for reader in READERS:
        if reader.recognise(listing):
            return reader.open(listing, split)
    expected = ", ".join(reader.about for reader in READERS)
    received, hint = _describe(listing)
    raise EBMError(f"{path} holds no images that can be read: expected {expected}; received {received}", hint)


def _describe(listing: Listing) -> tuple[str, str]:
    """What there is instead of images, and what to do about it."""
    if listing.is_folder:
        kinds = Counter(file.suffix or "no suffix" for file in listing.files)
        shares = ", ".join(f"{count}× {kind}" for kind, count in kinds.most_common(4))
        return f"{len(listing.files):,} files ({shares})", "check that the path is the folder of the images"
    suffix = listing.files[0].suffix
    for what, (suffixes, hint) in _HINTS.items():
        if suffix in suffixes:
            return what, hint
    return f"a file that begins with {listing.head(8)!r}", "check the path and the kind of the file"

"""The layouts that are recognised: one table, tried from the top. A further layout is one more line here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ebmcli.data import archives, arrays, cifar, folders, idx, parquet
from ebmcli.data.listing import Listing, scan
from ebmcli.data.source import PICTURES, SPLITS, Source, unread
from ebmcli.errors import EBMError, UsageError


@dataclass(frozen=True)
class Reader:
    """One layout.

    Attributes:
        about: what it reads, for messages.
        recognise: cheaply, whether the files have this layout.
        open: the images of a split, not yet decoded; raises EBMError.
        choices: what can be chosen in it besides the split: keywords of `open`.
    """

    about: str
    recognise: Callable[[Listing], bool]
    open: Callable[..., Source]
    choices: tuple[str, ...] = ()


# Names of IDX files say most, so they come first; a folder of pictures may hold anything: it is last.
READERS: tuple[Reader, ...] = (
    Reader("IDX files (.gz or not)", idx.recognise, idx.open_source),
    Reader(".npz or .npy", arrays.recognise, arrays.open_source, ("column",)),
    Reader("CIFAR-10's binary records", cifar.recognise, cifar.open_source),
    Reader("parquet", parquet.recognise, parquet.open_source, ("column", "config")),
    Reader("a tar, tgz or zip of pictures", archives.recognise, archives.open_source),
    Reader("a folder of jpg, png, webp, tif or other pictures", folders.recognise, folders.open_source),
)

_MANY = 3  # pictures beside a set in another form, from where they may be missed

_HINTS = {
    "one image": (PICTURES, "give the folder that holds the images"),
    "an archive": ((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"), "unpack it and give the folder"),
}


def open_source(path: Path, split: str, column: str | None = None, config: str | None = None) -> Source:
    """Recognise the layout of `path` and open its images of `split`.

    Args:
        path: file or folder.
        split: "train" or "test".
        column: of the images, where the layout has several: in parquet files and `.npz`.
        config: which of several sets that lie together in parquet files.

    Raises:
        EBMError: missing, empty or unreadable files, a layout that is not known, or what its reader raises.
    """
    if split not in SPLITS:
        raise EBMError(f"there is no split {split!r}", f"splits: {', '.join(SPLITS)}")
    listing = scan(path)
    chosen = {name: value for name, value in (("column", column), ("config", config)) if value is not None}
    for reader in READERS:
        if reader.recognise(listing):
            for name in chosen.keys() - set(reader.choices):
                raise UsageError(f"{path} is {reader.about}, and has no {name} to choose", f"leave out --{name}")
            source = reader.open(listing, split, **chosen)
            source.notes += listing.notes
            if reader.open is not folders.open_source:
                _note_beside(listing, source)
            return source
    expected = ", ".join(reader.about for reader in READERS)
    received, hint = _describe(listing)
    raise EBMError(f"{path} holds no images that can be read: expected {expected}; received {received}", hint)


def _note_beside(listing: Listing, source: Source) -> None:
    """Say which pictures lie beside the files of another layout; a few are its logo, or a preview."""
    read = set(source.files)
    left = [file.name for file in listing.files if file.suffix in PICTURES and file not in read]
    if left:
        lines = source.doubts if len(left) >= _MANY else source.notes
        lines.append(f"pictures beside them are left out ({len(left):,}, such as {left[0]})")


def _describe(listing: Listing) -> tuple[str, str]:
    """What there is instead of images, and what to do about it."""
    if listing.is_folder:
        kinds = Counter(file.suffix or "no suffix" for file in listing.files)
        shares = ", ".join(f"{count}× {kind}" for kind, count in kinds.most_common(4))
        hint = "".join(unread(file.name for file in listing.files))
        return f"{len(listing.files):,} files ({shares})", hint or "check that the path is the folder of the images"
    suffix = listing.files[0].suffix
    for what, (suffixes, hint) in _HINTS.items():
        if suffix in suffixes:
            return what, hint
    return f"a file that begins with {listing.head(8)!r}", "check the path and the kind of the file"

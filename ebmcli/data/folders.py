"""Reader of folders of image files, at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ebmcli.data.source import PICTURES, SPLITS, File, Listing, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item


def recognise(listing: Listing) -> bool:
    """A folder with at least one image file."""
    return listing.is_folder and any(file.suffix in PICTURES for file in listing.files)


def open_source(listing: Listing, split: str) -> Source:
    """The image files, sorted by relative name; of a folder with `train/` and `test/` those of `split`.

    Raises:
        EBMError: the test split is asked for and there is none.
    """
    images = [file for file in listing.files if file.suffix in PICTURES]
    chosen = _choose(listing, images, split)
    source = Source("image folder", tuple(chosen), len(chosen), lambda n: _items(chosen, n))
    others = Counter(file.suffix or "no suffix" for file in listing.files if file.suffix not in PICTURES)
    if others:
        source.notes.append(f"{others.total():,} other files left alone ({', '.join(sorted(others)[:5])})")
    return source


def _choose(listing: Listing, images: list[File], split: str) -> list[File]:
    """Folders train and test mean splits only together: a lone `train/` may hold pictures of trains."""
    tops = {file.name.split("/")[0].lower() for file in images if "/" in file.name}
    if all(tops.intersection(aliases) for aliases in SPLITS.values()):
        return [file for file in images if file.name.split("/")[0].lower() in SPLITS[split]]
    if split == "train":
        return images
    raise EBMError(
        f"{listing.root} has no split {split!r}: expected the folders train and test in it",
        "leave the split out to use all of its images",
    )


def _items(files: list[File], n: int) -> Iterator[Item]:
    yield from ((file.name, file.path) for file in files[:n])

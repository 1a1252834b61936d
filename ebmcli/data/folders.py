"""Reader of folders of image files, at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ebmcli.data import splits
from ebmcli.data.listing import File, Listing
from ebmcli.data.source import PICTURES, UNREAD, Source, kinds, unread
from ebmcli.data.splits import Choice
from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_PARTITION = "list_eval_partition.txt"
_LONGEST = 64 * 2**20  # bytes of a list of parts


def recognise(listing: Listing) -> bool:
    """A folder with at least one image file."""
    return listing.is_folder and any(file.suffix in PICTURES for file in listing.files)


def open_source(listing: Listing, split: str) -> Source:
    """The image files, sorted by relative name; of a folder with `train/` and `test/` those of `split`.

    Raises:
        EBMError: the test split is asked for and there is none.
    """
    images = [file for file in listing.files if file.suffix in PICTURES]
    choice = choose(listing.root, [file.name for file in images], split)
    chosen = [images[i] for i in choice.which]
    source = Source("image folder", tuple(chosen), len(chosen), lambda n: _items(chosen, n))
    others = Counter(file.suffix or "no suffix" for file in listing.files if file.suffix not in PICTURES + UNREAD)
    if others:
        source.notes.append(f"{others.total():,} other files left alone ({', '.join(sorted(others)[:5])})")
    source.notes += [*kinds(file.name for file in chosen), *choice.notes]
    source.doubts += choice.doubts + unread(file.name for file in listing.files)
    return source


def choose(root: Path, names: list[str], split: str) -> Choice:
    """Which of the pictures (names relative to `root`, with `/`) are of `split`, in their order.

    CelebA's `list_eval_partition.txt` beside the pictures, or beside their folder, is followed; else folders that
    are called after parts, as `ebmcli.data.splits.choose` finds them; else all pictures are the training set.

    Raises:
        EBMError: the test split is asked for and there is none, or the list has no picture of the split.
    """
    partition = _partition(root)
    if partition:
        wanted = {"train": ("0",), "test": ("1", "2")}[split]
        which = [i for i, name in enumerate(names) if partition.get(name.split("/")[-1], "0") in wanted]
        if not which:
            raise EBMError(
                f"{_PARTITION} counts none of the {len(names):,} pictures in {root} to split {split!r}",
                "is the list whole, and of these pictures? another split, or the folder without the list, may do",
            )
        return Choice(which, [f"split {split} by {_PARTITION}: {len(which):,} of {len(names):,}"], [])
    choice = splits.choose(names, split)
    if choice is not None:
        return choice
    if split == "train":
        return Choice(list(range(len(names))), [], splits.doubts(names))
    raise EBMError(
        f"{root} has no split {split!r}: expected the folders train and test in it",
        "leave the split out to use all of its images",
    )


def _partition(root: Path) -> dict[str, str]:
    """CelebA's list of parts, by file name: 0 train, 1 validation, 2 test; empty where there is none."""
    for place in (root, root.parent) if root.name.startswith("img_align_celeba") else (root,):
        path = place / _PARTITION
        if place.is_dir() and path.is_file():
            check_plain(path, _LONGEST)
            rows = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
            return {row[0]: row[1] for row in rows if len(row) == 2}
    return {}


def _items(files: list[File], n: int) -> Iterator[Item]:
    yield from ((file.name, file.path) for file in files[:n])

"""Reader of folders of image files, at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ebmcli.data.source import PICTURES, SPLITS, File, Listing, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_PARTITION = "list_eval_partition.txt"


def recognise(listing: Listing) -> bool:
    """A folder with at least one image file."""
    return listing.is_folder and any(file.suffix in PICTURES for file in listing.files)


def open_source(listing: Listing, split: str) -> Source:
    """The image files, sorted by relative name; of a folder with `train/` and `test/` those of `split`.

    Raises:
        EBMError: the test split is asked for and there is none.
    """
    images = [file for file in listing.files if file.suffix in PICTURES]
    chosen = [images[i] for i in choose(listing.root, [file.name for file in images], split)]
    source = Source("image folder", tuple(chosen), len(chosen), lambda n: _items(chosen, n))
    others = Counter(file.suffix or "no suffix" for file in listing.files if file.suffix not in PICTURES)
    if others:
        source.notes.append(f"{others.total():,} other files left alone ({', '.join(sorted(others)[:5])})")
    return source


def choose(root: Path, names: list[str], split: str) -> list[int]:
    """Which of the pictures (names relative to `root`, with `/`) are of `split`, in their order.

    Folders train and test mean splits only together: a lone `train/` may hold pictures of trains. CelebA's
    `list_eval_partition.txt` beside the pictures, or beside their folder, is followed.

    Raises:
        EBMError: the test split is asked for and there is none.
    """
    partition = _partition(root)
    if partition:
        wanted = {"train": ("0",), "test": ("1", "2")}[split]
        return [i for i, name in enumerate(names) if partition.get(name.split("/")[-1], "0") in wanted]
    tops = {name.split("/")[0].lower() for name in names if "/" in name}
    if all(tops.intersection(aliases) for aliases in SPLITS.values()):
        return [i for i, name in enumerate(names) if name.split("/")[0].lower() in SPLITS[split]]
    if split == "train":
        return list(range(len(names)))
    raise EBMError(
        f"{root} has no split {split!r}: expected the folders train and test in it",
        "leave the split out to use all of its images",
    )


def _partition(root: Path) -> dict[str, str]:
    """CelebA's list of parts, by file name: 0 train, 1 validation, 2 test; empty where there is none."""
    for place in (root, root.parent) if root.name.startswith("img_align_celeba") else (root,):
        path = place / _PARTITION
        if place.is_dir() and path.is_file():
            rows = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
            return {row[0]: row[1] for row in rows if len(row) == 2}
    return {}


def _items(files: list[File], n: int) -> Iterator[Item]:
    yield from ((file.name, file.path) for file in files[:n])

"""Public data sets by name: one line a set, so that another one is another line."""

from __future__ import annotations

from typing import NamedTuple


class PublicSet(NamedTuple):
    """A data set on the Hub.

    Attributes:
        name: short, as `--data` and recipes may call it.
        repo: its id on the Hub.
        column: of the images.
        splits: what the Hub calls our splits "train" and "test", and how many images each has.
        size: px, side that it is brought to where nothing else is said.
        channels: 1 or 3.
        crop: px, centre cut before the resize, or None.
        licence: as its publishers state it.
        about: one line.
    """

    name: str
    repo: str
    column: str
    splits: dict[str, tuple[str, int]]
    size: int
    channels: int
    crop: int | None
    licence: str
    about: str


_TEN = {"train": ("train", 60_000), "test": ("test", 10_000)}

# fmt: off
SETS = (
    PublicSet("mnist", "ylecun/mnist", "image", _TEN, 28, 1, None, "MIT", "handwritten digits"),
    PublicSet("fashion-mnist", "zalando-datasets/fashion_mnist", "image", _TEN, 28, 1, None, "MIT", "clothes, grey"),
    PublicSet("cifar10", "uoft-cs/cifar10", "img", {"train": ("train", 50_000), "test": ("test", 10_000)},
              32, 3, None, "not stated", "ten kinds of things and animals"),
    PublicSet("celeba", "nielsr/CelebA-faces", "image", {"train": ("train", 202_599)},
              64, 3, 140, "research only, not commercial", "faces of celebrities, aligned"),
    PublicSet("celeba-splits", "flwrlabs/celeba", "image", {"train": ("train", 162_770), "test": ("test", 19_962)},
              64, 3, 140, "research only, not commercial", "the same in its original splits (9.4 GB)"),
    PublicSet("flowers", "nkirschi/oxford-flowers", "image", {"train": ("train", 7_169), "test": ("test", 1_020)},
              32, 3, None, "not stated", "flowers of 102 kinds"),
)
# fmt: on


def public(name: str) -> PublicSet | None:
    """The set of that short name, or of that id on the Hub."""
    return next((entry for entry in SETS if name in (entry.name, entry.repo)), None)

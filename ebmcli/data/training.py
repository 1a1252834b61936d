"""What a recipe's data section means: positives to draw from, whether images or a toy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ebmcli.data.bundled import bundled
from ebmcli.data.chosen import chosen
from ebmcli.data.images import ImageSet, load
from ebmcli.data.remote import address_of
from ebmcli.data.toys import TOYS, Toy, load_toy
from ebmcli.errors import EBMError
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    from ebmcli.recipe import DataSettings


class ImageData:
    """Draws images with replacement from a set; `flip` mirrors each left to right with probability 1/2.

    `address` is `user/name@commit` of a set of the Hub, with what was chosen of it, else None.
    """

    def __init__(self, images: ImageSet, flip: bool = False) -> None:
        self.set = images
        self.flip = flip
        self.name = images.name
        self.identity = images.identity
        self.shape = images.shape
        named = chosen(images.name)
        at = named._replace(place=f"{named.place}@{images.revision}")
        self.address = str(at) if images.revision else None

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """`n` images [n c h w] float32 in [-1, 1]."""
        x = self.set.images(generator.integers(0, len(self.set), size=n))
        if self.flip:
            mirrored = torch.from_numpy(generator.random(n) < 0.5)
            x[mirrored] = x[mirrored].flip(-1)
        return x


class ToyData:
    """Draws fresh samples of a toy density."""

    shape = (2, 1, 1)

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.name = toy.name
        self.identity = f"toy-{toy.name}"

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """`n` samples [n 2 1 1] float32."""
        seed = int(generator.integers(0, 2**63 - 1))
        return self.toy.sample(n, torch.Generator().manual_seed(seed))


def open_data(
    settings: DataSettings, path: str | None = None, progress: Callable[[int, int], None] | None = None
) -> ImageData | ToyData:
    """The positives of a recipe; `ImageSet.tell` says what was found.

    Args:
        settings: the recipe's data section.
        path: local files, a bundled set or another set of the Hub to use instead of its source.
        progress: called with (images done, images in all) while decoding.

    Raises:
        EBMError: as `load`.
    """
    source = path or settings.source
    if source in TOYS:
        return ToyData(load_toy(source))
    try:
        images = load(
            source,
            image_size=settings.image_size,
            channels=settings.channels,
            crop=settings.crop,
            split=settings.split,
            progress=progress,
            tell=False,
        )
    except EBMError as error:
        if path is None and address_of(source) is None and not typed_path(chosen(source).place).exists():
            error.message = f"this recipe's data, {source}, is not on this machine"
            error.hint = f"give local files with `data` PATH, or a set of the package: {', '.join(bundled())}"
        raise
    return ImageData(images, settings.augment == "flip")

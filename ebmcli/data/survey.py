"""What unknown images are like before they are decoded: sizes and colours of some of them."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.data.bundled import bundled, resolve
from ebmcli.data.chosen import chosen
from ebmcli.data.decode import Form, open_picture, read_picture
from ebmcli.data.readers import open_source
from ebmcli.data.remote import address_of, open_remote
from ebmcli.data.sets import public
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np

LOOKED_AT = 200
"""Images that are opened."""
LARGEST = 64
"""px, to which larger pictures are brought where nothing else is said."""


class Survey(NamedTuple):
    """What some images of a set are like.

    Attributes:
        images: how many are in the set.
        short_side: px, median over those looked at.
        colour: whether more than one in a hundred has colours.
        crop: px, usual centre cut of a set that is known, or None.
    """

    images: int
    short_side: int
    colour: bool
    crop: int | None = None


def survey(source: str, split: str = "train") -> Survey:
    """Look at the first images of a set.

    Raises:
        EBMError: as `ebmcli.data.load`, or none of them can be opened.
    """
    address = address_of(source)
    place, column, config = chosen(source)
    if address:
        opened = open_remote(address, split, column=column, config=config)
    else:
        opened = open_source(resolve(place), split, column, config)
    sides: list[int] = []
    coloured = 0
    for _, payload in itertools.islice(opened.items(min(LOOKED_AT, opened.count)), LOOKED_AT):
        try:
            side, colour = _look(payload)
        except Exception:  # what damaged files make Pillow raise is not one class; decoding names them
            continue
        sides.append(side)
        coloured += colour
    if not sides:
        raise EBMError(f"none of the first images of {source} can be opened", "check that they are images")
    known = public(address.repo) if address else None
    crop = known.crop if known else None
    return Survey(opened.count, int(statistics.median(sides)), coloured > 0.01 * len(sides), crop)


def own_form(source: str, split: str = "train") -> Form:
    """The size, channels and crop of a set where nothing else is said: the table's, the package's, or as surveyed."""
    name = str(source)
    if name in bundled():
        c, h, _ = bundled()[name].shape
        return Form(h, c)
    address = address_of(source)
    known = public(address.repo) if address else None
    if known:
        return Form(known.size, known.channels, known.crop)
    seen = survey(source, split)
    return Form(min(seen.short_side, LARGEST), 3 if seen.colour else 1, seen.crop)


def _look(payload: Path | bytes | np.ndarray) -> tuple[int, bool]:
    """Short side, px, and whether there are colours."""
    import numpy as np

    if not isinstance(payload, Path | bytes):
        grey = payload.ndim == 2 or bool((payload[..., :1] == payload[..., :3]).all())
        return min(payload.shape[:2]), not grey
    data = payload if isinstance(payload, bytes) else read_picture(payload)
    with open_picture(data) as image:
        side = min(image.size)
        if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"):
            return side, False
        image.draft("RGB", (64, 64))  # a coarse look is enough, and quick for photographs
        small = np.asarray(image.convert("RGB").resize((16, 16))).astype(int)
        return side, bool((small.max(axis=2) - small.min(axis=2)).max() > 12)

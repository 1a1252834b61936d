"""Letters on pictures: one clear face, Greek and signs from another, figures that do not jump."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

from ebmcli.text import shortened

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LONGEST = 400
"""Characters of a text, of which the middle is left out where there are more."""
_FIGURES = "0123456789"


class _Letter(NamedTuple):
    """How a letter is set, px."""

    font: _Font
    advance: float
    indent: float


def width(text: str, size: int) -> float:
    """How wide `write` makes a text, px."""
    return sum(_letter(c, size).advance for c in shortened(text, LONGEST))


def shorten(text: str, size: int, room: float) -> str:
    """The text, or its beginning and an ellipsis where it is wider than `room` px."""
    text = shortened(text, LONGEST)
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip(" ,·") + "…"


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "l"
) -> float:
    """Write one line; returns where it ends, px.

    Args:
        draw: on the picture.
        at: a place on the baseline, px.
        text: figures in it are all of one width, so that a counter stands still.
        size: of the letters, px.
        colour: of the letters.
        anchor: whether `at` is the left end, the middle or the right end: l, m, r.
    """
    text = shortened(text, LONGEST)
    x, y = at
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor] * width(text, size)
    for c in text:
        letter = _letter(c, size)
        draw.text((x + letter.indent, y), c, font=letter.font, fill=colour, anchor="ls")
        x += letter.advance
    return x


@cache
def _letter(c: str, size: int) -> _Letter:
    own, other = _fonts(size)
    lacks = other is not None and c != " " and _shape(own, c) == _shape(own, "\uffff")
    font: _Font = other if lacks and other is not None else own
    advance = font.getlength(c)
    if c not in _FIGURES:
        return _Letter(font, advance, 0.0)
    widest = max(own.getlength(f) for f in _FIGURES)
    return _Letter(font, widest, (widest - advance) / 2)


@cache
def _fonts(size: int) -> tuple[_Font, _Font | None]:
    """Pillow's own face, and for what it lacks DejaVu Sans out of matplotlib's folder, where that is installed."""
    own = ImageFont.load_default(size)
    found = importlib.util.find_spec("matplotlib")  # looked up, not imported
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return own, ImageFont.truetype(str(path), round(size * 0.93))
    return own, None


def _shape(font: _Font, c: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(c)
    return mask.size, bytes(mask)

"""Frames of a film of chains: their images, a step counter, and their energies against the data's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ebmcli.media.curve import BACKDROP, BAND_INK, INK, LINES, MUTED, Curve, Mark, Scale, Spread, in_data_units
from ebmcli.media.grid import is_plane, scatter, to_uint8
from ebmcli.media.lettering import shorten, width, write

_GAP = 0.07
"""Between two images, as a share of their width."""


class Title(NamedTuple):
    """What a film says of one model."""

    name: str
    about: str
    data: tuple[float, float] | None
    """mean and standard deviation of the data's energy, where it is known"""


class Box(NamedTuple):
    """A place on a frame, px."""

    left: int
    top: int
    width: int
    height: int


class Sights(NamedTuple):
    """One model's chains at one moment, as arrays."""

    images: Any
    """[n c h w]; points [n 2 1 1]"""
    energy: Any
    """U [n]"""
    acceptance: float | None = None


class Stage:
    """Draws frame after frame of one film.

    Args:
        size: width and height, px.
        titles: one a model, one or two.
        steps: of the chains in all.
        marks: on the time axis.
        reach: of 2-D points, the largest coordinate that is shown.
    """

    def __init__(
        self,
        size: tuple[int, int],
        titles: Sequence[Title],
        steps: int,
        marks: Sequence[Mark] = (),
        reach: float = 1.5,
    ) -> None:
        self.size, self.titles, self.steps, self.reach = size, tuple(titles), steps, reach
        unit = min(size[0], size[1] * 16 / 9) / 720 if size[0] < size[1] else size[1] / 720
        self.small, self.middle, self.large = (max(9, round(s * unit)) for s in (24, 34, 76))
        self.margin = round(40 * unit)
        self.by_data = all(t.data is not None and t.data[1] > 0 for t in titles)
        scale: Scale | None = in_data_units() if self.by_data else None
        self.pictures, self.words, self.counter, curve = self._boxes()
        self.curve_at = (curve.left, curve.top)
        self.curve = Curve((curve.width, curve.height), self.small, len(titles), scale, marks)
        self.background = Image.new("RGB", size, BACKDROP)
        self._write_titles()

    def frame(self, time: float, step: int, sights: Sequence[Sights]) -> Image.Image:
        """The picture at `time` in [0, 1] of the film's way."""
        self.curve.add(time, [self._spread(s, t) for s, t in zip(sights, self.titles, strict=True)])
        picture = self.background.copy()
        for seen, box in zip(sights, self.pictures, strict=True):
            images = sheet(seen.images, box, self.reach)
            picture.paste(images, self._place(images, box))
        draw = ImageDraw.Draw(picture)
        self._write_counter(draw, step, sights)
        picture.paste(self.curve.picture(), self.curve_at)
        return picture

    def _place(self, images: Image.Image, box: Box) -> tuple[int, int]:
        """One sheet stands in the middle of its height, two hang from their titles."""
        if self.size[0] >= self.size[1]:
            return box.left, box.top + ((box.height - images.height) // 2 if len(self.titles) == 1 else 0)
        return box.left + (box.width - images.width) // 2, box.top

    def _spread(self, seen: Sights, title: Title) -> Spread:
        energy = np.asarray(seen.energy, dtype=np.float64)
        if self.by_data and title.data is not None:
            energy = (energy - title.data[0]) / title.data[1]
        with np.errstate(invalid="ignore"):  # infinite energies have no quantiles, and are left out of the curve
            low, high = np.quantile(energy, (0.1, 0.9))
        return Spread(float(energy.mean()), float(low), float(high))

    def _boxes(self) -> tuple[list[Box], list[Box], Box, Box]:
        """Pictures, titles, counter and curve."""
        (w, h), m = self.size, self.margin
        title = round(1.25 * self.middle + 1.5 * self.small)
        counter = round(1.1 * self.large)
        caption = round(2.1 * self.small)
        two = len(self.titles) == 2
        if w >= h and not two:
            side = h - 2 * m
            side = min(side, round(0.56 * w))
            left = m + side + round(1.2 * m)
            right = w - left - m
            words = Box(left, m, right, title)
            count = Box(left, m + title + round(0.7 * m), right, counter)
            top = count.top + count.height + caption + round(0.4 * m)
            return [Box(m, (h - side) // 2, side, side)], [words], count, Box(left, top, right, h - m - top)
        if w >= 1.3 * h:
            each, tall = round(0.305 * w), h - 2 * m - title
            lefts = (m, round(1.7 * m) + each)
            texts = [Box(left, m, each, title) for left in lefts]
            pictures = [Box(left, m + title, each, tall) for left in lefts]
            left = lefts[1] + each + round(1.1 * m)
            count = Box(left, m, w - m - left, counter)
            top = m + counter + caption + round(0.4 * m)
            return pictures, texts, count, Box(left, top, w - m - left, h - m - top)
        across = len(self.titles)
        each = (w - (across + 1) * m) // across
        high = min(each, round(0.5 * h))
        texts = [Box(m + i * (each + m), m, each, title) for i in range(across)]
        pictures = [Box(m + i * (each + m), m + title, each, high) for i in range(across)]
        count = Box(m, m + title + high + round(0.6 * m), w - 2 * m, counter)
        top = count.top + count.height + caption + round(0.5 * m)
        return pictures, texts, count, Box(m, top, w - 2 * m, h - m - top)

    def _write_titles(self) -> None:
        draw = ImageDraw.Draw(self.background)
        for i, (title, box) in enumerate(zip(self.titles, self.words, strict=True)):
            colour = INK if len(self.titles) == 1 else LINES[i]
            base = box.top + self.middle * 0.8
            write(draw, (box.left, base), shorten(title.name, self.middle, box.width), self.middle, colour)
            about = shorten(title.about, self.small, box.width)
            write(draw, (box.left, base + 1.45 * self.small), about, self.small, MUTED)
        x: float = self.curve_at[0]
        y = self.curve_at[1] - 0.7 * self.small
        room = self.size[0] - self.margin - x
        if self.by_data:
            x = write(draw, (x, y), "energy", self.small, INK)
            long, short = " in σ of the data's,", " in σ,"
            inside = long if width("energy" + long + " data ±2σ", self.small) < room else short
            x = write(draw, (x, y), inside, self.small, MUTED)
            write(draw, (x, y), " data ±2σ", self.small, BAND_INK)
        else:
            write(draw, (x, y), "energy U", self.small, INK)

    def _write_counter(self, draw: ImageDraw.ImageDraw, step: int, sights: Sequence[Sights]) -> None:
        box = self.counter
        base = box.top + 0.78 * self.large
        size = self.large
        widest = f"{self.steps:,}"
        while width(widest, size) > 0.62 * box.width and size > self.small:
            size -= 2
        x = write(draw, (box.left, base), f"{step:,}", size, INK)
        write(draw, (x + 0.3 * self.small, base), "step" if step == 1 else "steps", self.small, MUTED)
        words = [f"{s.acceptance:.0%} accepted" for s in sights if s.acceptance is not None]
        if words:
            text = shorten(" · ".join(words), self.small, box.width)
            write(draw, (box.left + box.width, base - 1.6 * self.small), text, self.small, MUTED, "r")


def sheet(images: Any, box: Box, reach: float = 1.5) -> Image.Image:
    """Images as large as they fit side by side, each pixel a whole number of pixels where that is possible."""
    if is_plane(images):
        side = min(box.width, box.height)
        return scatter(images, side, (-reach, reach), bins=min(160, side))
    pixels = to_uint8(images)
    n, _, h, w = pixels.shape
    columns, room = _columns(n, (w, h), box)
    scale = max(1, math.floor(room))
    if room > 1 and scale < 0.85 * room:
        scale += 1  # and the whole is then made smaller, with smooth edges
    rows = math.ceil(n / columns)
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    h, w = pixels.shape[2:]
    gap = max(1, round(_GAP * w))
    pasted = np.empty((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), dtype=np.uint8)
    pasted[:] = BACKDROP
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        top, left = row * (h + gap), column * (w + gap)
        pasted[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    picture = Image.fromarray(pasted)
    if picture.width > box.width or picture.height > box.height:
        picture.thumbnail((box.width, box.height), Image.Resampling.BOX)
    return picture


def _columns(n: int, image: tuple[int, int], box: Box) -> tuple[int, float]:
    """How many images stand side by side, and how many times enlarged: large, with full rows if that costs little."""

    def scale(columns: int) -> float:
        rows = math.ceil(n / columns)
        across = box.width / (columns * image[0] * (1 + _GAP))
        return min(across, box.height / (rows * image[1] * (1 + _GAP)))

    best = max(range(1, n + 1), key=lambda c: scale(c) * (1.0 if n % c == 0 else 0.8))
    return best, scale(best)

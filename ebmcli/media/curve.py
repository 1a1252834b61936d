"""The energy curve of a film: drawn anew for every frame, fast, with smooth lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw

from ebmcli.media.lettering import Colour, width, write

BACKDROP: Colour = (16, 18, 22)
INK: Colour = (232, 230, 227)
MUTED: Colour = (142, 149, 160)
RULE: Colour = (44, 49, 58)
BAND: Colour = (34, 66, 54)
BAND_INK: Colour = (112, 190, 150)
LINES: tuple[Colour, ...] = ((255, 180, 84), (98, 184, 255))
"""Colours of the first and the second model."""
_THIN = 0.3
"""How much of a line's colour its spread has."""

BAND_SDS = 2.0
"""Half the height of the data's band, in standard deviations of the data's energy."""
_FINE = 2
"""Lines are drawn this much larger and then made smaller, which smooths them."""


class Spread(NamedTuple):
    """Energies of many chains, or of the data."""

    mean: float
    low: float
    high: float


class Mark(NamedTuple):
    """A moment that the time axis names."""

    time: float
    """0 to 1"""
    label: str
    strong: bool = False


class Scale(NamedTuple):
    """How an energy becomes a height: `map` is increasing, `ticks` are values to mark with their labels."""

    map: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]
    least: float
    """the span that is always shown, as energies"""
    most: float


def in_data_units() -> Scale:
    """Energies as (U − data's mean)/sd: linear within the data's band, logarithmic far from it."""
    ticks = [(0.0, "0")]
    for power in range(1, 8):
        label = f"{10**power:,}" if power < 4 else f"10{str(power).translate(_RAISED)}"
        ticks += [(float(10**power), f"+{label}"), (-float(10**power), f"−{label}")]
    return Scale(lambda u: math.asinh(u / BAND_SDS), tuple(sorted(ticks)), -3 * BAND_SDS, 3 * BAND_SDS)


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Curve:
    """Energies so far, on axes that grow with them.

    Args:
        size: width and height, px.
        text: size of the letters, px.
        lines: how many curves.
        scale: of the heights; None where nothing is known of the data: linear between the extremes so far.
        marks: on the time axis.
    """

    def __init__(
        self,
        size: tuple[int, int],
        text: int,
        lines: int,
        scale: Scale | None,
        marks: Sequence[Mark] = (),
    ) -> None:
        self.size, self.text, self.scale, self.marks = size, text, scale, tuple(marks)
        self._points: list[list[tuple[float, Spread]]] = [[] for _ in range(lines)]
        self._least = scale.least if scale else math.inf
        self._most = scale.most if scale else -math.inf

    def add(self, time: float, spreads: Sequence[Spread]) -> None:
        """The energies at a moment in [0, 1]; moments nearer than half a pixel replace each other."""
        for points, spread in zip(self._points, spreads, strict=True):
            if len(points) > 1 and time - points[-2][0] < 0.5 / self.size[0]:
                points.pop()
            points.append((time, spread))
            if all(map(math.isfinite, spread)):
                self._least = min(self._least, spread.low)
                self._most = max(self._most, spread.high)

    def picture(self) -> Image.Image:
        """The curves up to the last moment."""
        width_, height = self.size
        scale = self.scale or _linear(self._least, self._most)
        low, high = scale.map(self._least), scale.map(self._most)
        pad = 0.06 * (high - low) or 1.0
        low, high = low - pad, high + pad
        labels = [(scale.map(v), label) for v, label in scale.ticks if self._least <= v <= self._most]
        left = round(max([width(label, self.text) for _, label in labels], default=0)) + round(0.6 * self.text)
        bottom = round(1.7 * self.text) if self.marks else round(0.3 * self.text)
        top = round(0.4 * self.text)
        w, h = max(8, width_ - left - round(0.4 * self.text)), max(8, height - bottom - top)

        def y(value: float) -> float:
            return (high - value) / (high - low) * h

        fine = Image.new("RGB", (w * _FINE, h * _FINE), BACKDROP)
        draw = ImageDraw.Draw(fine)
        if self.scale is not None:
            edge = self.scale.map(BAND_SDS)
            draw.rectangle((0, y(edge) * _FINE, w * _FINE, y(-edge) * _FINE), fill=BAND)
        for value, _ in labels:
            draw.line((0, y(value) * _FINE, w * _FINE, y(value) * _FINE), fill=RULE, width=_FINE)
        for mark in self.marks:
            x = mark.time * w * _FINE
            draw.line((x, 0, x, h * _FINE), fill=MUTED if mark.strong else RULE, width=_FINE)
        for number, points in enumerate(self._points):
            self._spread(fine, points, number, scale, y, w)
        for number, points in enumerate(self._points):
            self._line(draw, points, number, scale, y, w)

        picture = Image.new("RGB", self.size, BACKDROP)
        picture.paste(fine.reduce(_FINE), (left, top))
        pen = ImageDraw.Draw(picture)
        self._label_heights(pen, [(top + y(v), label) for v, label in labels], left)
        self._label_times(pen, left, w, height)
        return picture

    def _spread(
        self,
        fine: Image.Image,
        points: list[tuple[float, Spread]],
        number: int,
        scale: Scale,
        y: Callable[[float], float],
        w: int,
    ) -> None:
        sound = [(t, s) for t, s in points if all(map(math.isfinite, s))]
        if len(sound) > 1:
            upper = [(t * w * _FINE, y(scale.map(s.high)) * _FINE) for t, s in sound]
            lower = [(t * w * _FINE, y(scale.map(s.low)) * _FINE) for t, s in reversed(sound)]
            mask = Image.new("L", fine.size, 0)
            ImageDraw.Draw(mask).polygon(upper + lower, fill=round(255 * _THIN))
            fine.paste(LINES[number % len(LINES)], (0, 0), mask)

    def _line(
        self,
        draw: ImageDraw.ImageDraw,
        points: list[tuple[float, Spread]],
        number: int,
        scale: Scale,
        y: Callable[[float], float],
        w: int,
    ) -> None:
        way = [(t * w * _FINE, y(scale.map(s.mean)) * _FINE) for t, s in points if math.isfinite(s.mean)]
        thick = max(2, round(self.text / 9)) * _FINE
        colour = LINES[number % len(LINES)]
        if len(way) > 1:
            draw.line(way, fill=colour, width=thick, joint="curve")
        if way:
            x, height = way[-1]
            draw.ellipse((x - 1.7 * thick, height - 1.7 * thick, x + 1.7 * thick, height + 1.7 * thick), fill=colour)

    def _label_heights(self, pen: ImageDraw.ImageDraw, labels: list[tuple[float, str]], left: int) -> None:
        """From the middle outwards, leaving out what would touch its neighbour."""
        taken: list[float] = []
        for height, label in sorted(labels, key=lambda item: (item[1] != "0", len(item[1]), item[1])):
            if all(abs(height - other) > 1.15 * self.text for other in taken):
                taken.append(height)
                write(pen, (left - 0.35 * self.text, height + 0.35 * self.text), label, self.text, MUTED, "r")

    def _label_times(self, pen: ImageDraw.ImageDraw, left: int, w: int, height: int) -> None:
        """The strong ones and the last, shortened where they touch; then the others where there is room."""
        strong = [m for m in self.marks if m.strong]
        others = [m for m in self.marks if not m.strong]
        short = [m._replace(label=m.label.partition(" ")[0]) for m in strong]
        orders = ([*strong, *others[-1:]], [*others[-1:], *short], [*strong])
        chosen = next((marks for marks in orders if not self._touch(marks, left, w)), [])
        for mark in others:
            if mark not in chosen and not self._touch([*chosen, mark], left, w):
                chosen = [*chosen, mark]
        for mark in chosen:
            middle, _ = self._place(mark, left, w)
            colour = INK if mark.strong else MUTED
            write(pen, (middle, height - 0.3 * self.text), mark.label, self.text, colour, "m")

    def _place(self, mark: Mark, left: int, w: int) -> tuple[float, float]:
        """Middle and half the width of a label, px."""
        half = width(mark.label, self.text) / 2
        return min(max(left + mark.time * w, half), self.size[0] - half), half

    def _touch(self, marks: Sequence[Mark], left: int, w: int) -> bool:
        places = sorted(self._place(m, left, w) for m in marks)
        return any(a + half + 0.6 * self.text > b - other for (a, half), (b, other) in pairwise(places))


def _linear(least: float, most: float) -> Scale:
    """Heights in U itself, with its extremes marked."""
    if not least < most:
        least, most = (least - 1, most + 1) if math.isfinite(least) else (-1.0, 1.0)
    step = 10 ** math.floor(math.log10((most - least) / 2))
    first = math.ceil(least / step)
    values = [i * step for i in range(first, math.floor(most / step) + 1)]
    values = values[:: max(1, math.ceil(len(values) / 5))]
    return Scale(lambda u: u, tuple((v, f"{v:,.6g}".replace("-", "−")) for v in values), least, most)

"""What samples look like against the data: saturation, diversity, nearest training image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TAIL = 0.001
"""Share of the data's own pixels beyond the range that saturation is measured against, both ends together."""


class Saturation(NamedTuple):
    """How far pixels leave the data's range."""

    beyond: float
    """share of pixels beyond the range that holds all but 0.1% of the data's (0.001 for the data itself)"""
    mean_abs: float
    """mean |x|, pixel units, over that of the data"""


class Likeness(NamedTuple):
    """Samples among themselves and against images of the data, by distances in pixels."""

    diversity: float
    """mean distance between two samples, over that between two images of the data"""
    nearest: float
    """median distance of a sample to the nearest image of the data, over that of a data image to its nearest other;
    far below 1: copies (chains that start at data images begin as such)"""


def pixel_range(data: Tensor) -> tuple[float, float]:
    """The range that holds all but `TAIL` of the data's pixel values."""
    values = data.flatten().float()
    # torch.quantile takes 16 million values at most, and the ends of a sort need no more care than this
    values = values[:: max(1, len(values) // 4_000_000)].sort().values
    cut = round(TAIL / 2 * (len(values) - 1))
    return float(values[cut]), float(values[len(values) - 1 - cut])


def saturation(x: Tensor, low: float, high: float, data_abs: float) -> Saturation:
    """Saturation of x [n c h w] against a range from `pixel_range` and the data's mean |x|."""
    beyond = ((x < low) | (x > high)).double().mean()
    return Saturation(float(beyond), float(x.abs().double().mean()) / max(data_abs, 1e-30))


def likeness(x: Tensor, data: Tensor) -> Likeness:
    """Diversity and nearest images of samples x [n …] against data [m …], n and m ≥ 2."""
    a, b = x.flatten(1).float(), data.flatten(1).float()
    among = torch.cdist(a, a)
    other = torch.cdist(b, b)
    nearest = torch.cdist(a, b).min(dim=1).values.median()
    own = other.fill_diagonal_(torch.inf).min(dim=1).values.median()
    n, m = len(a), len(b)
    spread = float(other.fill_diagonal_(0).sum()) / (m * (m - 1))
    return Likeness(float(among.sum()) / (n * (n - 1)) / max(spread, 1e-30), float(nearest / own.clamp_min(1e-30)))

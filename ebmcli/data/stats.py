"""What a set of images says of the step size and the chains it asks for (floor 2; pure functions of tensors)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 3
"""Side, px, of the windows whose covariance is looked at."""
_ENOUGH = 20
"""Samples for each dimension of a window, below which windows of all positions are taken together."""
_LOWEST = 0.01
"""Quantile over the positions that stands for the most constrained one; the least would follow chance."""


class Stats(NamedTuple):
    """Figures of a set of images, in pixel units of the [-1, 1] scale.

    Attributes:
        images: how many were looked at.
        low: least pixel value.
        high: greatest pixel value.
        mean: of each channel.
        sd: of each channel, over images and places.
        burn_in_distance: R, mean distance from a uniform noise image to a data image.
        local_sd: as `local_sd`.
        constant: share of the values [c h w] that are the same in all images.
    """

    images: int
    low: float
    high: float
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    burn_in_distance: float
    local_sd: float
    constant: float


def describe(x: Tensor, seed: int = 0) -> Stats:
    """The figures of images `x` [n c h w], float in [-1, 1]."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    distance = (noise - x).flatten(1).double().norm(dim=1).mean()
    by_channel = x.double().transpose(0, 1).flatten(1)
    constant = (x.amax(0) == x.amin(0)).double().mean()
    return Stats(
        len(x),
        float(x.min()),
        float(x.max()),
        tuple(by_channel.mean(1).tolist()),
        tuple(by_channel.std(1, correction=0).tolist()),
        float(distance),
        local_sd(x),
        float(constant),
    )


def local_sd(x: Tensor, window: int = WINDOW) -> float:
    """Standard deviation of the data in its most constrained local direction, pixel units.

    At each place the covariance over the images of a window of `window`² pixels (all channels) has a least
    eigenvalue: the variance along the pattern that the data varies least in, for images mostly the fastest
    alternation that the window holds. The result is its root at the 1 % most constrained places, corrected for
    the number of images (the edge of Marchenko and Pastur's law). Exact for Gaussian data; for others a mean over
    kinds of images, of which the smooth ones are more constrained. Few images: windows of all places count as
    one sample. 0 where pixels never change, as at the border of digits: there only data noise gives a width.

    Args:
        x: [n c h w], n ≥ 2; images smaller than the window are one window (a point of a toy too).
        window: px.
    """
    side = min(window, x.shape[2], x.shape[3])
    patches = functional.unfold(x.double(), side, stride=max(1, side - 1))  # [n, c·side², places]
    n, size, places = patches.shape
    if float((patches.amax(0) == patches.amin(0)).all(0).double().mean()) > _LOWEST:
        return 0.0
    if n < _ENOUGH * size:
        patches = patches.transpose(1, 2).reshape(n * places, size, 1)
        n, places = len(patches), 1
    # Centred on its place's mean over images, which is no part of the variation.
    centred = (patches - patches.mean(0)).permute(2, 1, 0)  # [places, size, n]
    least = torch.linalg.eigvalsh(centred @ centred.transpose(1, 2) / max(1, n - 1))[:, 0].clamp_min(0)
    edge = (1 - math.sqrt(min(size / n, 0.8))) ** 2
    return math.sqrt(float(torch.quantile(least, _LOWEST)) / edge)


def suggested_step(local: float, noise: float = 0.0) -> float:
    """ε that chains of data of that width can take: half of sqrt(local² + noise²), pixel units.

    Langevin dynamics resolves no direction narrower than its step. With data noise 2ε and data that adds no
    width of its own this is the authors' practice, ε = ε_data / 2; 0 says that data noise must be added.

    Args:
        local: `local_sd` of the data.
        noise: ε_data, standard deviation of the noise added to the data.
    """
    return math.hypot(local, noise) / 2

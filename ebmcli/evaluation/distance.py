"""Distances between sets of samples, with an error, and the data's own distance beside them.

Images are compared by the Fréchet distance of their features, points of the plane by a kernel distance.
Both are squared distances, and both depend on how many samples there are (the Fréchet distance falls
with their number), so everything here is compared at one number of samples. What a distance means is said
by two others taken in the same way:

    data       images of the data that the reference does not hold: what perfect samples would give
    gaussian   draws from the Gaussian with the data's mean and covariance in pixels: no structure but that
    share      (distance − data) / (gaussian − data): 0 for perfect samples, 1 for that Gaussian
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.evaluation.features import Features, load_features
from ebmcli.evaluation.images import Likeness, Saturation, likeness, pixel_range, saturation
from ebmcli.networks import is_points
from ebmcli.random.streams import Purpose, Stream

HALF = 1000
"""Images in each half of the data, at most: features take about 3 ms an image on one core."""
SUBSETS = 4
"""How many sets of the data, and of the Gaussian, the two other distances are averaged over."""
GROUPS = 10
"""Groups of the jackknife."""
KERNEL_SD = 0.15
"""Of the kernel distance between points, in their own units: the width of the toys' modes and rings."""
_DRAWS = 1_000_000
"""Update number of the streams of this module: no run has as many."""


class Ruler(Protocol):
    """A distance to one set of features or points that is kept."""

    def __call__(self, a: Tensor) -> float:
        """Of a [n d], n ≥ 2."""
        ...

    def without(self, a: Tensor, group: Tensor, groups: int) -> list[float]:
        """Of `a` without each of `groups` in turn; `group` int64 [n] says which a row is in."""
        ...


class Frechet:
    """Fréchet distance, squared, of features [n d] to `held` [m d], by their means and covariances.

    ‖μ_a − μ_b‖² + tr(C_a + C_b − 2·(C_b^½ C_a C_b^½)^½), the quantity that FID is for Inception features
    (Heusel et al. 2017). The square roots go through symmetric eigenvalues, which are real whatever the
    rounding, and singular covariances (n ≤ d) are no special case.
    """

    def __init__(self, held: Tensor) -> None:
        self._mean, cov = held.mean(0), held.T.cov()
        values, vectors = torch.linalg.eigh(cov)
        self._trace = cov.trace()
        self._root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    def __call__(self, a: Tensor) -> float:
        cov = a.T.cov()
        cross = torch.linalg.eigvalsh(self._root @ cov @ self._root).clamp_min(0).sqrt().sum()
        return float((a.mean(0) - self._mean).square().sum() + cov.trace() + self._trace - 2 * cross)

    def without(self, a: Tensor, group: Tensor, groups: int) -> list[float]:
        """Of `a` without each of `groups` in turn."""
        return [self(a[group != g]) for g in range(groups)]


class KernelDistance:
    """Squared maximum mean discrepancy (Gretton et al. 2012) of points [n d] to `held` [m d], Gaussian kernel.

    It is ∫(p − q)² of the densities smoothed with a kernel of sd/√2, in units of the kernel's peak; unbiased: 0 on
    average for equal laws, and below it half of the time.
    """

    def __init__(self, held: Tensor, sd: float = KERNEL_SD) -> None:
        self._held, self._sd = held, sd
        n = len(held)
        self._within = (float(self._kernel(held, held).sum()) - n) / (n * (n - 1))

    def __call__(self, a: Tensor) -> float:
        return self.without(a, torch.zeros(len(a), dtype=torch.int64), 0)[0]

    def without(self, a: Tensor, group: Tensor, groups: int) -> list[float]:
        """Of `a` without each of `groups` in turn; with 0 groups, of all of it."""
        within, across = self._kernel(a, a), self._kernel(a, self._held).mean(1)
        values = []
        for g in range(max(1, groups)):
            kept = group != g if groups else torch.ones_like(group, dtype=torch.bool)
            n = int(kept.sum())
            own = (float(within[kept][:, kept].sum()) - n) / (n * (n - 1))
            values.append(own + self._within - 2 * float(across[kept].mean()))
        return values

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y).square_().div_(-2 * self._sd**2).exp_()


class Compared(NamedTuple):
    """Samples against the reference half of the data."""

    distance: float
    error: float
    """standard error of the distance, by a delete-a-group jackknife over the samples"""
    data: float
    """distance of as many held-out images of the data: what perfect samples would give"""
    gaussian: float
    """distance of as many draws from the Gaussian with the data's mean and covariance"""
    images: int
    """samples that were compared"""

    @property
    def share(self) -> float:
        """Where between the data (0) and the Gaussian (1) the samples are; may be below 0 and far above 1."""
        return (self.distance - self.data) / self._unit

    @property
    def share_error(self) -> float:
        """Standard error of `share`."""
        return self.error / self._unit

    @property
    def _unit(self) -> float:
        # Data that is all but Gaussian leaves no way to go: its own distance, or three errors, are the unit then.
        return max(self.gaussian - self.data, self.data, 3 * self.error if self.error > 0 else 0.0, 1e-12)


class Reference:
    """The data's side of every comparison: two halves of it, with the noise that the model learned it with.

    Args:
        images: [m c h w] of the data without noise, in random order, m ≥ 20; the first 2·`half` are used.
        noise: ε_data, pixel units.
        features: for images; left out, the embedded network. Points [m d 1 1] need none.
        seed: of noise and of the Gaussian's draws.
        half: images in a half, at most.

    Raises:
        EBMError: there are too few images.
    """

    def __init__(
        self, images: Tensor, noise: float = 0.0, features: Features | None = None, seed: int = 0, half: int = HALF
    ) -> None:
        if len(images) < 2 * GROUPS:
            raise EBMError(
                f"a comparison needs {2 * GROUPS} images of the data, received {len(images)}", "give more with `data`"
            )
        half = min(half, len(images) // 2)
        self.seed = seed
        self.noise = noise
        self.images = images[: 2 * half].float().cpu()
        """[2·half c h w] without noise"""
        stream = Stream(seed, Purpose.DATA_NOISE, _DRAWS)
        z = stream.normal(torch.arange(2 * half), 0, self._shape)
        self.x = self.images + noise * z
        """[2·half c h w] as the model learned them"""
        self.points = is_points(self._shape)
        self.features = None if self.points else features or load_features()
        self.low, self.high = pixel_range(self.x)
        self._abs = float(self.x.abs().double().mean())
        represented = self._represent(self.x)
        self._spare = represented[half:]
        self._to: Ruler = (KernelDistance if self.points else Frechet)(represented[:half])
        self._beside: dict[int, tuple[float, float]] = {}
        self._gaussian: Tensor | None = None

    @property
    def name(self) -> str:
        """What the distance is called."""
        return f"kernel distance (sd {KERNEL_SD})" if self.features is None else f"Fréchet ({self.features.name})"

    @property
    def _shape(self) -> tuple[int, int, int]:
        c, h, w = self.images.shape[1:]
        return (c, h, w)

    def compare(self, x: Tensor) -> Compared:
        """The distance of samples x [n c h w], n ≥ 2, to the data; the first ones, if the data are fewer."""
        x = x.detach().cpu().float()[: len(self._spare)]
        mine, count = self._represent(x), len(x)
        data, gaussian = self._others(count)
        groups = min(GROUPS, count // 2)
        if groups < 2:
            return Compared(self._to(mine), math.nan, data, gaussian, count)
        left_out = torch.tensor(self._to.without(mine, torch.arange(count) % groups, groups), dtype=torch.float64)
        error = float(left_out.std(correction=0)) * math.sqrt(groups - 1)
        return Compared(self._to(mine), error, data, gaussian, count)

    def saturation(self, x: Tensor) -> Saturation:
        """How far the pixels of x [n c h w] leave the range of the data."""
        return saturation(x.detach().cpu(), self.low, self.high, self._abs)

    def likeness(self, x: Tensor) -> Likeness:
        """Diversity of x [n c h w], and its nearest images of the data."""
        return likeness(x.detach().cpu(), self.x)

    def draws(self, n: int) -> Tensor:
        """`n` draws [n c h w] from the Gaussian with the data's mean and covariance."""
        flat = self.x.flatten(1)
        mean = flat.mean(0)
        weights = Stream(self.seed, Purpose.START, _DRAWS).normal(torch.arange(n), 0, (len(flat), 1, 1)).flatten(1)
        return (mean + weights @ (flat - mean) / math.sqrt(len(flat) - 1)).view(n, *self._shape)

    def _represent(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() if self.features is None else self.features(x)

    def _others(self, count: int) -> tuple[float, float]:
        """Distances of `count` images of the data and of the Gaussian; found once for each count."""
        if count not in self._beside:
            sets = max(1, min(SUBSETS, len(self._spare) // count))
            if self._gaussian is None or len(self._gaussian) < sets * count:
                self._gaussian = self._represent(self.draws(sets * count))
            self._beside[count] = (
                sum(self._to(part) for part in self._spare[: sets * count].split(count)) / sets,
                sum(self._to(part) for part in self._gaussian[: sets * count].split(count)) / sets,
            )
        return self._beside[count]

"""What a learned energy is as a density of a toy, whose truth is known: quadrature and kernel estimates.

Z, the two Kullback–Leibler divergences and the total variation are integrals over the plane, taken over
square cells that are halved where either density has its mass, until Z stands still: a non-convergent
energy has slopes of hundreds, and its density may be spikes of a few thousandths. Around the toy's own
square lie frames of wider and wider cells, and beyond them the tails of straight rays, so that what a
model hides far away counts too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebmcli.data.toys import Toy
from ebmcli.potential import Potential

CELLS = 200
"""Cells along a side of the toy's square before any is halved."""
FRAMES = 6
"""How often the square is doubled around the toy's own."""
RAYS = 720
NEGLIGIBLE = 1e-10
"""Share of the mass below which a cell is not halved; far below what counts, for a slope may hide in a cell."""
FINEST_TRUTH = 0.01
"""Cells that hold mass of the truth are halved down to this side, in the toy's units (its sd is 0.15)."""
STILL = 1e-5
"""Change of log Z from one halving to the next with which it stands still."""
EVALUATIONS = 3_000_000
"""Points at which an energy is computed at most."""
BATCH = 4096
"""Points at once: what fits a core's cache."""
KERNEL_SD = 0.07
"""Of kernel density estimates, in the toy's units."""

Energy = Callable[[Tensor], Tensor]
"""U(x)/T [n] float64 of points [n 2] float64."""


class Density(NamedTuple):
    """exp(−U)/Z against the truth."""

    kl_true_model: float
    """KL(true‖model), nats; infinite in truth where the model is not normalisable: then that of the box"""
    kl_model_true: float
    """KL(model‖true), nats, as above"""
    total_variation: float
    """½∫|true − model|, in [0, 1], as above"""
    log_z: float
    """log ∫exp(−U) over the plane, or over the box where the model is not normalisable"""
    normalisable: bool
    """whether U rises outwards in every direction"""
    lowest_slope: float
    """least outward slope of U at great distance, over all directions, per unit"""
    outside: float
    """share of the model's mass outside the box; nan where it is not normalisable"""
    box: float
    """half the side of the box around the origin, the toy's units"""
    spacing: float
    """side of the smallest cells"""
    change: float
    """change of log Z in the last halving: an estimate of its error"""


def energy_of(potential: Potential, temperature: float | None = None) -> Energy:
    """U/T of a potential on points of the plane, in float64.

    Single precision is not enough: with the energy scale of ε = 0.01, energies are in the tens of thousands.
    """
    network = copy.deepcopy(potential.network).cpu().double().requires_grad_(False)
    scale = potential.energy_scale / (potential.temperature if temperature is None else temperature)

    def energy(x: Tensor) -> Tensor:
        with torch.no_grad():
            return scale * network(x.double()[:, :, None, None]).flatten()

    return energy


def measure(energy: Energy, toy: Toy) -> Density:
    """All integrals of one energy.

    Args:
        energy: U/T.
        toy: the truth.
    """
    box = 1.5 * toy.extent
    slope, tail = _outwards(energy, box * 2**FRAMES)
    normalisable = bool((slope > 0).all())
    x, side = _cells(box, FRAMES if normalisable else 0)
    minus_u, log_p = _both(energy, toy, x)
    used = len(x)
    log_z = _log_z(minus_u, side, tail)
    change = math.inf
    finest = float(side.min())
    while True:
        area = 2 * side.log()
        model = minus_u + area - log_z > math.log(NEGLIGIBLE)
        truth = (log_p + area > math.log(NEGLIGIBLE)) & (side > FINEST_TRUTH)
        # All that matters is halved together: among cells of one size the errors of the midpoint rule cancel.
        chosen = (model | truth) & (side > (finest / 2) * 1.001)
        if used + 4 * int(chosen.sum()) > EVALUATIONS:
            break
        finest /= 2
        kept = ~chosen
        child, child_side = _halved(x[chosen], side[chosen])
        child_u, child_p = _both(energy, toy, child)
        used += len(child)
        x, side = torch.cat([x[kept], child]), torch.cat([side[kept], child_side])
        minus_u, log_p = torch.cat([minus_u[kept], child_u]), torch.cat([log_p[kept], child_p])
        before, log_z = log_z, _log_z(minus_u, side, tail)
        change = abs(log_z - before)
        if change < STILL and not ((log_p + 2 * side.log() > math.log(NEGLIGIBLE)) & (side > FINEST_TRUTH)).any():
            break
    area = side.square()
    p, log_q = log_p.exp(), minus_u - log_z
    q = log_q.exp()
    inside = (x.abs() <= box).all(1)
    beyond = math.exp(tail - log_z) if normalisable else 0.0
    # 0·log 0 = 0; far out the truth underflows long before its logarithm does.
    kl_true = torch.where(p > 0, p * (log_p - log_q), 0.0)
    kl_model = torch.where(q > 0, q * (log_q - log_p), 0.0)
    return Density(
        kl_true_model=float((kl_true * area).sum()),
        kl_model_true=float((kl_model * area).sum()),
        total_variation=float((p - q).abs().mul(area).sum() / 2) + beyond / 2,
        log_z=log_z,
        normalisable=normalisable,
        lowest_slope=float(slope.min()),
        outside=float((q * area)[~inside].sum()) + beyond if normalisable else math.nan,
        box=box,
        spacing=finest,
        change=change,
    )


def _log_z(minus_u: Tensor, side: Tensor, tail: float) -> float:
    return float(np.logaddexp(float(torch.logsumexp(minus_u + 2 * side.log(), 0)), tail))


def _cells(box: float, frames: int) -> tuple[Tensor, Tensor]:
    """Centres [n 2] and sides [n]: the box in equal cells, then frames of cells twice as wide each."""
    centres, sides = [], []
    for frame in range(frames + 1):
        half = box * 2**frame
        axis = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * (2 * half / CELLS) - half
        x = torch.cartesian_prod(axis, axis)
        if frame:
            x = x[(x.abs() > half / 2).any(1)]
        centres.append(x)
        sides.append(torch.full((len(x),), 2 * half / CELLS, dtype=torch.float64))
    return torch.cat(centres), torch.cat(sides)


def _halved(x: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """The four quarters of each cell."""
    corner = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)], dtype=x.dtype) / 4
    return (x[:, None] + corner * side[:, None, None]).flatten(0, 1), (side / 2).repeat_interleave(4)


def _both(energy: Energy, toy: Toy, x: Tensor) -> tuple[Tensor, Tensor]:
    """−U and the truth's log density at x."""
    pieces = x.split(BATCH)
    return -torch.cat([energy(p) for p in pieces]), torch.cat([toy.log_density(p) for p in pieces])


def _outwards(energy: Energy, half: float) -> tuple[Tensor, float]:
    """Outward slope of U far out [RAYS], along rays in all directions, and log of the mass beyond ±`half`.

    A network of LeakyReLUs is linear along a ray beyond its last kink: the mass is that of a U that is so from
    the square's edge on, ∫exp(−U(R) − s(r − R)) r dr along each ray; −inf where some slope is not positive.
    """
    turn = torch.arange(RAYS, dtype=torch.float64) * (2 * math.pi / RAYS)
    ray = torch.stack([turn.cos(), turn.sin()], 1)
    near, far = 1e3 * half, 2e3 * half
    slope = (energy(far * ray) - energy(near * ray)) / (far - near)
    if not bool((slope > 0).all()):
        return slope, -math.inf
    edge = half / ray.abs().amax(1)
    logs = -energy(edge[:, None] * ray) + (edge / slope + 1 / slope.square()).log()
    return slope, float(torch.logsumexp(logs, 0)) + math.log(2 * math.pi / RAYS)


class Smoothed(NamedTuple):
    """Samples as a kernel density estimate against the truth under the same kernel."""

    total_variation: float
    """½∫|estimate − smoothed truth|"""
    floor: float
    """the same for as many perfect samples"""
    samples: int
    kernel_sd: float
    """the toy's units"""


def smoothed(x: Tensor, toy: Toy, kernel_sd: float = KERNEL_SD, seed: int = 0) -> Smoothed:
    """How far the smoothed density of samples [n 2 1 1] is from the equally smoothed truth.

    Args:
        seed: of the perfect samples whose distance is the floor.
    """
    axis = _axis(toy.extent + 6 * kernel_sd, kernel_sd / 4)
    truth = smooth_truth(toy, axis, kernel_sd)
    perfect = toy.sample(len(x), torch.Generator().manual_seed(seed))
    off, floor = (_variation(estimate(s, axis, kernel_sd), truth, axis) for s in (x, perfect))
    return Smoothed(off, floor, samples=len(x), kernel_sd=kernel_sd)


def _axis(half: float, spacing: float) -> Tensor:
    """Centres of equal cells that cover [−half, half]."""
    n = 2 * math.ceil(half / spacing)
    return ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1) * half


def _variation(a: Tensor, b: Tensor, axis: Tensor) -> float:
    area = float(axis[1] - axis[0]) ** 2
    lost = abs(float((a - b).sum()) * area)  # samples that have left the grid
    return (float((a - b).abs().sum()) * area + lost) / 2


def _kernel(axis: Tensor, at: Tensor, sd: float) -> Tensor:
    """Gaussian weights [len(at) len(axis)]."""
    return torch.exp(-(at[:, None] - axis).square() / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi))


def estimate(x: Tensor, axis: Tensor, kernel_sd: float = KERNEL_SD) -> Tensor:
    """Kernel density estimate of samples [n 2 1 1] on the grid axis × axis, [len len]: [i j] is at (axis_i, axis_j)."""
    points = x.flatten(1).double().cpu()
    points = points[points.isfinite().all(1)]
    return _kernel(axis, points[:, 0], kernel_sd).T @ _kernel(axis, points[:, 1], kernel_sd) / len(x)


def smooth_truth(toy: Toy, axis: Tensor, kernel_sd: float = KERNEL_SD) -> Tensor:
    """The truth convolved with the kernel, on the grid axis × axis."""
    grid = torch.cartesian_prod(axis, axis)
    density = toy.log_density(grid).exp().view(len(axis), len(axis))
    blur = _kernel(axis, axis, kernel_sd) * float(axis[1] - axis[0])
    return blur.T @ density @ blur

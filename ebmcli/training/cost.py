"""What a recipe costs, roughly, from its numbers alone: for lists, without torch (`train --dry-run` measures)."""

from __future__ import annotations

import os
import sys

from ebmcli.recipe.sections import Recipe

RATE = 6e10
"""Floating-point operations a second of one core with AVX2 in the compiled kernel (measured: 50 to 70e9)."""
GENERIC = 4.0
"""How much slower a network is that the compiled kernel does not compute."""
OVERHEAD = 2e-6
"""Seconds a Langevin step of one chain takes for each two values besides the network, mostly its noise."""
LONG_CHAINS, LONG_CHAINS_OF_POINTS = 80, 625
"""Chains of a long run of images, and of points: those from data, and a quarter as many against them."""
SMALLEST = 4
"""Feature maps are halved until they are at most so wide, px."""


def seconds(recipe: Recipe, cores: int | None = None) -> float:
    """Time of all updates on a CPU with `cores` (this machine's, if left out), an estimate to a factor of two.

    nan for networks of others.
    """
    r = recipe
    known = _MULTIPLICATIONS.get(r.potential.network)
    if known is None:
        return float("nan")
    size, channels = r.data.image_size, r.data.channels
    if r.potential.space_to_depth:
        size, channels = size // 2, channels * 4
    # Forward and backward to the input, two operations a multiplication; the weights' gradient costs about as
    # much as three steps more.
    operations = 4.0 * known(size, channels, r.potential.width)
    slower = GENERIC if r.potential.network == "nonlocal" else 1.0
    values = r.data.channels * r.data.image_size**2
    step = slower * operations / RATE + OVERHEAD * max(1.0, values / 512)
    steps = r.train.updates * ((r.mcmc.steps + 1) * r.train.negatives + 3 * (r.train.positives + r.train.negatives))
    return steps * step / (cores or os.cpu_count() or 1)


def long_runs(recipe: Recipe, update: float) -> tuple[int, float]:
    """How many long runs a training makes, and their hours in line, roughly: what their steps take in an update.

    Args:
        recipe: of the training.
        update: seconds that one update takes.
    """
    r = recipe
    count = r.train.updates // r.longrun.every if r.longrun.every else 0
    chains = LONG_CHAINS_OF_POINTS if r.data.image_size == 1 else LONG_CHAINS
    return count, count * r.longrun.steps * chains * update / (r.mcmc.steps * r.train.negatives) / 3600


def largest_memory() -> int | None:
    """Bytes that this process has held at most; None where the system does not say, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_words(duration: float) -> str:
    """Seconds as a rough time: `40 min`, `3 h`, `12 days`; `?` for nan."""
    if duration != duration:
        return "?"
    for unit, size in (("days", 86_400.0), ("h", 3600.0)):
        if duration >= 1.5 * size:
            return f"{duration / size:.0f} {unit}"
    return f"{max(1, round(duration / 60))} min"


def _toy(size: int, channels: int, width: int) -> float:
    wide = 2 * width
    return channels * width + width * wide + 2 * wide * wide + wide


def _vanilla(size: int, channels: int, width: int) -> float:
    total = 9.0 * channels * width * size**2
    while size > SMALLEST:
        size //= 2
        total += 16.0 * width * 2 * width * size**2
        width *= 2
    return total + width * size**2


def _nonlocal(size: int, channels: int, width: int) -> float:
    total = 9.0 * channels * width * size**2
    size //= 2
    while size > SMALLEST:
        # Projections on all places, and attention of every place to a quarter of them.
        total += 2.0 * width**2 * size**2 + width * size**4 / 4
        total += 9.0 * width * 2 * width * size**2
        size, width = size // 2, 2 * width
    return total + width * size**2 * 2 * width


_MULTIPLICATIONS = {"toy": _toy, "vanilla": _vanilla, "nonlocal": _nonlocal}
"""Of one forward pass, by network: image size px, channels, width."""

"""Metastable states: long chains at rest, cooled to their minima, and how far heat moves them from there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import DivergedError
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, LangevinState, Target, run

PIECE = 200
"""Steps whose mean energies are compared to see whether chains are at rest."""
STEADY, HALVINGS = 0.7, 4
"""Part of a descent that is made at full step size, and how often that is halved in the rest."""
SPREAD_STEPS = 50
"""Steps after which the distance from a minimum is taken as the thermal spread."""
SPREAD_CHAINS = 64


class Settling(NamedTuple):
    """Chains on their way to rest."""

    x: Tensor
    """[n c h w]"""
    step: int
    energy: Tensor
    """mean U of each chain over the last piece [n]"""
    still: bool
    """whether the energy is at rest"""


def settle(
    potential: Target,
    x: Tensor,
    step_size: float,
    limit: int,
    *,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    since: Settling | None = None,
) -> Iterator[Settling]:
    """Run chains until their energy is at rest, a record each `PIECE` steps, at most `limit` steps.

    At rest: from one piece to the next the chains' mean energies change, on average over the chains, by less than
    two standard errors.

    Args:
        x: first states [n c h w].
        step_size: ε, pixel units.
        temperature: T; left out, the potential's own.
        since: a record to go on from, of the same chains.

    Raises:
        DivergedError: a chain left the finite numbers.
    """
    kernel = Langevin(potential, step_size, temperature=temperature)
    stream = Stream(seed, Purpose.METASTABLE)
    last = since or Settling(x, 0, torch.full((len(x),), torch.nan, device=x.device), False)
    while last.step < limit and not last.still:
        steps = min(PIECE, limit - last.step)
        ends, means = [], []
        for chains in torch.arange(len(x), device=x.device).split(batch_size):
            state = kernel.init(last.x[chains], stream, chains)._replace(step=last.step)
            path = run(kernel, state, steps)
            ends.append(path.state.x)
            means.append(path.energy[1:].double().mean(dim=0))
        energy = torch.cat(means)
        if not bool(energy.isfinite().all()):
            raise DivergedError(f"chains left the finite numbers at step size {step_size:g}", "use a smaller one")
        change = energy - last.energy
        error = change.std() / len(change) ** 0.5 if len(change) > 1 else torch.zeros(())
        last = Settling(torch.cat(ends), last.step + steps, energy, bool(change.mean().abs() <= 2 * error))
        yield last


def shrunk(done: float) -> float:
    """What ε of a descent is multiplied by when this part of its steps is done.

    Networks of LeakyReLU make energies with creases, and their minima lie on creases: steps of one length zigzag across
    them without end, at a gradient as large as ever.
    """
    return 0.5 ** (math.floor((done - STEADY) / (1 - STEADY) * HALVINGS) + 1) if done >= STEADY else 1.0


def quench(
    potential: Target, x: Tensor, step_size: float, steps: int, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradient descent by ever shorter Langevin steps without noise at T = 1, batch by batch.

    Yields states [n c h w] and energies [n].
    """
    stream = Stream(0, Purpose.METASTABLE)
    factors = [shrunk(step / steps) for step in range(steps)]
    for chains in torch.arange(len(x), device=x.device).split(batch_size):
        at = x[chains]
        energy = potential.energy_and_grad(at)[0]
        for factor, part in itertools.groupby(factors):
            kernel = Langevin(potential, factor * step_size, noise=0.0, temperature=1.0)
            state: LangevinState = run(kernel, kernel.init(at, stream, chains), len(list(part))).state
            at, energy = state.x, state.energy
        yield at, energy


def spread(potential: Target, minima: Tensor, step_size: float, temperature: float, seed: int = 0) -> float:
    """How far heat moves a chain from its minimum in `SPREAD_STEPS` steps, pixel units: the median over chains.

    Args:
        minima: [n c h w]; up to `SPREAD_CHAINS` of them are used, evenly.
    """
    index = torch.linspace(0, len(minima) - 1, min(SPREAD_CHAINS, len(minima))).round().long()
    x = minima[index.to(minima.device)]
    kernel = Langevin(potential, step_size, temperature=temperature)
    state = run(kernel, kernel.init(x, Stream(seed, Purpose.SPREAD)), SPREAD_STEPS).state
    return float((state.x - x).flatten(1).norm(dim=1).median())

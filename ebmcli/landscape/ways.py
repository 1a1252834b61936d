"""The way from one picture to another, and of a damaged one into its basin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.landscape import barriers, grid
from ebmcli.landscape.mapping import MapSettings, conditions_of
from ebmcli.landscape.metastable import quench
from ebmcli.landscape.travel import Travel
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, Target, run

HEAT = 0.05
"""T of travel between two pictures and of recall, over the model's T, where none is given."""
FRAMES = 12
"""States of a relaxation that are kept, the first and the last among them."""


class Trip(NamedTuple):
    """One direction."""

    strength: float
    """least α at which travel arrived"""
    top: float
    """highest raw U of the best attempt at it"""
    path: Tensor
    """as travelled, evenly spaced [k c h w]"""
    energy: Tensor
    """U of its states [k]"""


class Between(NamedTuple):
    """What lies between two pictures."""

    there: Trip | None
    back: Trip | None
    """None: never reached"""
    path: Tensor
    """the lower of both, let down by the string method, from the first picture to the second [k c h w]"""
    energy: Tensor
    """U along it, `barriers.BETWEEN` values a piece"""
    ends: tuple[float, float]
    """U of both ends"""


def between(
    potential: Target, one: Tensor, two: Tensor, settings: MapSettings, temperature: float, batch_size: int = 64
) -> Between:
    """The lowest path known between two states, found in both directions.

    Args:
        one, two: [c h w]; both are cooled to their minima first, by `settings.quench_steps`.
        temperature: T of travel.

    Raises:
        EBMError: both are in one place, or neither direction arrived.
    """
    s = settings
    ends, energies = next(quench(potential, torch.stack([one, two]), s.step_size, s.quench_steps))
    conditions = conditions_of(potential, ends, s, temperature)
    if float((ends[0] - ends[1]).norm()) <= conditions.radius:
        raise EBMError("both pictures relax into the same state", "give two that differ more, or `quench` 0")
    pull = grid.force(potential, ends, energies)
    first = s.strength or 2 * grid.strong(pull, conditions, potential.shape)
    travel = Travel(potential, ends, conditions, s.seed, batch_size)
    search = barriers.Search([(0, 1), (1, 0)], first, s.trials, both=False)
    for results in travel.run(search):
        for job, arrival in results:
            search.give(job, arrival)
    trips = [_trip(potential, travel, found) for found in search.passes]
    known = [(trip.top, number) for number, trip in enumerate(trips) if trip is not None]
    if not known:
        raise EBMError(
            f"no path was found, up to a pull of {search.first:.3g}",
            "raise `alpha`, or `temperature`",
        )
    best = trips[min(known)[1]]
    assert best is not None
    path = (best.path if min(known)[1] == 0 else best.path.flip(0))[None]
    for lowered in barriers.lower(potential, path, s.step_size, s.string_steps):
        path = lowered.paths
    energy = barriers.profile(potential, path[0])
    return Between(trips[0], trips[1], path[0].cpu(), energy.cpu(), (float(energies[0]), float(energies[1])))


def _trip(potential: Target, travel: Travel, found: barriers.Pass) -> Trip | None:
    if found.job is None:
        return None
    [(job, way)] = travel.paths([found.job])
    path = barriers.respaced(way, barriers.NODES)
    return Trip(job.strength, found.top, path, potential.energy_and_grad(path)[0])


class Relaxed(NamedTuple):
    """A state on its way into its basin."""

    frames: Tensor
    """[k c h w]"""
    steps: list[int]
    """after how many steps each frame was"""
    energy: Tensor
    """U of every step [steps + 1]"""


def relax(
    potential: Target, x: Tensor, step_size: float, heated: int, cooled: int, temperature: float, seed: int = 0
) -> Relaxed:
    """Recall (§4.4's Hopfield basins): `heated` Langevin steps at a low temperature, then descent.

    Args:
        x: [c h w], the damaged picture.
        step_size: ε of the model, pixel units; the heated steps are smaller by √(T over the model's T).
        temperature: T of the heated steps.
    """
    stages = [
        (heated, step_size * (temperature / potential.temperature) ** 0.5, 1.0, temperature),
        (cooled, step_size, 0.0, 1.0),
    ]
    frames, steps = [x], [0]
    energies: list[Tensor] = []
    for count, eps, noise, heat in stages:
        kernel = Langevin(potential, eps, noise, heat)
        state = kernel.init(frames[-1][None], Stream(seed, Purpose.METASTABLE))
        for piece in _pieces(count, FRAMES // 2):
            path = run(kernel, state, piece)
            state = path.state
            frames.append(state.x[0])
            steps.append(steps[-1] + piece)
            energies.append(path.energy[0 if not energies else 1 :, 0])
    return Relaxed(torch.stack(frames).cpu(), steps, torch.cat(energies).cpu())


def _pieces(count: int, parts: int) -> Iterator[int]:
    """Pieces that grow, for most happens at first."""
    ends = [round(count * ((k + 1) / parts) ** 2) for k in range(parts)]
    yield from (b - a for a, b in zip([0, *ends], ends, strict=False) if b > a)

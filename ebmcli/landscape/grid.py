"""Which pull and which temperature to group at: a grid of both on a few states, and a rule.

The number of basins depends on the strength α of the pull and on the temperature T: from "every minimum its own" to
"all in one". A landscape's own number is one that does not change over a wide range of α.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.landscape.basins import Grouping, line_tops
from ebmcli.landscape.travel import Arrival, Conditions, Job
from ebmcli.networks import Shape
from ebmcli.sampler import Target

STRENGTHS = 6
"""Strengths on a grid, each half the one before."""
TEMPERATURES = (0.2, 0.05)
"""Times the model's temperature: low enough that hills of a few T are not crossed by chance."""
PILOT = 24
"""States that the grid is tried on."""
NEAREST = 4
"""Basins that each of them is tried against, once."""
ALIKE = 1.15
"""Numbers of basins that differ by less than this factor count as equal."""


class Cell(NamedTuple):
    """One α and T of the grid."""

    temperature: float
    strength: float
    states: int
    basins: int


class Side(NamedTuple):
    """A plan (see `travel.Plan`) of several groupings that differ in their strength, in one batch."""

    groupings: Sequence[Grouping]

    @property
    def decided(self) -> int:
        """States that have a basin, over all groupings."""
        return sum(grouping.decided for grouping in self.groupings)

    def take(self, count: int) -> list[Job]:
        """Jobs of each in turn."""
        jobs: list[Job] = []
        for number, grouping in enumerate(self.groupings):
            share = (count - len(jobs)) // (len(self.groupings) - number)
            jobs += grouping.take(share)
        for grouping in self.groupings:
            jobs += grouping.take(count - len(jobs))
        return jobs

    def give(self, job: Job, arrival: Arrival) -> None:
        """To the grouping whose strength it is."""
        next(g for g in self.groupings if g.strength == job.strength).give(job, arrival)


def force(potential: Target, states: Tensor, energies: Tensor) -> float:
    """The pull that takes a state over a typical straight-line hill, in units of U per pixel unit.

    Median over pairs of neighbours in energy order, of the hill's height over half the distance.
    """
    other = torch.roll(states, len(states) // 2, dims=0)
    distance = (states - other).flatten(1).norm(dim=1)
    heights = line_tops(potential, states, other) - torch.maximum(energies, energies.roll(len(states) // 2))
    slopes = heights / (distance / 2).clamp_min(1e-9)
    slopes = slopes[(distance > 1e-3 * distance.max()) & (slopes > 0)]
    return float(slopes.median()) if len(slopes) else 1.0


def strong(force: float, conditions: Conditions, shape: Shape) -> float:
    """α that takes a typical state over its hill twice over, and holds it within δ against the heat of flat land.

    With U flat a chain settles at about D/α from its target (D numbers a state).
    """
    c, h, w = shape
    return max(2 * force / conditions.temperature, (c * h * w - 1) / conditions.radius)


def strengths(strongest: float, count: int = STRENGTHS) -> list[float]:
    """α of a grid, weakest first, each half the next."""
    return [strongest * 2.0**-k for k in reversed(range(count))]


def choose(cells: Sequence[Cell]) -> Cell:
    """The default: the middle of the longest run, at one T, of α with about equal numbers of basins.

    Runs are looked for where there are at least two basins, and at most half as many as states. Of runs of one
    length the one with more basins is taken, then the one at the lower temperature. If no cell is of that kind, it
    is the cell whose number is nearest to the square root of the number of states.
    """
    best: tuple[tuple[float, ...], Cell] | None = None
    for temperature in {cell.temperature for cell in cells}:
        side = sorted((c for c in cells if c.temperature == temperature), key=lambda c: c.strength)
        for first in range(len(side)):
            run: list[Cell] = []
            for cell in side[first:]:
                numbers = [c.basins for c in [*run, cell]]
                if not 2 <= cell.basins <= cell.states / 2 or max(numbers) > ALIKE * min(numbers):
                    break
                run.append(cell)
            if run:
                middle = run[(len(run) - 1) // 2]
                score = (len(run), middle.basins, -temperature)
                if best is None or score > best[0]:
                    best = (score, middle)
    if best is not None:
        return best[1]
    return min(cells, key=lambda c: (abs(math.log(c.basins / math.sqrt(c.states))), c.temperature, c.strength))

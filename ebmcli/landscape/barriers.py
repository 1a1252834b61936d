"""The hills between basins: attempts at ever weaker pulls, then the best path let down to the pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.landscape.basins import line_tops
from ebmcli.landscape.metastable import shrunk
from ebmcli.landscape.travel import Arrival, Job
from ebmcli.sampler import Target

NEIGHBOURS = 15
"""Other basins that each basin is connected with."""
TRIALS = 4
"""Attempts each way at one strength."""
LESS = 0.95
"""From one strength to the next lower one."""
STRONGEST = 8.0
"""The first attempts are made at least at this many times the strength of grouping."""
LADDER = 100
"""Strengths there are: down to the 160th part of the first."""
NODES = 24
"""States of a path."""
BETWEEN = 4
"""Pieces of a path from node to node in which its energy is looked at."""


class Pass(NamedTuple):
    """The best attempt between two states."""

    pair: tuple[int, int]
    """states, the lower one first"""
    job: Job | None
    """None: never reached"""
    top: float
    """highest raw U of it; ∞"""


def neighbours(potential: Target, states: Tensor, representatives: list[int], most: int) -> list[tuple[int, int]]:
    """Pairs of representatives, each with the `most` others behind the lowest hills on a straight line."""
    index = torch.tensor(representatives, device=states.device)
    pairs: set[tuple[int, int]] = set()
    tops = torch.stack([line_tops(potential, states[i].expand(len(index), -1, -1, -1), states[index]) for i in index])
    tops = torch.minimum(tops, tops.T).cpu()
    for i, one in enumerate(representatives):
        order = sorted((j for j in range(len(representatives)) if j != i), key=lambda j: (float(tops[i, j]), j))
        pairs.update((min(one, representatives[j]), max(one, representatives[j])) for j in order[:most])
    return sorted(pairs)


class Search:
    """A plan (see `travel.Plan`): for each pair the lowest strength at which some attempt arrives.

    Strengths are first·LESS^k. That arrivals grow rarer with k is taken for granted, so the last k with one is
    found by halving instead of going down the whole ladder.

    Args:
        pairs: of states.
        first: the strongest α, with which travel is hoped to be sure.
        trials: attempts each way at one strength.
        both: whether attempts are made in both directions; else from the first of a pair to its second only.
    """

    def __init__(self, pairs: list[tuple[int, int]], first: float, trials: int = TRIALS, both: bool = True) -> None:
        self.pairs = pairs
        self.both = both
        self.first = first
        self.trials = trials
        self._bounds: dict[tuple[int, int], tuple[int, int]] = dict.fromkeys(pairs, (-1, LADDER))
        self._best: dict[tuple[int, int], Pass] = {pair: Pass(pair, None, torch.inf) for pair in pairs}
        self._open: dict[tuple[int, int], dict[Job, Arrival | None]] = {}
        self._waiting: list[Job] = []
        for pair in pairs:
            self._try(pair, 0)

    @property
    def done(self) -> int:
        """Pairs that are decided."""
        return len(self.pairs) - len(self._open)

    @property
    def passes(self) -> list[Pass]:
        """Of every pair, in their order."""
        return [self._best[pair] for pair in self.pairs]

    def take(self, count: int) -> list[Job]:
        """Jobs in the order in which they came to be wanted."""
        jobs, self._waiting = self._waiting[:count], self._waiting[count:]
        return jobs

    def give(self, job: Job, arrival: Arrival) -> None:
        """Keep a result; after the last of a strength go on to the next one."""
        pair = (min(job[:2]), max(job[:2])) if self.both else (job.start, job.target)
        jobs = self._open[pair]
        jobs[job] = arrival
        if any(result is None for result in jobs.values()):
            return
        reached = {j: r for j, r in jobs.items() if r is not None and r.arrived}
        low, high = self._bounds[pair]
        middle = round(math.log(job.strength / self.first) / math.log(LESS))
        low, high = (middle, high) if reached else (low, middle)
        self._bounds[pair] = (low, high)
        for j, r in reached.items():
            if r.top < self._best[pair].top:
                self._best[pair] = Pass(pair, j, r.top)
        del self._open[pair]
        if low >= 0 and high - low > 1:
            self._try(pair, (low + high) // 2)

    def _try(self, pair: tuple[int, int], rung: int) -> None:
        strength = self.first * LESS**rung
        ways = (pair, pair[::-1]) if self.both else (pair,)
        jobs = [Job(*way, trial, strength) for trial in range(self.trials) for way in ways]
        self._open[pair] = dict.fromkeys(jobs)
        self._waiting += jobs


def respaced(path: Tensor, nodes: int) -> Tensor:
    """States at equal distances along a path [k c h w]: [nodes c h w], the ends as they were."""
    return _respaced(path[None], nodes)[0]


def _respaced(paths: Tensor, nodes: int) -> Tensor:
    """Paths [p k c h w] with equally spaced states, [p nodes c h w]."""
    flat = paths.flatten(2)
    lengths = (flat[:, 1:] - flat[:, :-1]).norm(dim=2).double()
    along = torch.cat([lengths.new_zeros(len(paths), 1), lengths.cumsum(dim=1)], dim=1)
    at = along[:, -1:] * torch.linspace(0, 1, nodes, dtype=along.dtype, device=along.device)
    right = torch.searchsorted(along, at).clamp(1, along.shape[1] - 1)
    here, there = along.gather(1, right - 1), along.gather(1, right)
    t = ((at - here) / (there - here).clamp_min(1e-30)).clamp(0, 1).to(flat)[..., None]
    shape = (-1, -1, flat.shape[2])
    a = flat.gather(1, (right - 1)[..., None].expand(shape))
    b = flat.gather(1, right[..., None].expand(shape))
    new = a + t * (b - a)
    new[:, 0], new[:, -1] = flat[:, 0], flat[:, -1]
    return new.view(len(paths), nodes, *paths.shape[2:])


class Strings(NamedTuple):
    """Paths on their way down."""

    paths: Tensor
    """[p nodes c h w]"""
    iteration: int


def lower(
    potential: Target, paths: Tensor, step_size: float, iterations: int, every: int = 20, done: int = 0
) -> Iterator[Strings]:
    """The simplified string method (E, Ren & Vanden-Eijnden 2007) on the raw energy.

    Each iteration moves every inner state by −(ε²/2)·∇U and spaces the states evenly again: a path ends up as one
    of lowest energy between its ends. ε shrinks towards the end as in `metastable.quench`. Paths do not know of each
    other.

    Args:
        paths: [p nodes c h w], the ends minima.
        step_size: ε, pixel units.
        every: iterations between two records.
        done: iterations made before.
    """
    p, nodes = paths.shape[:2]
    while done < iterations:
        for _ in range(min(every, iterations - done)):
            inner = paths[:, 1:-1].flatten(0, 1)
            grad = potential.energy_and_grad(inner)[1]
            moved = (inner - (shrunk(done / iterations) * step_size) ** 2 / 2 * grad).view(
                p, nodes - 2, *paths.shape[2:]
            )
            paths = _respaced(torch.cat([paths[:, :1], moved, paths[:, -1:]], dim=1), nodes)
            done += 1
        yield Strings(paths, done)


def points(path: Tensor, between: int = BETWEEN) -> Tensor:
    """States of a path [k c h w] and `between` − 1 points of each of its pieces: [(k − 1)·between + 1 c h w]."""
    t = torch.arange(between, device=path.device, dtype=path.dtype).view(1, -1, 1, 1, 1) / between
    return torch.cat([(path[:-1, None] + t * (path[1:, None] - path[:-1, None])).flatten(0, 1), path[-1:]])


def profile(potential: Target, path: Tensor, between: int = BETWEEN) -> Tensor:
    """U along a path [k c h w], at its `points`: [(k − 1)·between + 1]."""
    return potential.energy_and_grad(points(path, between))[0]

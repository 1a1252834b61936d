"""Which metastable states share a basin: grouping by attraction–diffusion.

States are taken from the lowest energy to the highest. Each is tried, both ways, against the known basins that
lie behind the lowest hills on a straight line; it joins the one that most attempts reach, or founds a basin of its
own, whose lowest member it is. What the next state does depends on that decision, yet the batch never waits: jobs
of later states are done ahead, and as a job's result depends on nothing but the job, the outcome is that of doing
one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.landscape.travel import Arrival, Job
from ebmcli.sampler import Target

POINTS = 10
"""Points of a straight line whose highest energy tells how near a basin is."""
NEAREST = 10
"""Basins that a state is tried against."""
ROUNDS = 3
"""Times each of them is tried, until one is reached."""


class Basins(NamedTuple):
    """States in groups."""

    members: list[list[int]]
    """of each basin, lowest first; the first is its representative. Basins by the energy of it"""

    @property
    def of(self) -> list[int]:
        """The basin of each state."""
        basin = {state: number for number, states in enumerate(self.members) for state in states}
        return [basin[state] for state in range(len(basin))]

    @property
    def representatives(self) -> list[int]:
        """The lowest state of each basin."""
        return [states[0] for states in self.members]


def line_tops(potential: Target, start: Tensor, end: Tensor, points: int = POINTS) -> Tensor:
    """Highest energy [n] at `points` points of the straight lines from start to end [n c h w], ends included."""
    at = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)
    top = torch.full((len(start),), -torch.inf, device=start.device)
    for t in at:
        top = torch.maximum(top, potential.energy_and_grad(start + t * (end - start))[0])
    return top


class Grouping:
    """A plan (see `travel.Plan`) that ends with `basins`.

    Args:
        potential: U.
        states: [n c h w], the lowest energy first.
        strength: α of every job, 1/pixel units.
        radius: δ, pixel units: a state this near a representative is there already, and joins the nearest such.
        rounds: times each of the nearest basins is tried.
        nearest: how many basins a state is tried against.
    """

    def __init__(
        self,
        potential: Target,
        states: Tensor,
        strength: float,
        radius: float,
        rounds: int = ROUNDS,
        nearest: int = NEAREST,
    ) -> None:
        self.potential = potential
        self.states = states
        self.strength = strength
        self.radius = radius
        self.rounds = rounds
        self.nearest = nearest
        self.members: list[list[int]] = []
        self.decided = 0
        self._tops: list[Tensor] = []
        self._there: dict[int, tuple[float, int]] = {}
        self._results: dict[Job, Arrival] = {}
        self._taken: set[Job] = set()
        self._near: dict[int, tuple[int, list[int]]] = {}
        self._settle()

    @property
    def done(self) -> bool:
        """Whether every state has its basin."""
        return self.decided == len(self.states)

    @property
    def basins(self) -> Basins:
        """The groups so far."""
        return Basins([list(states) for states in self.members])

    def take(self, count: int) -> list[Job]:
        """All that the next state waits for, then first rounds of those after it."""
        jobs: list[Job] = []
        for state in range(self.decided, len(self.states)):
            if len(jobs) >= count:
                break
            if state in self._there:
                continue
            rounds = self.rounds if state == self.decided else 1
            jobs += (job for job in self._wanted(state, rounds) if job not in self._taken)
        jobs = jobs[:count]
        self._taken.update(jobs)
        return jobs

    def give(self, job: Job, arrival: Arrival) -> None:
        """Keep a result, and decide as many states as it allows."""
        self._taken.add(job)
        self._results[job] = arrival
        self._settle()

    def _settle(self) -> None:
        while not self.done:
            state = self.decided
            if state in self._there:
                self.members[self._there[state][1]].append(state)
                self.decided += 1
                continue
            reached: dict[int, list[Arrival]] = {}
            for number in range(self.rounds):
                results = {basin: self._round(state, basin, number) for basin in self._nearest(state)}
                if any(job not in self._results for jobs in results.values() for job in jobs):
                    return
                for basin, jobs in results.items():
                    reached[basin] = [r for r in map(self._results.__getitem__, jobs) if r.arrived]
                if any(reached.values()):
                    break
            if any(reached.values()):
                best = min(reached, key=lambda b: (-len(reached[b]), min((r.top for r in reached[b]), default=0), b))
                self.members[best].append(state)
            else:
                self._found(state)
            self.decided += 1

    def _found(self, state: int) -> None:
        self.members.append([state])
        later = self.states[state + 1 :]
        tops = torch.full((len(self.states),), torch.inf)
        if len(later):
            here = self.states[state : state + 1].expand(len(later), -1, -1, -1)
            tops[state + 1 :] = line_tops(self.potential, here, later).cpu()
            distance = (later - here).flatten(1).norm(dim=1).tolist()
            for other, d in enumerate(distance, start=state + 1):
                if d <= self.radius and d < self._there.get(other, (torch.inf, 0))[0]:
                    self._there[other] = (d, len(self._tops))
        self._tops.append(tops)

    def _nearest(self, state: int) -> list[int]:
        """The basins to try, nearest first."""
        known, order = self._near.get(state, (0, []))
        if known != len(self.members):
            tops = [float(t[state]) for t in self._tops]
            order = sorted(range(len(tops)), key=lambda b: (tops[b], b))[: self.nearest]
            self._near[state] = (len(tops), order)
        return order

    def _round(self, state: int, basin: int, number: int) -> tuple[Job, Job]:
        other = self.members[basin][0]
        return Job(state, other, number, self.strength), Job(other, state, number, self.strength)

    def _wanted(self, state: int, rounds: int) -> Iterator[Job]:
        """Jobs that are needed to decide about a state, as things stand, up to a round that reaches a basin."""
        for number in range(rounds):
            jobs = [job for basin in self._nearest(state) for job in self._round(state, basin, number)]
            yield from (job for job in jobs if job not in self._results)
            if any(job in self._results and self._results[job].arrived for job in jobs):
                return

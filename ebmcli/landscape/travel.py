"""Attraction–diffusion: chains that a constant pull draws from one state to another.

AD(x0 → x*) of Hill, Nijkamp & Zhu (2019): a chain on the magnetised energy U/T + α·‖x − x*‖ has come
over when it is within δ of x*. Jobs do not know of each other, so they run as one batch whose places are
filled anew as they fall free, and what a job comes to depends on its own numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ebmcli.errors import DivergedError
from ebmcli.native.threads import around
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import MALA, Kernel, Langevin, LangevinState, Magnetised, Target

STATES, TRIALS, STEPS = 2**16, 2**6, 2**20
"""Most states, trials of a pair and steps of a job: together they number every step of every job in 63 bits."""
HARVEST = 8
"""Steps between two looks for jobs that have ended."""
KEPT = 64
"""Most states of a path that are kept."""


class Job(NamedTuple):
    """One attempt to travel between two of the states."""

    start: int
    target: int
    trial: int
    strength: float
    """α, 1/pixel units"""


class Arrival(NamedTuple):
    """What a job came to."""

    arrived: bool
    """whether it came within δ of its target"""
    top: float
    """highest raw U on the way, both ends included"""
    steps: int


class Conditions(NamedTuple):
    """What all jobs of a map have in common."""

    temperature: float
    """T, by which U is divided"""
    step_size: float
    """ε, pixel units"""
    radius: float
    """δ, pixel units: how near is there"""
    patience: int
    """M: steps without a new least distance after which a job has failed"""
    limit: int
    """S_max: steps after which it has failed in any case"""
    adjust: bool = False
    """whether steps are Metropolis–Hastings adjusted"""


class Plan(Protocol):
    """Who wants jobs done, and learns what they came to."""

    def take(self, count: int) -> list[Job]:
        """At most `count` further jobs, the most urgent first; none while it has to wait, or is done."""
        ...

    def give(self, job: Job, arrival: Arrival) -> None:
        """A job that was taken has ended."""
        ...


class _Batch(NamedTuple):
    """Jobs under way, one a place."""

    jobs: list[Job]
    target: Tensor
    strength: Tensor
    state: LangevinState
    taken: Tensor
    """steps made, int64 [n]"""
    nearest: Tensor
    """least distance so far [n]"""
    stalled: Tensor
    """steps since then, int64 [n]"""
    top: Tensor
    """highest raw U so far [n]"""
    arrived: Tensor
    ended: Tensor
    """bool [n]"""


class Travel:
    """Runs the jobs of a plan.

    Args:
        potential: U, on the device of the states.
        states: [n c h w] between which jobs travel.
        conditions: of all jobs.
        seed: of their random numbers.
        batch_size: jobs at once; changes memory and speed, not what a job comes to.
    """

    def __init__(
        self, potential: Target, states: Tensor, conditions: Conditions, seed: int = 0, batch_size: int = 64
    ) -> None:
        assert len(states) <= STATES
        assert conditions.limit < STEPS
        self.potential = potential
        self.states = states
        self.conditions = conditions
        self.batch_size = batch_size
        self.steps_done = 0
        self._stream = Stream(seed, Purpose.TRAVEL)

    def run(self, plan: Plan) -> Iterator[list[tuple[Job, Arrival]]]:
        """Do what the plan wants until it wants no more; yields what has ended, in no particular order.

        The caller gives the results to the plan (and may keep them first).

        Raises:
            DivergedError: a chain left the finite numbers.
        """
        batch: _Batch | None = None
        while True:
            jobs = plan.take(self.batch_size - (len(batch.jobs) if batch else 0))
            if jobs:
                new = self._begin(jobs)
                batch = new if batch is None else _join(batch, new)
            if batch is None:
                return
            batch = self._advance(batch)
            results, batch = self._harvest(batch)
            if results:
                yield results

    def paths(self, jobs: list[Job]) -> Iterator[tuple[Job, Tensor]]:
        """The ways that jobs take: at most `KEPT` states from start to target [k c h w], targets included.

        A job does the same each time, so ways need not be kept while jobs are many.
        """
        for part in range(0, len(jobs), self.batch_size):
            batch: _Batch = self._begin(jobs[part : part + self.batch_size])
            ways = [_Way(x) for x in batch.state.x]
            while not bool(batch.ended.all()):
                alive = ~batch.ended
                batch = self._step(batch, self._kernel(batch))
                for place in alive.nonzero()[:, 0].tolist():
                    ways[place].add(batch.state.x[place])
            for job, way in zip(batch.jobs, ways, strict=True):
                yield job, torch.cat([torch.stack(way.states), self.states[job.target : job.target + 1]])

    def _begin(self, jobs: list[Job]) -> _Batch:
        device = self.states.device
        x = self.states[[job.start for job in jobs]].clone()
        target = self.states[[job.target for job in jobs]]
        strength = torch.tensor([job.strength for job in jobs], device=device)
        numbers = [((job.start * STATES + job.target) * TRIALS + job.trial) * STEPS for job in jobs]
        magnetised = Magnetised(self.potential, target, strength, self.conditions.temperature)
        value, grad = magnetised.energy_and_grad(x)
        energy = magnetised.raw_energy(x, value)
        # The other end counts too: U(x*) is V(x*), where the pull is nothing.
        end = magnetised.energy_and_grad(target)[0] * self.conditions.temperature
        state = LangevinState(x, value, grad, 0, self._stream, torch.tensor(numbers, device=device))
        n, distance = len(jobs), magnetised.distance(x)
        zeros = torch.zeros(n, dtype=torch.int64, device=device)
        arrived = distance <= self.conditions.radius
        top = torch.maximum(energy, end)
        return _Batch(jobs, target, strength, state, zeros, distance, zeros.clone(), top, arrived, arrived.clone())

    def _kernel(self, batch: _Batch) -> Kernel[LangevinState]:
        magnetised = Magnetised(self.potential, batch.target, batch.strength, self.conditions.temperature)
        if self.conditions.adjust:
            return MALA(magnetised, self.conditions.step_size)
        return Langevin(magnetised, self.conditions.step_size)

    def _advance(self, batch: _Batch) -> _Batch:
        kernel = self._kernel(batch)
        with around(self.potential):
            for _ in range(HARVEST):
                batch = self._step(batch, kernel)
        return batch

    def _step(self, batch: _Batch, kernel: Kernel[LangevinState]) -> _Batch:
        """One step of every job; those that have ended move on, but nothing is noted of them."""
        # The number of a chain's step is part of the chain's number: jobs of different age share a batch.
        moved, _ = kernel.step(batch.state)
        state = moved._replace(chains=moved.chains + 1, step=0)
        magnetised = kernel.potential
        assert isinstance(magnetised, Magnetised)
        distance = magnetised.distance(state.x)
        energy = (state.energy - batch.strength * distance) * self.conditions.temperature
        alive = ~batch.ended
        taken = batch.taken + alive
        nearer = distance < batch.nearest
        stalled = (batch.stalled + 1).where(~nearer, 0)
        top = torch.maximum(batch.top, energy).where(alive, batch.top)
        arrived = batch.arrived | (alive & (distance <= self.conditions.radius))
        given_up = (stalled >= self.conditions.patience) | (taken >= self.conditions.limit)
        self.steps_done += len(batch.jobs)
        return batch._replace(
            state=state,
            taken=taken,
            nearest=torch.minimum(batch.nearest, distance),
            stalled=stalled,
            top=top,
            arrived=arrived,
            ended=batch.ended | arrived | given_up,
        )

    def _harvest(self, batch: _Batch) -> tuple[list[tuple[Job, Arrival]], _Batch | None]:
        ended = batch.ended.tolist()
        if not any(ended):
            return [], batch
        values = zip(batch.arrived.tolist(), batch.top.tolist(), batch.taken.tolist(), strict=True)
        results = [(job, Arrival(*v)) for job, end, v in zip(batch.jobs, ended, values, strict=True) if end]
        if not all(top == top for _, (_, top, _) in results):
            raise DivergedError(
                f"attraction–diffusion left the finite numbers at step size {self.conditions.step_size:g}",
                "use a smaller `step_size`",
            )
        keep = (~batch.ended).nonzero()[:, 0]
        if not len(keep):
            return results, None
        jobs = [job for job, end in zip(batch.jobs, ended, strict=True) if not end]
        return results, _rebuilt(jobs, batch, lambda name, owner: getattr(owner, name)[keep])


class _Way:
    """States on a path, evenly in time: when there are too many, every second one goes."""

    def __init__(self, x: Tensor) -> None:
        self.states = [x.clone()]
        self._every, self._seen = 1, 0

    def add(self, x: Tensor) -> None:
        self._seen += 1
        if self._seen % self._every:
            return
        self.states.append(x.clone())
        if len(self.states) == KEPT:
            self.states = self.states[::2]
            self._every *= 2


def _join(one: _Batch, two: _Batch) -> _Batch:
    def both(name: str, owner: Any) -> Tensor:
        return torch.cat([getattr(owner, name), getattr(two if owner is one else two.state, name)])

    return _rebuilt(one.jobs + two.jobs, one, both)


def _rebuilt(jobs: list[Job], batch: _Batch, make: Callable[[str, Any], Tensor]) -> _Batch:
    """A batch of `jobs` with every tensor made anew, out of its name and the batch or state that has it."""
    state: dict[str, Any] = {name: make(name, batch.state) for name in ("x", "energy", "grad", "chains")}
    names = ("target", "strength", "taken", "nearest", "stalled", "top", "arrived", "ended")
    own: dict[str, Any] = {name: make(name, batch) for name in names}
    return batch._replace(jobs=jobs, state=batch.state._replace(**state), **own)

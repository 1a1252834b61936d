"""Beside single steps: Metropolis test, jobs of a map, batch and image sizes, memory over many updates."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebmcli.bench.steps import Case, Figure, Row, bench, candidates, interleaved, one_update, released, trainer
from ebmcli.landscape.mapping import auto_batch
from ebmcli.landscape.travel import Arrival, Conditions, Job, Travel
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import MALA, run

CHAINS = (1, 16, 100, 1000)
PIXELS = (16, 28, 32, 64)
UPDATES = 2000


class Adjusted(NamedTuple):
    """MALA on one case with one backend."""

    case: str
    backend: str
    step: Figure
    """one step of all chains, seconds"""
    ratio: float
    """median over rounds of the plain loop's time in the round, divided by this one's"""
    acceptance: float
    """probability of acceptance, mean over chains and steps of the last round (eager: the part that was accepted)"""


def eager_mala(network: nn.Module, x: Tensor, steps: int, step_size: float) -> tuple[Tensor, float]:
    """The baseline: MALA that computes energy and gradient of both ends in every step, by autograd.

    Returns the states and the part of the proposals that were accepted.
    """
    scale = 2 / step_size**2

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        energy = scale * network(x).flatten()
        return energy.detach(), torch.autograd.grad(energy.sum(), x)[0]

    def proposal(to: Tensor, at: Tensor, grad: Tensor) -> Tensor:
        return -((to - at + step_size**2 / 2 * grad) ** 2).flatten(1).sum(dim=1) / (2 * step_size**2)

    accepted = 0.0
    for _ in range(steps):
        energy, grad = look(x)
        new = x - step_size**2 / 2 * grad + step_size * torch.randn_like(x)
        energy_new, grad_new = look(new)
        log_ratio = energy - energy_new + proposal(x, new, grad_new) - proposal(new, x, grad)
        yes = torch.rand_like(energy).log() < log_ratio
        x = torch.where(yes.view(-1, 1, 1, 1), new, x)
        accepted += float(yes.float().mean())
    return x, accepted / max(1, steps)


def metropolis(
    case: Case, device: torch.device, rounds: int = 9, only: str | None = None, steps: int = 10
) -> list[Adjusted]:
    """MALA by the best backend (or the one called `only`) against `eager_mala`, which comes first."""
    potentials = candidates(case, device, only)
    plain = released(case, device)
    x = (torch.rand(case.chains, *case.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)
    name, potential = next(iter(potentials.items()))
    kernel = MALA(potential, case.step_size)
    start = kernel.init(x, Stream(0, Purpose.MCMC), torch.arange(case.chains, device=device))
    shares = {"eager": 0.0, name: 0.0}

    def theirs() -> None:
        shares["eager"] = eager_mala(plain, x, steps, case.step_size)[1]

    def ours() -> None:
        path = run(kernel, start, steps)
        assert path.acceptance is not None
        shares[name] = float(path.acceptance.mean())

    seconds = interleaved({"eager": theirs, name: ours}, rounds, device)
    return [
        Adjusted(
            case=case.name,
            backend=key,
            step=Figure.of([s / steps for s in seconds[key]]),
            ratio=statistics.median(b / s for b, s in zip(seconds["eager"], seconds[key], strict=True)),
            acceptance=shares[key],
        )
        for key in ("eager", name)
    ]


class Travelled(NamedTuple):
    """Jobs of attraction–diffusion on one case, so many at once."""

    case: str
    backend: str
    jobs: int
    """at once"""
    step: Figure
    """one step of one job, seconds"""
    ratio: float
    """median over rounds of the time of jobs one at a time, divided by this one's"""


class _Jobs:
    """A plan (see `landscape.travel.Plan`) of so many jobs, each from one state to the next."""

    def __init__(self, count: int) -> None:
        self.waiting = [Job(state, state + 1, 0, 1.0) for state in range(count)]

    def take(self, count: int) -> list[Job]:
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def give(self, job: Job, arrival: Arrival) -> None:
        pass


def journeys(
    case: Case, device: torch.device, rounds: int = 9, only: str | None = None, steps: int = 64
) -> list[Travelled]:
    """Jobs of a map one at a time, and as many at once as a map does, by the best backend (or the one called `only`).

    Nobody arrives, and every job takes `steps` steps.
    """
    name, potential = next(iter(candidates(case, device, only).items()))
    many = auto_batch(potential)
    states = (torch.rand(many + 1, *case.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)
    conditions = Conditions(1.0, case.step_size, radius=0.0, patience=steps, limit=steps)
    alone = {1: 4, many: many}

    def go(at_once: int) -> Callable[[], None]:
        travel = Travel(potential, states, conditions, batch_size=at_once)

        def all_of_them() -> None:
            plan = _Jobs(alone[at_once])
            ended = sum(len(results) for results in travel.run(plan))
            assert ended == alone[at_once]

        return all_of_them

    seconds = interleaved({str(n): go(n) for n in alone}, rounds, device)
    each = {n: [s / (count * steps) for s in seconds[str(n)]] for n, count in alone.items()}
    return [
        Travelled(
            case.name, name, n, Figure.of(times), statistics.median(a / b for a, b in zip(each[1], times, strict=True))
        )
        for n, times in each.items()
    ]


def sizes(case: Case, device: torch.device, rounds: int = 3) -> Iterator[Row]:
    """The case's fastest backend at several numbers of chains, and for images at several widths in pixels."""
    cases = [case._replace(name=f"{case.name}, {n} chains", chains=n) for n in CHAINS]
    if case.shape[1] > 1:
        channels = case.shape[0]
        cases += [case._replace(name=f"{case.name} at {p} px", shape=(channels, p, p)) for p in PIXELS]
    for one in cases:
        yield min(bench(one, device, rounds)[1:], key=lambda row: row.step.median)


def _peak() -> int:
    """The most memory that this process has held so far, bytes."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def memory(
    case: Case, device: torch.device, updates: int = UPDATES, after: Callable[[int], Any] = lambda update: None
) -> tuple[int, int]:
    """The process's peak after a tenth of `updates` updates with L = 2, and after all of them, bytes.

    Args:
        after: called with the number of each update.
    """
    learner = trainer(next(iter(candidates(case, device).values())), case, 2)
    early = 0
    for update in range(1, updates + 1):
        one_update(learner)
        if update == max(1, updates // 10):
            early = _peak()
        after(update)
    return early, _peak()

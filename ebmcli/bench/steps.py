"""What a Langevin step costs, against the plain loop, on this machine.

All candidates run in interleaved rounds in one process, so that a machine that changes its speed
does so for all of them; figures are medians and quartiles over the rounds. The baseline, `eager`, is
the loop of the authors' released code: autograd at every step, contiguous tensors, torch's default
threads. It is written out here and is not made slower than it is.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ebmcli.engine.choose import BACKENDS, disagreement
from ebmcli.errors import EBMError
from ebmcli.networks import Shape, build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.recipe.sections import MCMCSettings, OptimizerSettings, TrainSettings
from ebmcli.sampler import Langevin, run
from ebmcli.training.trainer import Trainer

ROUND_SECONDS = 0.25
"""Each candidate takes at least so long in a round, if a round has several steps of it at all."""

REST_SECONDS = 0.02
"""Between two candidates: the threads of the one before wait by spinning, on the cores of the next."""


class Case(NamedTuple):
    """One network on one shape with one number of chains."""

    name: str
    network: str
    shape: Shape
    arguments: dict[str, Any]
    chains: int
    steps: int = 100
    """L, for the cost of an update"""
    step_size: float = 0.01
    trusted: bool = False
    """whether code may be imported as its network"""


SUITE = (
    Case("vanilla 32×32×3, width 32", "vanilla", (3, 32, 32), {"width": 32}, 100),
    Case("vanilla 32×32×1, width 16", "vanilla", (1, 32, 32), {"width": 16}, 64),
    Case("vanilla 28×28×1, width 16", "vanilla", (1, 28, 28), {"width": 16}, 64),
    Case("vanilla 28×28×1, width 8", "vanilla", (1, 28, 28), {"width": 8}, 64),
    Case("vanilla 16×16×1, width 16", "vanilla", (1, 16, 16), {"width": 16}, 64),
    Case("nonlocal 32×32×3, width 32", "nonlocal", (3, 32, 32), {"width": 32}, 100),
    Case("toy", "toy", (2, 1, 1), {"width": 32}, 100),
)
"""The works whose ratios are quoted."""


class Figure(NamedTuple):
    """Seconds: median and quartiles over rounds."""

    median: float
    first: float
    third: float

    @classmethod
    def of(cls, seconds: list[float]) -> Figure:
        """From one number a round."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        q1, q2, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(q2, q1, q3)


class Row(NamedTuple):
    """One backend on one case; what only a backend of ours has is None for the baseline."""

    case: str
    chains: int
    backend: str
    step: Figure
    """one Langevin step of all chains, seconds"""
    ratio: float
    """median over rounds of the baseline's time in the round, divided by this one's"""
    chain_steps: float
    """chains · steps a second"""
    gflops: float
    """arithmetic rate, counted as direct convolutions, forward and input gradient"""
    share: float
    """of the fastest matrix product or convolution measured in the same run"""
    updates_per_hour: float | None = None
    """with the case's L; the update of the weights included"""
    error: float | None = None
    """of a one-step gradient against float64, relative to the largest"""
    drift_median: float | None = None
    drift_99: float | None = None
    """|difference| from the baseline's pixels after 20 steps on the same noise: 50% and 99% quantiles"""


def eager_steps(network: nn.Module, x: Tensor, steps: int, step_size: float, noise: list[Tensor] | None) -> Tensor:
    """The baseline: the released code's loop with the langevin scale (Eq. 12)."""
    for step in range(steps):
        x = x.detach().requires_grad_(True)
        grad = torch.autograd.grad(network(x).sum(), x)[0]
        z = torch.randn_like(x) if noise is None else noise[step]
        x = x.detach() - grad + step_size * z
    return x.detach()


def released(case: Case, device: torch.device) -> nn.Module:
    """The network as the released code computes it: its layers one by one, the toys' as convolutions."""
    network = build(case.network, case.shape, trusted=case.trusted, **case.arguments).to(device)
    layers = getattr(network, "f", network)
    assert isinstance(layers, nn.Module)
    return layers


def flops(network: nn.Module, shape: Shape) -> int:
    """Operations of F and ∂F/∂x for one image, counting layers with weights as direct products."""
    total = 0

    def count(module: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        positions = out[0].numel() // weight.shape[0]
        total += 2 * weight.numel() * positions

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(torch.zeros(1, *shape, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return 2 * total


def limit(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a large matrix product and a large convolution, the best of a few."""
    n = 1536
    a = torch.randn(n, n, device=device)
    image = torch.randn(32, 64, 32, 32, device=device).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    work: dict[str, tuple[Callable[[], Any], float]] = {
        "matrix product": (lambda: a @ a, 2 * n**3),
        "convolution": (lambda: conv(image), 2 * 64 * 64 * 9 * 32 * 32 * 32),
    }
    with torch.inference_mode():
        return {name: count / min(_timed(f, device) for _ in range(7)) / 1e9 for name, (f, count) in work.items()}


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def interleaved(jobs: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each job in each round, one after the other in every round, after one warm-up of each."""
    for job in jobs.values():
        job()
    result: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            time.sleep(REST_SECONDS)
            result[name].append(_timed(job, device))
    return result


def candidates(
    case: Case, device: torch.device, only: str | None = None, precision: str = "float32"
) -> dict[str, Potential]:
    """A potential for each backend that runs this case, all with the same weights."""
    network = build(case.network, case.shape, trusted=case.trusted, **case.arguments).to(device)
    result = {}
    for name, (fits, _) in BACKENDS.items():
        if only not in (None, name) or not fits(network, case.shape, device, precision):
            continue
        potential = Potential(
            copy.deepcopy(network), case.shape, 2 / case.step_size**2, backend=name, precision=precision
        )
        try:
            assert potential.backend.name == name
        except EBMError:
            continue  # it disagreed with plain autograd here, and would not be chosen either
        result[name] = potential
    return result


def bench(
    case: Case, device: torch.device, rounds: int = 9, only: str | None = None, precision: str = "float32"
) -> list[Row]:
    """All backends on one case, against `eager`; the first row is the baseline's."""
    potentials = candidates(case, device, only, precision)
    plain = released(case, device)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(case.chains, *case.shape, generator=generator) * 2 - 1).to(device)
    chains = torch.arange(case.chains, device=device)
    stream = Stream(0, Purpose.MCMC)

    once = _timed(lambda: eager_steps(plain, x, 1, case.step_size, None), device)
    once = min(once, _timed(lambda: eager_steps(plain, x, 1, case.step_size, None), device))
    steps = max(5, min(200, int(ROUND_SECONDS / once)))

    def path(potential: Potential) -> Callable[[], Any]:
        kernel = Langevin(potential, case.step_size)
        state = kernel.init(x, stream, chains)
        return lambda: run(kernel, state, steps)

    jobs: dict[str, Callable[[], Any]] = {"eager": lambda: eager_steps(plain, x, steps, case.step_size, None)}
    jobs |= {name: path(potential) for name, potential in potentials.items()}
    seconds = interleaved(jobs, rounds, device)

    noise = [stream.normal(chains, step, case.shape) for step in range(20)]
    reference = eager_steps(plain, x, 20, case.step_size, noise)
    best, work = max(limit(device).values()), flops(plain, case.shape) * case.chains
    rows = []
    for name in jobs:
        each = Figure.of([s / steps for s in seconds[name]])
        ratio = statistics.median(b / s for b, s in zip(seconds["eager"], seconds[name], strict=True))
        rate = work / each.median / 1e9
        row = Row(
            case=case.name,
            chains=case.chains,
            backend=name,
            step=each,
            ratio=ratio,
            chain_steps=case.chains / each.median,
            gflops=rate,
            share=rate / best,
        )
        if name in potentials:
            potential = potentials[name]
            kernel = Langevin(potential, case.step_size)
            end = run(kernel, kernel.init(x, stream, chains), 20).state.x
            median, last = np.quantile((end - reference).abs().cpu().numpy(), [0.5, 0.99]).tolist()
            update = each.median * (case.steps + 1) + weight_update(potential, case, device, each.median)
            row = row._replace(
                updates_per_hour=3600 / update,
                error=disagreement(potential.backend, potential.network, case.shape, device),
                drift_median=median,
                drift_99=last,
            )
        rows.append(row)
    return rows


class _Fixed:
    """Data that costs nothing to draw."""

    name = identity = "fixed"

    def __init__(self, shape: Shape, n: int) -> None:
        self.shape = shape
        self.x = torch.rand(n, *shape) * 2 - 1

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """The first n, always."""
        return self.x[:n]


def trainer(potential: Potential, case: Case, steps: int) -> Trainer:
    """Algorithm 1 on this case, with noise starts and Adam, on a copy of the potential."""
    return Trainer(
        copy.deepcopy(potential),
        _Fixed(case.shape, case.chains),
        MCMCSettings(init="uniform", steps=steps, step_size=case.step_size),
        OptimizerSettings(name="adam", learning_rate=1e-4),
        TrainSettings(updates=1, positives=case.chains, negatives=case.chains),
    )


def one_update(learner: Trainer) -> None:
    """The next update."""
    next(learner.updates(learner.update + 1))


def weight_update(potential: Potential, case: Case, device: torch.device, step: float, rounds: int = 5) -> float:
    """Seconds of everything in an update but the chains' gradients: data, starts, loss, optimiser.

    Args:
        step: seconds of one step; an update with L = 1 has two gradients, which are taken off.
    """
    learner = trainer(potential, case, 1)
    seconds = interleaved({"update": lambda: one_update(learner)}, rounds, device)
    return max(0.0, statistics.median(seconds["update"]) - 2 * step)


def eager_update(case: Case, device: torch.device) -> Callable[[], None]:
    """A whole update as the released code makes it: the baseline of `updates`."""
    network = released(case, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    data = (torch.rand(case.chains, *case.shape) * 2 - 1).to(device)

    def update() -> None:
        x = torch.rand(case.chains, *case.shape, device=device) * 2 - 1
        x = eager_steps(network, x, case.steps, case.step_size, None)
        loss = (network(data).mean() - network(x).mean()) * 2 / case.step_size**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def updates(
    case: Case, device: torch.device, rounds: int = 5, only: str | None = None, precision: str = "float32"
) -> dict[str, tuple[Figure, float]]:
    """Seconds of a whole update with the case's L, and the ratio to the baseline, for each backend."""
    learners = {name: trainer(p, case, case.steps) for name, p in candidates(case, device, only, precision).items()}

    def job(learner: Trainer) -> Callable[[], None]:
        return lambda: one_update(learner)

    jobs = {"eager": eager_update(case, device)} | {name: job(learner) for name, learner in learners.items()}
    seconds = interleaved(jobs, rounds, device)
    return {
        name: (Figure.of(s), statistics.median(b / t for b, t in zip(seconds["eager"], s, strict=True)))
        for name, s in seconds.items()
    }


def noise_share(
    case: Case, device: torch.device, rounds: int = 9, only: str | None = None, precision: str = "float32"
) -> dict[str, float]:
    """What share of a step the noise takes, for each backend: paths with it against paths without, median of rounds."""
    x, stream = torch.rand(case.chains, *case.shape, device=device) * 2 - 1, Stream(0, Purpose.MCMC)
    shares = {}
    for name, potential in candidates(case, device, only, precision).items():
        kernels = {tau: Langevin(potential, case.step_size, noise=tau) for tau in (1.0, 0.0)}
        states = {tau: kernel.init(x, stream) for tau, kernel in kernels.items()}

        def path(tau: float, steps: int) -> Callable[[], Any]:
            return lambda: run(kernels[tau], states[tau], steps)  # noqa: B023 - called before the next backend

        _timed(path(1.0, 1), device)
        few = 10
        steps = max(few, int(few * ROUND_SECONDS / _timed(path(1.0, few), device)))
        seconds = interleaved({"with": path(1.0, steps), "without": path(0.0, steps)}, rounds, device)
        shares[name] = statistics.median(1 - b / a for a, b in zip(seconds["with"], seconds["without"], strict=True))
    return shares

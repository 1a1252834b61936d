"""`ebm bench`: the baselines are what they claim to be, the figures add up, the command says them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.quick import ebm, fails, recipe
from PIL import Image
from torch import Tensor, nn

from ebmcli import bench
from ebmcli.bench.costs import eager_mala
from ebmcli.bench.steps import eager_steps, flops
from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run

CPU = torch.device("cpu")
SMALL = bench.Case("small", "vanilla", (1, 16, 16), {"width": 4}, 8, steps=3, step_size=0.02)
TOY = bench.Case("toy", "toy", (2, 1, 1), {"width": 32}, 100, steps=3)


class Quadratic(nn.Module):
    """F = (ε²/2)·‖x‖²/(2σ²): with the langevin scale, a Gaussian of sd σ."""

    def __init__(self, step_size: float, sd: float) -> None:
        super().__init__()
        self.factor = step_size**2 / 4 / sd**2

    def forward(self, x: Tensor) -> Tensor:
        """F(x) [n] of x [n c h w]."""
        return self.factor * (x**2).flatten(1).sum(dim=1)


def test_the_plain_loop_is_ours_on_the_same_noise() -> None:
    """Eq. 12, step by step: otherwise the ratio would compare two different things."""
    network = build("toy", (2, 1, 1))
    x = torch.randn(50, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    stream, chains = Stream(0, Purpose.MCMC), torch.arange(50)
    noise = [stream.normal(chains, step, (2, 1, 1)) for step in range(15)]
    kernel = Langevin(Potential(network, (2, 1, 1), 2 / 0.1**2), 0.1)
    ours = run(kernel, kernel.init(x, stream, chains), 15).state.x
    assert (eager_steps(network, x, 15, 0.1, noise) - ours).abs().max() < 1e-5
    assert (ours - x).abs().mean() > 0.1


def test_the_plain_loop_of_mala_is_exact() -> None:
    """On a Gaussian its samples have the target's sd although the step is far too long for plain Langevin."""
    sd, eps = 0.3, 0.45
    x = sd * torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    x, accepted = eager_mala(Quadratic(eps, sd), x, 30, eps)
    assert 0.5 < accepted < 0.95
    assert x.std().item() == pytest.approx(sd, rel=0.05)  # plain Langevin: 0.3/√(1 − ε²/(4σ²)) = 0.45


def test_operations_are_counted_as_direct_convolutions() -> None:
    """2·weights·positions forward, as many for the gradient: 3×3 on 16×16, 4×4 stride 2 twice, 4×4 whole."""
    network = build("vanilla", (1, 16, 16), width=4)
    forward = 2 * (9 * 1 * 4 * 256 + 16 * 4 * 8 * 64 + 16 * 8 * 16 * 16 + 16 * 16 * 1)
    assert flops(network, (1, 16, 16)) == 2 * forward


@pytest.mark.parametrize("case", [SMALL, TOY], ids=lambda case: case.name)
def test_figures_add_up(case: bench.Case) -> None:
    """Every backend that fits is there, agrees with float64 and with the plain loop; rates follow from times."""
    plain, *ours = bench.bench(case, CPU, rounds=2)
    assert (plain.backend, plain.ratio, plain.error) == ("eager", 1.0, None)
    assert {"stack", "generic"} <= {row.backend for row in ours}
    for row in ours:
        assert row.error is not None
        assert row.error < 1e-5
        assert row.drift_99 is not None
        assert row.drift_99 < 1e-3
        assert row.chain_steps == pytest.approx(case.chains / row.step.median)
        assert row.step.first <= row.step.median <= row.step.third
        assert row.updates_per_hour is not None
        assert row.updates_per_hour <= 3600 / (row.step.median * (case.steps + 1))
        assert row.share == pytest.approx(plain.share * plain.step.median / row.step.median, rel=1e-6)


def test_mala_accepts_as_its_plain_loop_does() -> None:
    """Both from the same chains: the parts accepted agree within what chance allows."""
    plain, ours = bench.metropolis(TOY._replace(chains=2000, step_size=0.3), CPU, rounds=2)
    assert ours.backend in ("native", "stack")
    assert ours.acceptance == pytest.approx(plain.acceptance, abs=0.02)


def test_the_command(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Steps, updates, MALA and jobs of a map, as JSON and as a picture; a forced backend is the one timed."""
    words = ("bench", recipe(tmp_path_factory), "--rounds", 1, "--update", "--kernels", "--map", "--picture", "b.png")
    ran = ebm(*words, "--backend", "stack", "--json", cwd=tmp_path, check=0)
    told = json.loads(ran.stdout)
    assert [row["backend"] for row in told["steps"]] == ["eager", "stack"]
    assert [row["backend"] for row in told["mala"]] == ["eager", "stack"]
    assert [(row["backend"], row["jobs"]) for row in told["map"]] == [("stack", 1), ("stack", 96)]
    assert told["map"][0]["ratio"] == 1
    assert [(row["backend"], row["steps"]) for row in told["updates"]] == [("eager", 3), ("stack", 3)]
    assert told["steps"][0]["error"] is None
    assert told["limits_gflops"].keys() == {"matrix product", "convolution"}
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width > 800


def test_bad_input(tmp_path: Path) -> None:
    """Neither a recipe nor a model; a picture in a format that is none."""
    fails(ebm("bench", "nothing-of-that-name", cwd=tmp_path), "nothing-of-that-name", code=2)
    fails(ebm("bench", "--picture", "b.jpg", cwd=tmp_path), "b.jpg", ".png or .svg", code=2)


@pytest.mark.slow
def test_memory_is_flat() -> None:
    """2,000 updates hold no more than the first 200 did."""
    early, late = bench.memory(TOY, CPU)
    assert late - early < 16 * 2**20

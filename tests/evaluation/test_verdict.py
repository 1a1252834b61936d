"""The verdict on energies whose truth is known: by formula, by exact draws, and by walking real chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ebmcli import data
from ebmcli.evaluation import (
    Baseline,
    Compared,
    Estimate,
    Measured,
    Outcome,
    Record,
    Reference,
    Verdict,
    Walk,
    WalkSettings,
    baseline,
    judge,
    measure,
    outcome,
    verdict,
)
from ebmcli.evaluation.measure import steepness
from ebmcli.models import checkpoint
from ebmcli.models.checkpoint import Checkpoint, ModelConfig
from ebmcli.potential import Potential

MODELS = Path(__file__).parents[1] / "helpers" / "weights"
"""Two toys learned with the recipes of their names: 6,025 updates with a bank, 7,855 with short chains from noise."""


# The rules


def measured(**other: object) -> Measured:
    """A density that passes, with `other` numbers in place."""
    good = Measured(
        steps=10_000,
        from_data=True,
        steepness=1.2,
        energy_data=Estimate(100.0, 0.1),
        energy_data_sd=10.0,
        energy_long=Estimate(101.0, 1.0),
        gap=Estimate(0.1, 0.1),
        below=Estimate(0.48, 0.03),
        drift=Estimate(0.02, 0.05),
        rhat=1.01,
        ess=900.0,
        autocorrelation_time=50.0,
        memory=Estimate(0.02, 0.01),
        dimension=100,
        distance=Estimate(0.1, 0.05),
    )
    return good._replace(**other)


KEPT = {"rhat": 2.6, "ess": 40.0, "memory": Estimate(0.6, 0.05), "inside": 30.0}
"""Chains that stayed in the kind of the data that they started with."""


@pytest.mark.parametrize(
    ("expected", "other"),
    [
        (Verdict.MATCHES, {}),
        (Verdict.MATCHES, {"gap": Estimate(-0.9, 0.1), "below": Estimate(0.68, 0.02)}),
        (Verdict.COLLAPSED, {"steepness": 0.09}),
        (Verdict.COLLAPSED, {"steepness": math.nan}),
        (Verdict.OVERSATURATED, {"gap": Estimate(-2.5, 0.1), "below": Estimate(0.9, 0.02)}),
        (Verdict.OVERSATURATED, {"gap": Estimate(-40, 1), "below": Estimate(1, 0), "rhat": 9.0, "ess": 8.0}),
        (Verdict.DIFFERS, {"gap": Estimate(-1.5, 0.1), "below": Estimate(0.9, 0.02)}),
        (Verdict.DIFFERS, {"gap": Estimate(2.5, 0.1), "below": Estimate(0.1, 0.02)}),
        (Verdict.DIFFERS, {"distance": Estimate(0.8, 0.05)}),
        (Verdict.DIFFERS, {"distance": Estimate(0.8, 0.05), "rhat": 2.0}),
        (Verdict.UNMIXED, {"distance": Estimate(0.8, 0.05), "rhat": 2.0, "from_data": False}),
        (Verdict.UNMIXED, {"distance": Estimate(0.8, 0.05), "drift": Estimate(-0.9, 0.1)}),
        (Verdict.UNMIXED, {"distance": Estimate(0.6, 0.2)}),
        (Verdict.UNMIXED, {"distance": None}),
        (Verdict.UNMIXED, {"rhat": 1.2}),
        (Verdict.UNMIXED, {"rhat": math.nan}),
        (Verdict.UNMIXED, {"ess": 50.0}),
        (Verdict.UNMIXED, {"memory": Estimate(0.4, 0.1)}),
        (Verdict.UNMIXED, {"memory": Estimate(math.nan, math.nan)}),
        (Verdict.UNMIXED, {"drift": Estimate(-0.5, 0.05)}),
        (Verdict.UNMIXED, {"drift": Estimate(math.nan, math.nan)}),
        (Verdict.UNMIXED, {"gap": Estimate(-2.5, 0.1), "below": Estimate(0.9, math.nan), "memory": Estimate(1, 0)}),
        (Verdict.MATCHES, {**KEPT}),
        (Verdict.UNMIXED, {**KEPT, "steps": 9_999}),
        (Verdict.UNMIXED, {**KEPT, "inside": 9.0}),
        (Verdict.UNMIXED, {**KEPT, "inside": math.nan}),
        (Verdict.UNMIXED, {**KEPT, "from_data": False}),
        (Verdict.UNMIXED, {**KEPT, "drift": Estimate(0.1, 0.1)}),
        (Verdict.UNMIXED, {**KEPT, "distance": None}),
        (Verdict.DIFFERS, {**KEPT, "distance": Estimate(0.8, 0.05)}),
        (Verdict.OVERSATURATED, {**KEPT, "gap": Estimate(-2.5, 0.1), "below": Estimate(0.9, 0.02)}),
    ],
)
def test_rules(expected: Verdict, other: dict[str, object]) -> None:
    """Each rule decides alone; what is not known decides nothing for the model."""
    judgement = verdict(measured(**other))
    assert judgement.verdict is expected, judgement
    assert judgement.matches is (expected is Verdict.MATCHES)
    assert all(any(c.isdigit() for c in reason) or "not measured" in reason for reason in judgement.reasons)


# Exact draws: 256 dimensions, where energies concentrate


def drawn(sharpening: float, chains: int = 64, dimension: int = 256) -> Measured:
    """The Gaussian U = k·‖x‖²/2 of data N(0, 1), from exact draws: chains that mix in one step."""
    gen = torch.Generator().manual_seed(1)

    def energy(n: int, sd: float) -> Tensor:
        x = sd * torch.randn(n, dimension, generator=gen, dtype=torch.float64)
        return sharpening * x.square().sum(1) / 2

    truth, compared = energy(2000, 1), Compared(1.0, 0.1, 1.0, 11.0, chains)
    slope = math.sqrt(sharpening**2 * dimension * dimension) / dimension
    base = Baseline(truth, slope, Estimate(0, 0), compared, dimension)
    records = [
        Record(
            step,
            energy(chains, 1 if step == 0 else sharpening**-0.5).tolist(),
            Estimate(0, 0.1),
            1,
            1,
            1,
            None,
            1,
            True,
        )
        for step in range(401)
    ]
    settings = WalkSettings("data", 400, 0.1, chains=chains)
    return measure(records, settings, base, True)._replace(distance=Estimate(0, 0.1))


@pytest.mark.parametrize(
    ("sharpening", "expected"),
    [
        (1.0, Verdict.MATCHES),
        (1.05, Verdict.MATCHES),
        (0.95, Verdict.MATCHES),
        (1.15, Verdict.DIFFERS),
        (0.7, Verdict.DIFFERS),
        (1.5, Verdict.OVERSATURATED),
        (0.05, Verdict.COLLAPSED),
    ],
)
def test_gaussians_in_many_dimensions(sharpening: float, expected: Verdict) -> None:
    """A temperature a few percent off passes, half as hot does not, twenty times too hot is flat."""
    found = drawn(sharpening)
    assert verdict(found).verdict is expected, verdict(found)


def test_steepness_of_known_energies() -> None:
    """1 for an isotropic Gaussian, more for any other density (Stein, Cauchy–Schwarz), 0 for a constant."""
    gen = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(4000, 2, 1, 1, generator=gen)
    assert steepness(potential(lambda x: x.square().sum(1) / 2 / 0.09), x, 1.0) == pytest.approx(1, rel=0.05)
    assert steepness(potential(lambda x: x.square().sum(1) / 2 / 0.09), x, 2.0) == pytest.approx(0.5, rel=0.05)
    assert steepness(potential(lambda x: 0 * x.sum(1)), x, 1.0) == 0
    toy = data.load_toy("gmm")
    assert steepness(potential(toy.energy), toy.sample(2000, gen), 1.0) > 2


# Real chains


class Known(nn.Module):
    """F(x) by a formula of the points [n 2]."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x.flatten(1)) + 0 * self.nothing


def potential(formula: Callable[[Tensor], Tensor]) -> Potential:
    return Potential(Known(formula), (2, 1, 1), backend="generic")


CONFIG = ModelConfig(
    name="known",
    network="toy",
    image_size=1,
    channels=2,
    energy_scale=1,
    step_size=0.1,
    noise=1,
    steps=1,
    init="uniform",
    regime="convergent",
    updates=0,
    data="gmm",
)


def walked(formula: Callable[[Tensor], Tensor], **chosen: object) -> Outcome:
    """A walk from draws of gmm on U = formula."""
    model = Checkpoint(potential(formula), CONFIG, None, "", "")
    return judge(model, **{"chains": 60, "moments": 4, "compared": 800, "against": "none", **chosen})


def gmm(factor: float = 1.0) -> Callable[[Tensor], Tensor]:
    toy = data.load_toy("gmm")
    return lambda x: factor * toy.energy(x)


def test_a_gaussian_matches() -> None:
    """Langevin on the energy of data N(0, 0.3²) in the plane, from data; with the wrong variance it does not."""
    gen = torch.Generator().manual_seed(0)

    def judged(factor: float, steps: int, step_size: float) -> Outcome:
        model = Checkpoint(potential(lambda x: factor * x.square().sum(1) / 2 / 0.09), CONFIG, None, "", "")
        settings = WalkSettings.of(model, steps=steps, chains=60, moments=3, against="none", step_size=step_size)
        walk = Walk(model, settings, Reference(x), 0.3 * torch.randn(60, 2, 1, 1, generator=gen))
        assert len(list(walk.records())) == steps + 1
        return outcome(walk, baseline(model, walk.reference, settings))

    x = 0.3 * torch.randn(800, 2, 1, 1, generator=gen)
    found = judged(1.0, 500, 0.15)
    assert found.judgement.matches, found.judgement
    assert found.measured.below.value == pytest.approx(0.5, abs=0.12)
    assert judged(20.0, 60, 0.05).judgement.verdict is Verdict.OVERSATURATED
    assert judged(0.2, 60, 0.3).judgement.verdict is Verdict.DIFFERS


@pytest.mark.slow
def test_the_truth_matches() -> None:
    """Metropolis-adjusted chains on the data's own energy, long enough to change modes."""
    found = walked(gmm(), kernel="mala", step_size=0.4, steps=3000)
    assert found.judgement.matches, found.judgement
    assert found.measured.gap.value == pytest.approx(0, abs=4 * found.measured.gap.error)
    assert found.measured.below.value == pytest.approx(0.5, abs=0.12)
    assert found.measured.memory.value < 0.1


@pytest.mark.parametrize(
    ("factor", "steps", "step_size", "expected"),
    [
        (1.0, 10_000, 0.02, Verdict.MATCHES),
        (1.0, 4000, 0.02, Verdict.UNMIXED),
        (1.0, 10_000, 0.0005, Verdict.UNMIXED),
        (10.0, 4000, 0.01, Verdict.OVERSATURATED),
    ],
)
def test_kinds_that_no_chain_leaves(factor: float, steps: int, step_size: float, expected: Verdict) -> None:
    """Eight points of sd 0.05, with barriers of 29 nats: the truth, the same too short and too slow, and sharpened."""
    gen = torch.Generator().manual_seed(0)
    angle = torch.arange(8) * math.pi / 4
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)

    def energy(x: Tensor) -> Tensor:
        return -factor * torch.logsumexp(-(x[:, None] - centres).square().sum(2) / 2 / 0.05**2, dim=1)

    x = (centres[torch.arange(800) % 8] + 0.05 * torch.randn(800, 2, generator=gen)).view(-1, 2, 1, 1)
    model = Checkpoint(potential(energy), CONFIG, None, "", "")
    settings = WalkSettings.of(model, steps=steps, chains=64, moments=4, against="none", step_size=step_size)
    walk = Walk(model, settings, Reference(x), x[:64])
    assert list(walk.records())[-1].step == steps
    found = outcome(walk, baseline(model, walk.reference, settings))
    assert found.judgement.verdict is expected, found.judgement
    if expected is Verdict.MATCHES:
        assert found.measured.memory.value > 0.9
        assert "how likely each kind is was not tested" in found.judgement.reasons[-1]


def test_a_short_chain_is_not_judged() -> None:
    """The same energy: nothing speaks against it, and nothing for it before chains have left their starts."""
    found = walked(gmm(), steps=20)
    assert found.judgement.verdict is Verdict.UNMIXED
    assert "have not left their starts" in found.judgement.reasons[0]


@pytest.mark.parametrize(
    ("factor", "step_size", "expected"),
    [(10.0, 0.04, Verdict.OVERSATURATED), (0.25, 0.3, Verdict.DIFFERS), (0.01, 0.1, Verdict.COLLAPSED)],
)
def test_wrong_temperatures(factor: float, step_size: float, expected: Verdict) -> None:
    """Sharpened ten times, four times too hot, a hundred times too hot."""
    assert walked(gmm(factor), step_size=step_size, steps=60).judgement.verdict is expected


def test_a_constant_is_flat() -> None:
    """Chains wander off, and the energy says nothing."""
    found = walked(lambda x: 0 * x.sum(1) + 3, steps=40)
    assert found.judgement.verdict is Verdict.COLLAPSED
    assert found.measured.steepness == 0


def test_a_toy_learned_well_and_one_learned_non_convergently() -> None:
    """Convergent learning passes; short-run learning is told by its long chains, while its short ones are fine."""
    good = judge(
        checkpoint.load(MODELS / "gmm_convergent.safetensors"), steps=8000, chains=200, compared=1000, moments=8
    )
    assert good.judgement.matches, good.judgement
    bad = judge(checkpoint.load(MODELS / "gmm_shortrun.safetensors"), steps=2000, chains=200, compared=1000, moments=8)
    assert bad.judgement.verdict is Verdict.OVERSATURATED, bad.judgement
    assert bad.final.share > 1
    assert bad.baseline.short.share < 0.5

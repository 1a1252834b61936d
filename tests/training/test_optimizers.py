"""Adam and SGD against formulas by hand, schedules, stages, Eq. 13, and memory that is saved and loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.recipe.sections import OptimizerSettings, Phase, Stage
from ebmcli.training.optimizers import Optimizer


def settings(first: Phase, *later: Phase, **rest: float) -> OptimizerSettings:
    """The section of a recipe that says these phases."""
    stages = tuple(Stage(**phase._asdict()) for phase in later)
    own = {key: value for key, value in first._asdict().items() if key != "from_update"}
    return OptimizerSettings(**own, **rest, stages=stages)  # type: ignore[arg-type]


def weights(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in ((3, 2), (4,))]


def gradients(update: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + update)
    return [torch.randn(size, generator=generator) for size in ((3, 2), (4,))]


def apply(optimizer: Optimizer, update: int, factor: float = 1.0) -> float:
    for p, g in zip(optimizer.parameters, gradients(update), strict=True):
        p.grad = factor * g
    return optimizer.step(update)


# --- schedules ------------------------------------------------------------------------------------


def test_the_rate_decays_from_the_first_update_to_its_minimum() -> None:
    """γ0·decay^(update − 1), never below the minimum: the released code's 0.1 → 5e-4."""
    s = settings(Phase("sgd", 0.1, decay=0.5, minimum=0.02))
    assert [s.schedule().rate(u) for u in (1, 2, 3, 4, 5)] == pytest.approx([0.1, 0.05, 0.025, 0.02, 0.02])
    s = settings(Phase("sgd", 0.1, decay=0.99995, minimum=5e-4))
    assert s.schedule().rate(100_001) == pytest.approx(0.1 * 0.0067370, rel=1e-3)
    assert s.schedule().rate(200_000) == 5e-4


def test_warm_up_rises_linearly_to_the_scheduled_rate() -> None:
    """A quarter, half, three quarters, all of it; no warm-up is no factor."""
    s = settings(Phase("adam", 1e-3), warmup=4)
    assert [s.schedule().rate(u) for u in range(1, 7)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    s = settings(Phase("adam", 0.8, decay=0.5), warmup=2)
    assert [s.schedule().rate(u) for u in (1, 2, 3)] == pytest.approx([0.4, 0.4, 0.2])


def test_a_stage_counts_its_decay_from_its_own_start() -> None:
    """Adam for three updates, then SGD from its own rate."""
    s = settings(Phase("adam", 1e-3, decay=0.9), Phase("sgd", 0.2, decay=0.5, minimum=0.04, from_update=4))
    assert [s.schedule().phase(u).name for u in range(1, 6)] == ["adam"] * 3 + ["sgd"] * 2
    assert [s.schedule().rate(u) for u in range(1, 8)] == pytest.approx([1e-3, 9e-4, 8.1e-4, 0.2, 0.1, 0.05, 0.04])


def test_the_rate_of_each_update_is_the_one_applied() -> None:
    """What `step` returns is what the weights moved by (SGD of scale 1)."""
    optimizer = Optimizer(weights(), settings(Phase("sgd", 0.1, decay=0.5), warmup=2), 1.0)
    for update, rate in ((1, 0.05), (2, 0.05), (3, 0.025)):
        before = [p.detach().clone() for p in optimizer.parameters]
        assert apply(optimizer, update) == pytest.approx(rate)
        for p, old, g in zip(optimizer.parameters, before, gradients(update), strict=True):
            torch.testing.assert_close(p.detach(), old - rate * g)


# --- the updates ----------------------------------------------------------------------------------


def test_adam_is_adam() -> None:
    """Kingma and Ba's Algorithm 1 in float64, with the schedule, three updates; γ is not scaled."""
    phase = Phase("adam", 0.01, decay=0.5, betas=(0.8, 0.95))
    optimizer = Optimizer(weights(), settings(phase), energy_scale=777.0)
    theta = [p.detach().double() for p in weights()]
    m = [torch.zeros_like(p) for p in theta]
    v = [torch.zeros_like(p) for p in theta]
    for t in (1, 2, 3):
        assert apply(optimizer, t) == pytest.approx(0.01 * 0.5 ** (t - 1))
        for i, g in enumerate(gradients(t)):
            m[i] = 0.8 * m[i] + 0.2 * g
            v[i] = 0.95 * v[i] + 0.05 * g.double() ** 2
            step = (m[i] / (1 - 0.8**t)) / ((v[i] / (1 - 0.95**t)).sqrt() + 1e-8)
            theta[i] = theta[i] - 0.01 * 0.5 ** (t - 1) * step
    for p, expected in zip(optimizer.parameters, theta, strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-6, atol=1e-7)


def test_sgd_is_scaled_as_equation_13_says_and_keeps_momentum() -> None:
    """γ = γ0 / energy_scale on the gradient of U; b ← μb + g."""
    optimizer = Optimizer(weights(), settings(Phase("sgd", 0.3, momentum=0.9)), energy_scale=50.0)
    theta = [p.detach().double() for p in weights()]
    buffer = [torch.zeros_like(p) for p in theta]
    for t in (1, 2, 3):
        assert apply(optimizer, t) == 0.3
        for i, g in enumerate(gradients(t)):
            buffer[i] = 0.9 * buffer[i] + g.double()
            theta[i] = theta[i] - 0.3 / 50 * buffer[i]
    for p, expected in zip(optimizer.parameters, theta, strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-6, atol=1e-7)


def change(epsilon: float, phase: Phase, clip: float = 0.0) -> Tensor:
    """Δθ of one update at this ε, given always the same positives and negatives."""
    shape = (1, 16, 16)
    potential = Potential(build("vanilla", shape, seed=2, width=4), shape, energy_scale=2 / epsilon**2)
    x = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    positives, negatives = x[:6], 0.3 * x[6:]
    before = nn.utils.parameters_to_vector(potential.parameters()).detach().clone()
    (potential(positives).mean() - potential(negatives).mean()).backward()
    optimizer = Optimizer(list(potential.parameters()), settings(phase, gradient_clip=clip), potential.energy_scale)
    optimizer.step(1)
    return nn.utils.parameters_to_vector(potential.parameters()).detach() - before


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_change_of_the_weights_does_not_depend_on_epsilon(clip: float) -> None:
    """Eq. 13: SGD with γ = (ε²/2)·γ0 moves them by γ0 times the gradient of mean F(x⁺) − mean F(x⁻)."""
    phase = Phase("sgd", 0.5)
    reference = change(1.0, phase, clip)
    assert reference.norm() > 1e-3
    for epsilon in (0.0075, 0.015, 0.125):
        moved = change(epsilon, phase, clip)
        assert (moved - reference).norm() < 1e-4 * reference.norm()
        assert moved.norm() == pytest.approx(reference.norm().item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_clipping_limits_the_gradient_of_f(scale: float) -> None:
    """A longer gradient is shortened to the limit, a shorter one left alone; the limit is in units of F."""
    norm = torch.cat([g.flatten() for g in gradients(1)]).norm().item()
    for limit, factor in ((norm / 4, 0.25), (norm * 2, 1.0)):
        optimizer = Optimizer(weights(), settings(Phase("sgd", 0.1), gradient_clip=limit), scale)
        apply(optimizer, 1, factor=scale)
        for p, old, g in zip(optimizer.parameters, weights(), gradients(1), strict=True):
            torch.testing.assert_close(p.detach(), (old - 0.1 * factor * g).detach(), rtol=1e-5, atol=1e-6)


# --- stages and memory ----------------------------------------------------------------------------


def test_a_stage_starts_without_memory() -> None:
    """SGD after Adam is plain SGD, and Adam after it begins its averages anew."""
    stages = (Phase("adam", 0.01), Phase("sgd", 0.1, from_update=3), Phase("adam", 0.01, from_update=4))
    optimizer = Optimizer(weights(), settings(*stages), 2.0)
    for update in (1, 2):
        apply(optimizer, update)
    before = [p.detach().clone() for p in optimizer.parameters]
    apply(optimizer, 3)
    for p, old, g in zip(optimizer.parameters, before, gradients(3), strict=True):
        torch.testing.assert_close(p.detach(), old - 0.05 * g)
    before = [p.detach().clone() for p in optimizer.parameters]
    apply(optimizer, 4)
    for p, old, g in zip(optimizer.parameters, before, gradients(4), strict=True):
        torch.testing.assert_close(p.detach(), old - 0.01 * g.sign(), rtol=1e-5, atol=1e-6)


STAGES = {
    "adam": (Phase("adam", 0.01, decay=0.9),),
    "sgd": (Phase("sgd", 0.1),),
    "sgd with momentum": (Phase("sgd", 0.1, momentum=0.9),),
    "stages": (Phase("adam", 0.01), Phase("sgd", 0.1, momentum=0.9, from_update=4)),
}


@pytest.mark.parametrize("done", [0, 2, 3, 4])
@pytest.mark.parametrize("stages", STAGES)
def test_memory_is_saved_flat_and_loaded(stages: str, done: int) -> None:
    """Stopped before, at and after the change of stage, it goes on bit for bit."""
    chosen = settings(*STAGES[stages], warmup=3)
    whole = Optimizer(weights(), chosen, 3.0)
    for update in range(1, done + 1):
        apply(whole, update)
    saved = {k: v.clone() for k, v in whole.state().items()}
    assert all(isinstance(v, Tensor) and k.partition(".")[0] in "01" for k, v in saved.items())
    assert bool(saved) == (done > 0 and stages != "sgd")
    halves = [nn.Parameter(p.detach().clone()) for p in whole.parameters]
    resumed = Optimizer(halves, chosen, 3.0)
    resumed.load(saved, done)
    for update in range(done + 1, 8):
        assert apply(whole, update) == apply(resumed, update)
    for p, q in zip(whole.parameters, halves, strict=True):
        assert torch.equal(p, q)
    assert whole.state().keys() == resumed.state().keys()
    assert all(torch.equal(value, resumed.state()[key]) for key, value in whole.state().items())


def test_moments_follow_the_layout_of_their_weights() -> None:
    """A backend may lay weights out anew between two steps, or after a state was loaded."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3)
    twin = copy.deepcopy(conv)
    runs = [Optimizer(list(m.parameters()), settings(Phase("adam", 1e-4)), 1.0) for m in (conv, twin)]
    for update in range(1, 5):
        if update == 3:
            twin.to(memory_format=torch.channels_last)
        for module, optimizer in zip((conv, twin), runs, strict=True):
            optimizer.torch.zero_grad(set_to_none=True)
            (module(torch.ones(2, 4, 5, 5) * update) ** 2).sum().backward()
            optimizer.step(update)
    moment = runs[1].torch.state[twin.weight]["exp_avg"]
    assert moment.stride() == twin.weight.stride() != conv.weight.stride()
    assert torch.allclose(conv.weight, twin.weight, atol=1e-6)

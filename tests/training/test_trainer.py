"""Algorithm 1: one update against a plain one in float64, starts, the bank, averaging, resuming, and the guard."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ebmcli.errors import DivergedError, EBMError, Exit
from ebmcli.native import stack as native
from ebmcli.networks import Shape, build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.recipe.sections import GuardSettings, MCMCSettings, OptimizerSettings, Phase, Stage, TrainSettings
from ebmcli.training.trainer import Trainer, UpdateRecord

needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())
BACKENDS = [pytest.param("native", marks=needs_kernel), "generic"]
SHAPE = (1, 8, 8)
EPSILON = 0.1


class Images:
    """Thirty images, drawn at random."""

    def __init__(self, shape: Shape = SHAPE) -> None:
        self.shape = shape
        self.x = torch.rand(30, *shape, generator=torch.Generator().manual_seed(5)) * 2 - 1

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        return self.x[torch.from_numpy(generator.integers(0, len(self.x), n))]


def trainer(
    *phases: Phase,
    backend: str = "generic",
    network: nn.Module | None = None,
    weights_seed: int = 0,
    mcmc: dict[str, Any] | None = None,
    guard: GuardSettings | None = None,
    data_noise: float = 0.05,
    **settings: Any,
) -> Trainer:
    """A small one: 8×8 images, 6 positives, 5 negatives, 4 steps."""
    network = network or build("vanilla", SHAPE, seed=weights_seed, width=4)
    potential = Potential(network, SHAPE, 2 / EPSILON**2, backend=backend)
    return Trainer(
        potential,
        Images(),
        # Copied unchecked: some tests take no step at all, which no recipe may.
        MCMCSettings(init="uniform", steps=4, step_size=EPSILON, bank_size=12).model_copy(update=mcmc),
        optimizer_of(*(phases or (Phase("adam", 0.01),))),
        TrainSettings(**{"updates": 1000, "positives": 6, "negatives": 5, "seed": 3, **settings}),
        guard,
        data_noise,
    )


def optimizer_of(first: Phase, *later: Phase) -> OptimizerSettings:
    """The section of a recipe that says these phases."""
    own = {key: value for key, value in first._asdict().items() if key != "from_update"}
    return OptimizerSettings(**own, stages=tuple(Stage(**phase._asdict()) for phase in later))


def learn(t: Trainer, until: int) -> list[UpdateRecord]:
    return list(t.updates(until))


def vector(t: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in t.parameters])


def copied(t: Trainer) -> dict[str, Tensor]:
    """All that a checkpoint keeps, as it comes back from a file: contiguous, and nobody else's."""
    tensors = t.state() | {f"network.{k}": v for k, v in t.potential.network.state_dict().items()}
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def nearest(x: Tensor) -> Tensor:
    """Root mean square distance over pixels of each state to the nearest image of the data."""
    return (x[:, None] - Images().x[None]).square().flatten(2).mean(2).sqrt().min(dim=1).values


# --- one update -----------------------------------------------------------------------------------


def plain_update(network: nn.Module, t: Trainer, update: int) -> tuple[Tensor, list[Tensor], dict[str, float]]:
    """Algorithm 1 for uniform noise in float64: negatives, gradients of mean U(x⁺) − mean U(x⁻), and measurements."""
    s, m, shape = t.train, t.mcmc, SHAPE
    energy = lambda x: 2 / EPSILON**2 * network(x).flatten()  # noqa: E731
    data = t.data.draw(s.positives, Stream(s.seed, Purpose.DATA, update).generator())
    noise = Stream(s.seed, Purpose.DATA_NOISE, update).normal(torch.arange(s.positives), 0, shape)
    positives = (data + t.data_noise * noise).double()
    chains = torch.arange(s.negatives)
    x = start = 2 * Stream(s.seed, Purpose.START, update).uniform(chains, 0, shape).double() - 1
    slopes, lengths = [], []
    for step in range(m.steps + 1):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(x).sum(), x)
        slopes.append(slope.flatten(1).norm(dim=1))
        if step < m.steps:
            z = Stream(s.seed, Purpose.MCMC, update).normal(chains, step, shape)
            new = x - m.step_size**2 / 2 * slope / m.temperature + m.noise * m.step_size * z
            lengths.append((new - x).flatten(1).norm(dim=1))
            x = new
    loss = energy(positives).mean() - energy(x).mean()
    gradients = list(torch.autograd.grad(loss, list(network.parameters())))
    v = torch.stack(slopes).mean().item()
    return x.detach(), gradients, {
        "energy_difference": loss.item(),
        "gradient_magnitude": v,
        "displacement": m.step_size**2 / 2 * v / m.temperature,
        "straightness": ((x - start).flatten(1).norm(dim=1) / torch.stack(lengths).sum(0)).mean().item(),
        "burn_in_distance": (start - positives[: len(start)]).flatten(1).norm(dim=1).mean().item(),
        "energy_data": energy(positives).mean().item(),
        "energy_samples": energy(x).mean().item(),
        "largest_pixel": x.abs().max().item(),
    }  # fmt: skip


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_updates_are_those_of_a_plain_program(backend: str, name: str, temperature: float) -> None:
    """Two updates, with the same noise, in float64: weights, negatives, and every number of the record."""
    rate = {"sgd": 0.5, "adam": 0.01}[name]
    # Powers of two: the gradient of the last bias is 0, and Adam would make a whole step of its rounding.
    t = trainer(Phase(name, rate), backend=backend, mcmc={"temperature": temperature}, positives=8, negatives=4)
    network = copy.deepcopy(t.potential.network).double()
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()]
    for update, record in enumerate(t.updates(2), start=1):
        assert t.potential.backend.name == backend
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        negatives, gradients, expected = plain_update(network, t, update)
        for p, g, (m, v) in zip(network.parameters(), gradients, moments, strict=True):
            if name == "adam":
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p.data -= rate * (m / (1 - 0.9**update)) / ((v / (1 - 0.999**update)).sqrt() + 1e-8)
            else:
                p.data -= EPSILON**2 / 2 * rate * g
        after = torch.cat([p.detach().flatten() for p in network.parameters()])
        assert (after - before).norm() > 1e-2 * before.norm()  # something to see
        assert (vector(t) - after).norm() < 1e-5 * after.norm()
        assert (vector(t) - after).norm() < 1e-3 * (after - before).norm()
        assert (t.negatives - negatives).abs().max() < 1e-4
        for field, value in expected.items():
            assert getattr(record, field) == pytest.approx(value, rel=1e-4, abs=2e-4), field
        assert record.update == update
        assert record.learning_rate == rate
        assert 0 < record.seconds < 60


def test_straightness_is_that_of_the_path() -> None:
    """1 without noise on a cone, whose descent is a straight line."""

    class Cone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * x.flatten(1).norm(dim=1)

    (record,) = learn(trainer(Phase("adam", 1e-4), network=Cone(), mcmc={"noise": 0.0}), 1)
    assert record.straightness == pytest.approx(1, abs=1e-5)
    assert record.gradient_magnitude == pytest.approx(2 / EPSILON**2, rel=1e-5)
    assert record.displacement == pytest.approx(1, rel=1e-5)


# --- starts, the bank, averaging --------------------------------------------------------------------


def test_chains_from_data_start_at_data_with_its_noise() -> None:
    """Contrastive divergence: with no steps the negatives are other draws of the positives' law."""
    t = trainer(mcmc={"init": "data", "steps": 0}, data_noise=0.05, negatives=40)
    learn(t, 1)
    distance = nearest(t.negatives)
    assert (distance > 0.03).all()
    assert (distance < 0.07).all()
    t = trainer(mcmc={"init": "data", "steps": 0}, data_noise=0.0)
    learn(t, 1)
    assert nearest(t.negatives).max() == 0


@pytest.mark.parametrize(("init", "sd"), [("uniform", 2 / math.sqrt(3)), ("gaussian", 2.0)])
def test_chains_from_noise_are_new_at_each_update(init: str, sd: float) -> None:
    """Of the scale asked for, and never the same twice."""
    t = trainer(mcmc={"init": init, "steps": 0, "init_scale": 2.0}, negatives=200)
    learn(t, 1)
    first = t.negatives
    assert first.std() == pytest.approx(sd, rel=0.03)
    assert (first.abs().max() <= 2) == (init == "uniform")
    learn(t, 2)
    assert (first == t.negatives).sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_persistent_chains_go_on_where_they_were(backend: str) -> None:
    """Different slots are taken; their new states are the negatives; the others stay; with no steps nothing moves."""
    t = trainer(backend=backend, mcmc={"init": "persistent"})
    assert t.bank is not None
    assert t.bank.states.shape == (12, *SHAPE)
    assert t.bank.states.abs().max() <= 1
    for update in range(1, 5):
        before = t.bank.states.clone()
        learn(t, update)
        changed = (t.bank.states != before).flatten(1).any(dim=1)
        assert changed.sum() == 5
        stream = Stream(3, Purpose.BANK, update)
        slots = torch.from_numpy(stream.generator().choice(12, 5, replace=False))
        assert torch.equal(t.bank.states[slots], t.negatives)
        assert torch.equal(changed.nonzero().flatten(), slots.sort().values)
    still = trainer(backend=backend, mcmc={"init": "persistent", "steps": 0})
    assert still.bank is not None
    before = still.bank.states.clone()
    learn(still, 3)
    assert torch.equal(still.bank.states, before)


def test_a_persistent_chain_uses_its_own_random_numbers() -> None:
    """Of its slot, not of its place in the batch: on a flat energy it is moved by exactly those."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * x.flatten(1).sum(1)

    t = trainer(Phase("sgd", 1e-30), network=Flat(), mcmc={"init": "persistent", "steps": 1})
    assert t.bank is not None
    before = t.bank.states.clone()
    learn(t, 1)
    slots = (t.bank.states != before).flatten(1).any(dim=1).nonzero().flatten()
    z = Stream(3, Purpose.MCMC, 1).normal(slots, 0, SHAPE)
    torch.testing.assert_close(t.bank.states[slots], before[slots] + EPSILON * z)


def test_rejuvenated_chains_start_anew() -> None:
    """With probability 1 all that are drawn, at 0.3 about that share, in the bank's own kind of noise."""
    kept = {}
    for probability in (0.0, 0.3, 1.0):
        t = trainer(
            Phase("sgd", 1e-30),
            mcmc={"init": "persistent", "steps": 0, "bank_size": 300, "rejuvenation": probability},
            negatives=300,
        )
        assert t.bank is not None
        before = t.bank.states.clone()
        learn(t, 1)
        kept[probability] = (t.bank.states == before).flatten(1).all(dim=1).float().mean().item()
        assert t.bank.states.abs().max() <= 1
    assert kept[0.0] == 1
    assert kept[1.0] == 0
    assert abs(kept[0.3] - 0.7) < 5 * math.sqrt(0.21 / 300)


@pytest.mark.parametrize("bank_init", ["uniform", "gaussian", "data"])
def test_a_bank_starts_as_told(bank_init: str) -> None:
    """From noise of the scale, or at data with its noise; slots are different."""
    t = trainer(mcmc={"init": "persistent", "bank_init": bank_init, "init_scale": 0.5, "bank_size": 100})
    assert t.bank is not None
    x = t.bank.states.flatten(1)
    near = nearest(t.bank.states)
    assert ((near < 0.07).all() and (near > 0.03).all()) == (bank_init == "data")
    assert (x.abs().max() <= 0.5) == (bank_init == "uniform")
    if bank_init != "data":
        assert x.std() == pytest.approx({"uniform": 0.5 / math.sqrt(3), "gaussian": 0.5}[bank_init], rel=0.05)
    assert len(x.unique(dim=0)) == 100


def test_the_average_follows_the_weights() -> None:
    """Decay min(ema, (1 + u)/(10 + u)) from the initial weights; off, there is none; sampling is not touched by it."""
    t, without = trainer(ema=0.25), trainer()
    assert without.average == []
    mean = vector(t).double()
    for update in range(1, 5):
        learn(t, update)
        decay = min(0.25, (1 + update) / (10 + update))
        mean = decay * mean + (1 - decay) * vector(t).double()
        got = torch.cat([a.flatten() for a in t.average]).double()
        torch.testing.assert_close(got, mean, rtol=1e-5, atol=1e-7)
    learn(without, 4)
    assert torch.equal(vector(t), vector(without))


def test_shapes_must_agree() -> None:
    """Data of another size than the potential's is named."""
    t = trainer()
    with pytest.raises(EBMError, match=r"data's images are \(3, 8, 8\), the potential's \(1, 8, 8\)"):
        Trainer(t.potential, Images((3, 8, 8)), t.mcmc, optimizer_of(Phase("adam", 0.01)), t.train)


def test_more_negatives_than_the_bank_holds_are_refused() -> None:
    """At once, not by numpy at the first update."""
    with pytest.raises(EBMError, match="13 negatives from a bank of 12") as raised:
        trainer(mcmc={"init": "persistent"}, negatives=13)
    assert raised.value.hint


# --- resuming -------------------------------------------------------------------------------------

STAGES = {
    "adam": (Phase("adam", 0.01, decay=0.9),),
    "sgd": (Phase("sgd", 0.3, momentum=0.9),),
    "stages": (Phase("adam", 0.01), Phase("sgd", 0.3, momentum=0.9, from_update=3)),
}


@pytest.mark.parametrize("init", ["uniform", "persistent"])
@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resumed_trainer_is_the_one_that_was_not_stopped(backend: str, stages: str, init: str) -> None:
    """Bit for bit: weights, bank, optimiser, average and records, from before, at and after a change of stage."""

    def new(weights_seed: int = 0) -> Trainer:
        mcmc = {"init": init, "rejuvenation": 0.3, "steps": 2}
        return trainer(*STAGES[stages], backend=backend, weights_seed=weights_seed, mcmc=mcmc, ema=0.5)

    whole, saved, records = new(), {}, []
    for record in whole.updates(4):
        records.append(record._replace(seconds=0.0))
        saved[record.update] = copied(whole)
    assert whole.potential.backend.name == backend
    assert ("bank" in saved[1]) == (init == "persistent")
    for done in (1, 2, 3):
        resumed = new(weights_seed=99)
        prefix = "network."
        weights = {k[len(prefix) :]: v for k, v in saved[done].items() if k.startswith(prefix)}
        resumed.potential.network.load_state_dict(weights)
        resumed.load(saved[done], done)
        assert same(copied(resumed), saved[done])
        again = [r._replace(seconds=0.0) for r in resumed.updates(4)]
        assert again == records[done:]
        assert same(copied(resumed), saved[4])


def test_updates_stop_where_told_and_depend_on_the_seed() -> None:
    """Nothing is done twice; another seed is another run."""
    t = trainer()
    assert [r.update for r in learn(t, 2)] == [1, 2]
    assert learn(t, 2) == []
    assert [r.update for r in learn(t, 3)] == [3]
    same_seed, other = trainer(), trainer(seed=4)
    learn(same_seed, 3)
    learn(other, 3)
    assert torch.equal(vector(t), vector(same_seed))
    assert not torch.equal(vector(t), vector(other))


# --- the guard ------------------------------------------------------------------------------------


class Hill(nn.Module):
    """F = −w·‖x‖²: chains run away downhill, the faster the further they are."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return -self.w[0] * x.square().flatten(1).sum(1) + self.w[1] * x.flatten(1).sum(1) * 0.01


class Cusp(nn.Module):
    """F = √|w|·mean x: at w = 0 the loss is finite, its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.abs().sqrt() * x.flatten(1).mean(1)


def runaway(t: Trainer) -> None:
    t.parameters[0].data[0] = 3.0


def overflow(t: Trainer) -> None:
    t.parameters[0].data[0] = 1e38


def not_a_number(t: Trainer) -> None:
    t.parameters[0].data[1] = float("nan")


def cusp(t: Trainer) -> None:
    t.parameters[0].data.zero_()


@pytest.mark.parametrize(
    ("network", "harm", "said"),
    [
        (Hill, runaway, r"update 3 diverged: displacement .*, largest \|pixel\|"),
        (Hill, overflow, r"update 3 diverged: gradient_magnitude is (inf|nan)"),
        (Hill, not_a_number, r"update 3 diverged: gradient_magnitude is nan"),
        (Cusp, cusp, r"update 3 diverged: the weights' gradient is not finite"),
    ],
)
def test_divergence_ends_learning_with_its_state_sound(
    network: Callable[[], nn.Module], harm: Callable[[Trainer], None], said: str
) -> None:
    """Exit code 3; weights, bank, optimiser, average and count are as they were before that update."""
    t = trainer(Phase("adam", 1e-4), network=network(), mcmc={"init": "persistent"}, ema=0.5)
    learn(t, 2)
    harm(t)
    before = copied(t)
    with pytest.raises(DivergedError, match=said) as raised:
        learn(t, 3)
    assert raised.value.code == Exit.DIVERGED
    assert "learning rate" in raised.value.hint
    assert t.update == 2
    after = copied(t)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key].nan_to_num(7.0), value.nan_to_num(7.0)), key


def test_a_loss_that_is_not_finite_is_caught() -> None:
    """Energies of infinity at sound chains: found before the weights are touched."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            far = x.flatten(1).abs().amax(1).detach() > 50
            return self.w * x.flatten(1).mean(1) + torch.where(far, torch.inf, 0.0)

    t = trainer(Phase("adam", 1e-4), network=Step())
    learn(t, 1)
    before = copied(t)
    t.data.x[:] = 99.0  # type: ignore[attr-defined]
    with pytest.raises(DivergedError, match=r"update 2 diverged: energy_difference is inf"):
        learn(t, 2)
    assert same(copied(t), before)


def test_settings_are_values() -> None:
    """Frozen, so that a run's settings are those that it began with."""
    t = trainer()
    for settings in (t.mcmc, t.train, optimizer_of(Phase("adam", 0.01)), GuardSettings()):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, next(iter(type(settings).model_fields)), None)

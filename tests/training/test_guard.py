"""The guard of learning: what it takes for an explosion, where it goes back to, how it goes on, and resuming."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.quick import ebm, metrics, recipe, same
from test_trainer import Images, copied, learn, trainer, vector
from torch import Tensor

from ebmcli.errors import DivergedError
from ebmcli.models import checkpoint
from ebmcli.recipe.sections import GuardSettings, Phase
from ebmcli.training.guard import Guard
from ebmcli.training.run_folder import Run
from ebmcli.training.trainer import Trainer, UpdateRecord

QUICK = GuardSettings(retries=3, every=4, cooldown=6)


class Poisoned(Images):
    """One batch in eight is no number, by the generator's own luck."""

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        x = super().draw(n, generator)
        return x * math.nan if generator.random() < 0.125 else x


def guarded(data: Images | None = None, **settings: Any) -> Trainer:
    """A small persistent trainer with momentum, an average and a guard."""
    t = trainer(Phase("adam", 1e-3), mcmc={"init": "persistent"}, ema=0.9, **{"guard": QUICK, **settings})
    if data is not None:
        t.data = data
    return t


def record(update: int, d: float = 1.0, r: float = 0.1, largest: float = 1.0, burn_in: float = 5.0) -> UpdateRecord:
    """An update of which the guard sees these numbers."""
    return UpdateRecord(update, d, r / 0.005, r, 0.5, burn_in, 0.0, -d, largest, 1e-3, 0.0)


def check(guard: Guard, seen: UpdateRecord) -> None:
    """All that the guard checks of an update."""
    guard.check_path(seen)
    guard.check_difference(seen.update, seen.energy_difference)


def watching(updates: int = 60, **numbers: float) -> Guard:
    """A guard that has seen sound updates; L = 100, and noise of 0.3 a step."""
    guard = Guard(GuardSettings(), 100, 0.3)
    for update in range(1, updates + 1):
        check(guard, record(update, **numbers))
        guard.saw(record(update, **numbers))
    return guard


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"r": 2.1}, "displacement 2.1, 21 times what it was"),
        ({"largest": 21.0}, r"largest \|pixel\| 21, 21 times"),
        ({"d": -21.0}, r"\|energy difference\| 21, 21 times"),
    ],
)
def test_what_is_far_out_of_its_running_range_is_an_explosion(numbers: dict[str, float], said: str) -> None:
    """Twenty times the average of the last updates; a little less is none, and d counts once it is known."""
    guard = watching()
    with pytest.raises(DivergedError, match=f"update 61 diverged: {said}"):
        check(guard, record(61, **numbers))
    check(guard, record(61, **{k: 0.9 * v for k, v in numbers.items()}))
    guard.check_path(record(61, d=1e9))


def test_what_was_0_is_no_divisor() -> None:
    """Chains that never moved, and then do: an explosion in words, not a division by 0."""
    guard = watching(r=0.0, largest=0.0, d=0.0)
    with pytest.raises(DivergedError, match=r"displacement 0\.1, where it was 0"):
        check(guard, record(61))
    with pytest.raises(DivergedError, match=r"\|energy difference\| 30, where it was 0"):
        guard.check_difference(61, -30.0)


def test_a_step_longer_than_its_path_can_need_is_an_explosion_from_the_start() -> None:
    """r against R/L, to come from the start to the data, and ε√D, to balance the noise: without any average."""
    guard = watching(0)
    check(guard, record(1, r=20 * (0.05 + 0.3) - 0.01))
    with pytest.raises(DivergedError, match=r"displacement 7\.01 a step, where 0\.35 is enough"):
        check(guard, record(1, r=20 * (0.05 + 0.3) + 0.01))


def test_averages_follow_slow_growth() -> None:
    """An overshoot that takes fifty updates for a factor of ten is no explosion, one of five updates is."""
    slow, fast = watching(r=0.01), watching(r=0.01)
    for i in range(1, 51):
        now = record(60 + i, r=0.01 * 10 ** (i / 50))
        check(slow, now)
        slow.saw(now)
    for i in range(1, 7):
        fast.saw(record(60 + i, r=0.01 * 10 ** (i / 5)))
    with pytest.raises(DivergedError):
        check(fast, record(67, r=0.01 * 10 ** (8 / 5)))


def test_it_goes_back_to_the_older_of_two_states_and_on_more_slowly() -> None:
    """Weights, memory and average of update 8 of 8 and 12 kept; lost chains start anew; half the rate for 6 updates."""
    t = guarded()
    learn(t, 8)
    before, bank = vector(t), t.bank.states.clone()  # type: ignore[union-attr]
    learn(t, 14)
    assert [s.update for s in t.guard.kept] == [8, 12]  # type: ignore[union-attr]
    assert not torch.equal(vector(t), before)
    t.bank.states[3] = 1e6  # type: ignore[union-attr]
    t.bank.states[4, 0, 0, 0] = math.nan  # type: ignore[union-attr]
    t.parameters[0].data[0] = math.nan
    back = t.guard.kept[0]  # type: ignore[union-attr]
    assert torch.equal(torch.cat([back.tensors[f"weight.{i}"].flatten() for i in range(len(t.parameters))]), before)
    records = learn(t, 24)
    assert "is nan; went back to the weights of update 8" in records[0].rolled_back
    assert not any(r.rolled_back for r in records[1:])
    assert [r.update for r in records] == [*range(15, 25)]
    assert [r.learning_rate for r in records] == pytest.approx([5e-4] * 7 + [1e-3] * 3)
    assert (vector(t) - before).norm() < 0.1 * before.norm()
    states = t.bank.states  # type: ignore[union-attr]
    assert states.isfinite().all()
    assert states.abs().max() < 5
    assert not torch.equal(states, bank)


def test_it_gives_up_with_a_sound_state() -> None:
    """Three retries, then the error of the first guard, with the weights gone back to."""
    t = guarded()
    learn(t, 9)
    weights = t.guard.kept[0].tensors["weight.0"].clone()  # type: ignore[union-attr]
    t.data.x[:] = math.inf  # type: ignore[attr-defined]
    with pytest.raises(DivergedError, match=r"update 10 diverged: .*; going back to update 4 did not help \(3 times\)"):
        learn(t, 10)
    assert t.update == 10
    assert torch.equal(t.parameters[0], weights)
    assert all(v.isfinite().all() for v in copied(t).values())


def test_ten_quiet_cooldowns_clear_the_count() -> None:
    """So that a long run is not ended by rare accidents."""
    guard = watching()
    guard.keep(60, {})
    guard.back(61)
    assert [guard.slowdown(u) for u in (61, 261, 262)] == [0.5, 0.5, 1.0]
    guard.back(70)
    assert guard.slowdown(71) == 0.25
    guard.saw(record(70 + 2000))
    assert guard.failures == 2
    guard.saw(record(70 + 2001))
    assert guard.failures == 0
    assert guard.slowdown(71) == 1.0


def test_resumed_while_it_acts_is_identical() -> None:
    """Through failures, cooldown and kept states: bit for bit, from every seventh update."""
    whole = guarded(Poisoned(), guard=GuardSettings(retries=30, every=4, cooldown=6))
    expected, saved = [], {}
    for r in whole.updates(24):
        expected.append(r._replace(seconds=0.0))
        if r.update % 7 == 0:
            saved[r.update] = copied(whole)
    assert sum(bool(r.rolled_back) for r in expected) >= 2
    final = copied(whole)
    for update, state in saved.items():
        t = guarded(Poisoned(), guard=GuardSettings(retries=30, every=4, cooldown=6), weights_seed=7)
        names = t.potential.network.state_dict()
        t.potential.network.load_state_dict({k: state[f"network.{k}"] for k in names})
        t.load(state, update)
        assert [r._replace(seconds=0.0) for r in learn(t, 24)] == expected[update:]
        now = copied(t)
        assert now.keys() == final.keys()
        assert all(torch.equal(now[k], final[k]) for k in final)


def test_a_run_begun_without_a_guard_goes_on_with_one() -> None:
    """An older checkpoint has no state of the guard."""
    old, new = guarded(guard=None), guarded()
    learn(old, 5)
    new.potential.network.load_state_dict(old.potential.network.state_dict())
    new.load(old.state(), 5)
    assert [r._replace(seconds=0) for r in learn(new, 9)] == [r._replace(seconds=0) for r in learn(old, 9)]


def test_without_failures_a_guard_changes_nothing() -> None:
    """The same numbers as without."""
    one, two = guarded(), guarded(guard=None)
    assert [r._replace(seconds=0) for r in learn(one, 12)] == [r._replace(seconds=0) for r in learn(two, 12)]


EXPLOSIVE = ("optimizer.learning_rate=0.02", "mcmc.steps=8", "train.updates=120", "optimizer.stages=[]")


@pytest.mark.slow
def test_a_recipe_made_to_explode(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It ends by itself, has gone back at least once, says so, samples well, and resumes to the same."""
    sets = [w for s in (*EXPLOSIVE, "guard.every=10", "guard.cooldown=20") for w in ("--set", s)]
    words = ("train", recipe(tmp_path_factory, "tiny_noise"), *sets, "--threads", 1, "--out")
    ran = ebm(*words, "run", cwd=tmp_path)
    assert ran.code in (0, 3)
    assert "went back to the weights of update" in ran.stderr
    assert any("rolled_back" in r for r in metrics(tmp_path / "run"))
    loaded = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert all(p.isfinite().all() for p in loaded.potential.parameters())
    ebm("sample", "run", "--out", "s.png", "--quiet", cwd=tmp_path, check=0)
    done = Run(tmp_path / "run").checkpoints()[-1].update
    ebm(*words, "other", cwd=tmp_path, EBM_CRASH_AT=f"metrics-{done // 2}")
    assert ebm("train", "--resume", "other", cwd=tmp_path).code == ran.code
    same(tmp_path / "run", tmp_path / "other")

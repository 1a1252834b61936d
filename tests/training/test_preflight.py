"""Warnings before a training: each setting that contradicts the paper, and silence where none does."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.quick import RECIPE, ebm

from ebmcli import recipe as recipes
from ebmcli.training.preflight import concerns


def keys(name: str, *overrides: str, sd: float | None = None) -> list[str]:
    """The settings that a recipe is warned of."""
    return [c.key for c in concerns(recipes.load(name, overrides), sd)]


@pytest.mark.parametrize(
    ("name", "overrides", "sd", "expected"),
    [
        ("mnist_convergent", (), None, []),
        ("mnist_convergent", ("data.noise_std=0.005",), None, ["data.noise_std"]),
        ("mnist_convergent", ("optimizer.name=adam",), None, ["optimizer.name"]),
        ("mnist_convergent_cpu", (), None, []),
        ("mnist_convergent_cpu", ("train.updates=2000",), None, ["optimizer.name"]),
        ("mnist_convergent", ("mcmc.step_size=0.0001",), 0.05, ["mcmc.step_size"]),
        (
            "mnist_convergent",
            ("mcmc.step_size=0.06", "data.noise_std=0.03"),
            0.02,
            ["data.noise_std", "mcmc.step_size"],
        ),
        ("mnist_convergent", (), 0.0, []),
        ("mnist_shortrun", (), None, []),
        ("mnist_shortrun", ("mcmc.steps=60",), None, ["mcmc.steps"]),
        ("mnist_shortrun", ("recipe.regime=convergent",), None, ["mcmc.init", "mcmc.noise", "optimizer.name"]),
        ("mnist_shortrun", ("mcmc.init=data",), None, ["mcmc.noise"]),
        ("gmm_shortrun", (), None, []),
        ("gmm_convergent_release", (), None, []),
        ("gmm_convergent_release", ("mcmc.step_size=0.16",), None, ["mcmc.step_size"]),
        ("gmm_convergent_release", ("mcmc.step_size=0.01",), None, ["mcmc.step_size"]),
    ],
)
def test_what_is_warned_of(name: str, overrides: tuple[str, ...], sd: float | None, expected: list[str]) -> None:
    """The settings, in the order of the checks; the released and the paper's own are in order."""
    assert keys(name, *overrides, sd=sd) == expected


def test_every_shipped_recipe_is_in_order() -> None:
    """None of ours contradicts the paper; and one that is made to do so is seen to."""
    warned = {name: keys(name) for name in recipes.names()}
    assert len(warned) > 30
    assert not {k: v for k, v in warned.items() if v}
    assert keys("digits_quickstart", "train.updates=2999") == ["optimizer.name"]


def test_convergence_from_noise_takes_long_chains() -> None:
    """Half of 20,000 steps passes, less does not."""
    base = ("recipe.regime=convergent", "mcmc.noise=1", "optimizer.name=sgd", "optimizer.betas=")
    assert keys("gmm_shortrun", *base, "mcmc.step_size=0.1", "mcmc.steps=10000") == []
    assert keys("gmm_shortrun", *base, "mcmc.step_size=0.1", "mcmc.steps=9999") == ["mcmc.init"]


def test_train_warns_and_strict_refuses(tmp_path: Path) -> None:
    """A line each, and learning goes on; with --strict exit 2, all of them, and no folder."""
    (tmp_path / "r.toml").write_text(RECIPE.replace("noise_std = 0.04", "noise_std = 0.01"))
    words = ("train", "r.toml", "--set", "train.updates=1", "--out", "run")
    ran = ebm(*words, "--strict", cwd=tmp_path, check=2)
    lines = ran.stderr.splitlines()
    assert "error: 3 settings contradict what the paper found" in lines
    assert any(line.startswith("  data.noise_std: 0.01 is less than ε = 0.02") for line in lines)
    assert any(line.startswith("  mcmc.step_size: ") for line in lines)  # the data's sd is now that of its noise
    assert any(line.startswith("  optimizer.name: Adam to the end") for line in lines)
    assert lines[-1] == "hint: change them, or leave out --strict"
    assert not (tmp_path / "run").exists()
    ran = ebm(*words, cwd=tmp_path, check=0)
    assert "warning: data.noise_std: 0.01 is less than ε = 0.02" in ran.stderr
    assert "warning" not in ebm("train", "--resume", "run", "--set", "train.updates=2", cwd=tmp_path, check=0).stderr

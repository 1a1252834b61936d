"""`ebm sweep` and `ebm runs`: grids of ordinary runs, begun again where they were; lists and curves."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path

import pytest
from helpers.quick import RECIPE, Running, ebm, fails, metrics

from ebmcli.errors import UsageError
from ebmcli.media import read_metadata
from ebmcli.storage.locks import held, hold
from ebmcli.training import sweep
from ebmcli.training.run_folder import Run

SMALL = RECIPE.replace("updates = 40", "updates = 6").replace("samples_every = 20", "samples_every = 6")


@pytest.fixture
def grid(tmp_path: Path) -> tuple[str, ...]:
    """A grid of two inits and two step sizes on a small recipe."""
    (tmp_path / "small.toml").write_text(SMALL.replace(', name = "sgd", learning_rate = 0.00001, momentum = 0.5', ""))
    over = ("--over", "mcmc.init=uniform,persistent", "--over", "mcmc.step_size=0.01,0.03")
    return ("sweep", "small.toml", *over, "--out", "grid", "--jobs", "2")


def test_axes() -> None:
    """Lists in brackets stay whole, values twice count once; what is no axis is an error."""
    axes = sweep.axes_of(["mcmc.steps=50, 100,50", "optimizer.betas=[0.0,0.9],[0.9,0.99]"])
    assert axes[0] == ("mcmc.steps", ("50", "100"))
    assert axes[1] == ("optimizer.betas", ("[0.0,0.9]", "[0.9,0.99]"))
    for bad in (["mcmc.steps"], ["steps=1"], ["mcmc.steps="], ["mcmc.steps=1", "mcmc.steps=2"]):
        with pytest.raises(UsageError):
            sweep.axes_of(bad)


def test_a_bank_goes_with_persistent_chains(tmp_path: Path) -> None:
    """Left out for the others, ten chains a negative where the recipe has none; every cell is a valid recipe."""
    axes = sweep.axes_of(["mcmc.init=uniform,data,persistent", "mcmc.steps=100,200"])
    cells = sweep.cells(tmp_path, "mnist_shortrun_cpu", axes)
    assert [c.values for c in cells][:2] == [("uniform", "100"), ("uniform", "200")]
    assert len({c.folder for c in cells}) == 6
    assert "mcmc.bank_size=" in cells[0].overrides
    assert any(o.startswith("mcmc.bank_size=") and not o.endswith("=") for o in cells[-1].overrides)
    with pytest.raises(UsageError, match=r"mistake"):
        sweep.cells(tmp_path, "mnist_shortrun_cpu", sweep.axes_of(["mcmc.steps=0,1"]))
    with pytest.raises(UsageError, match=r"same name"):
        sweep.cells(tmp_path, "mnist_shortrun_cpu", sweep.axes_of(['recipe.notes="a!","a?"']))


def test_a_sweep_is_a_grid_of_runs_and_goes_on(grid: tuple[str, ...], tmp_path: Path) -> None:
    """Four runs and a figure; interrupted and begun again it ends the same, and a third time does nothing."""
    process = Running(grid, tmp_path, {})
    process.until(lambda: len(list((tmp_path / "grid").glob("*/metrics.jsonl"))) >= 2, 300)
    process.signal(2)
    assert process.end().code in (0, 130)
    found = json.loads(ebm(*grid, "--json", cwd=tmp_path, check=0).stdout)
    names = sorted(p.parent.name for p in (tmp_path / "grid").glob("*/run.json"))
    assert names == [f"init-{i}_step_size-{e}" for i in ("persistent", "uniform") for e in ("0.01", "0.03")]
    assert all(c["state"] == "done" and c["updates"] == 6 for c in found["cells"])
    cell = found["cells"][1]
    lines = metrics(tmp_path / "grid" / "init-uniform_step_size-0.03")
    assert cell["values"] == ["uniform", "0.03"]
    assert cell["displacement"] == pytest.approx(lines[-1]["displacement"])
    assert cell["noise_step"] == pytest.approx(0.03 * 16)
    assert read_metadata(tmp_path / "grid" / "sweep.png")["recipe"] == "small.toml"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "grid").glob("*/model.safetensors")}
    ran = ebm(*grid, cwd=tmp_path, check=0)
    assert "4 of them done before" in ran.stderr
    assert "persistent" in ran.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "grid").glob("*/model.safetensors")}
    fails(ebm(*grid[:4], "--out", "grid", cwd=tmp_path), "grid holds another sweep", "choose another --out")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_no_learner_outlives_its_sweep(grid: tuple[str, ...], tmp_path: Path, number: int) -> None:
    """However it is ended: each saves a checkpoint of the update it was at, and the same command goes on at once."""
    words = (*grid[:4], "--set", "train.updates=80", "--out", "grid", "--jobs", "2")
    process = Running(words, tmp_path, {})
    runs = [tmp_path / "grid" / f"init-{init}" for init in ("uniform", "persistent")]
    process.until(lambda: all(len(metrics(run)) >= 2 for run in runs), 300)
    process.signal(number)
    ended = process.end()
    if number == signal.SIGKILL:
        end = time.monotonic() + 60
        while any(held(run) for run in runs):
            assert time.monotonic() < end, "a learner goes on"
            time.sleep(0.02)
    else:
        assert (ended.code, "the same command goes on" in ended.stderr) == (130, True)
        assert not any(held(run) for run in runs)
    for run in runs:
        saved = Run(run).checkpoints()
        assert saved
        assert saved[-1].update == metrics(run)[-1]["update"] > 0
    if number == signal.SIGTERM:
        return  # how it goes on is the same after all of them
    ran = ebm(*words, "--json", cwd=tmp_path, check=0)
    assert [c["updates"] for c in json.loads(ran.stdout)["cells"]] == [80, 80]


def test_a_sweep_has_its_folder_to_itself(grid: tuple[str, ...], tmp_path: Path) -> None:
    """A second one is told; so is one whose folder cannot be made, or is something else."""
    (tmp_path / "grid").mkdir()
    lock = hold(tmp_path / "grid")
    fails(ebm(*grid, cwd=tmp_path), "another process is at work in grid")
    if lock is not None:
        lock.close()
    (tmp_path / "file").write_text("")
    for out, said in (("file", "file is a file"), ("file/in", "cannot write file/in")):
        fails(ebm(*grid[:4], "--out", out, cwd=tmp_path), said)
    (tmp_path / "grid" / sweep.FACTS).write_text('{"recipe":')
    fails(ebm(*grid, cwd=tmp_path), "sweep.json is not JSON")


def test_what_fails_and_what_diverges(grid: tuple[str, ...], tmp_path: Path) -> None:
    """A cell that diverges is noted and not tried again; one that cannot run ends the sweep with its own words."""
    wild = ("--set", "optimizer.learning_rate=1e6", "--set", "guard.retries=0", "--json")
    ran = ebm(*grid[:4], *wild, "--out", "wild", cwd=tmp_path, check=0)
    states = [c["state"] for c in json.loads(ran.stdout)["cells"]]
    assert states == ["diverged"] * 2
    assert "diverged: update" in ran.stderr
    assert "2 of them done before" in ebm(*grid[:4], *wild, "--out", "wild", cwd=tmp_path, check=0).stderr
    ran = ebm(*grid[:4], "--data", "nowhere", "--out", "bad", "--quiet", cwd=tmp_path)
    # Two cells run at once: either may be the first to say it.
    fails(ran, " failed: no data at nowhere", "the same command goes on")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("")
    fails(ebm(*grid[:4], "--out", "full", cwd=tmp_path), "holds no sweep")
    rows = json.loads(ebm(*grid, "--dry-run", "--json", cwd=tmp_path, check=0).stdout)
    assert rows[0]["mcmc.init"] == "uniform"
    assert not (tmp_path / "grid").exists()


def test_runs(tmp_path: Path) -> None:
    """State, numbers and newest grid of each; curves of all; one that is learning is going."""
    (tmp_path / "small.toml").write_text(SMALL)
    fails(ebm("runs", cwd=tmp_path), "no runs in runs", "ebm train RECIPE")
    ebm("train", "small.toml", "--quiet", cwd=tmp_path, check=0)
    long = Running(("train", "small.toml", "--set", "train.updates=100000", "--out", "runs/b"), tmp_path, {})
    long.until(lambda: len(metrics(tmp_path / "runs" / "b")) > 2, 300)
    rows = json.loads(ebm("runs", "--json", cwd=tmp_path, check=0).stdout)
    long.signal(15)
    assert long.end().code == 130
    assert [(r["run"], r["state"]) for r in rows] == [("runs/b", "going"), ("runs/tiny", "done")]
    assert rows[1]["updates"] == 6
    assert rows[1]["picture"] == "runs/tiny/samples/000006.png"
    assert rows[1]["displacement"] == metrics(tmp_path / "runs" / "tiny")[-1]["displacement"]
    ran = ebm("runs", "runs/b", "runs/tiny", "--curves", "c.svg", cwd=tmp_path, check=0)
    assert "stopped" in ran.stdout
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


def test_a_begun_run_without_checkpoints(tmp_path: Path) -> None:
    """Nothing to say of it yet, and no failure."""
    run = Run.create(tmp_path / "run", SMALL, {})
    assert sweep.state_of(run.folder) == ("begun", 0)
    found = sweep.outcome(sweep.Cell(("a",), run.folder, ()))
    assert math.isnan(found.displacement)
    assert not run.locked()

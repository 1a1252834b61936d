"""Long runs of a training: they judge it on the way, and change nothing of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers.quick import Running, ebm, same

from ebmcli.data.toys import load_toy
from ebmcli.data.training import ToyData
from ebmcli.errors import EBMError
from ebmcli.longrun import LongRun
from ebmcli.models.checkpoint import ModelConfig
from ebmcli.recipe import load
from ebmcli.storage.locks import hold
from ebmcli.storage.seals import Soundness
from ebmcli.training import diagnosis, longruns
from ebmcli.training.longruns import FOLDER, RECORD, Line, LongRuns, Place
from ebmcli.training.run_folder import Run
from ebmcli.training.session import Learning

TOY = (
    *("train.updates=10", "train.positives=16", "train.negatives=16", "mcmc.bank_size=64", "mcmc.steps=3"),
    *("potential.width=4", "log.samples_every=0", "log.checkpoint_every=5", "longrun.every=5", "longrun.steps=12"),
)
"""A training of a toy that takes a second, with a long run after updates 5 and 10."""
CONFIG = {
    **{"name": "toy", "network": "toy", "image_size": 1, "channels": 2, "energy_scale": 1.0, "step_size": 0.1},
    **{"noise": 1.0, "steps": 5, "init": "uniform", "regime": "convergent", "updates": 80},
}
CORES = os.cpu_count() or 1


def words_of(*settings: str) -> tuple[str, ...]:
    """What `ebm` hears for this training."""
    return ("train", "gmm_convergent", *(word for setting in (*TOY, *settings) for word in ("--set", setting)))


def line(update: int, gap: float | None = -0.5, verdict: str | None = "convergent", error: str = "") -> Line:
    """A line of the record."""
    numbers = {"gap": gap, "gap_error": 0.1, "drift": 0.0, "drift_error": 0.1}
    return Line(update=update, steps=12, verdict=verdict, seconds=1.0, error=error, **numbers)  # type: ignore[typeddict-item]


def record(run: Path, *lines: Line) -> None:
    """Write the record of a training."""
    run.mkdir(exist_ok=True)
    (run / RECORD).write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_what_a_recipe_says() -> None:
    """Its words become those of a walk; nothing is said where there is no recipe, or for another kernel."""
    recipe = load("digits_quickstart", ["longrun.steps=50", "longrun.adjust=mh", "longrun.step_size=0.03"])
    expected = {"start": "data", "steps": 50, "kernel": "mala", "step_size": 0.03}
    assert longruns.chosen(recipe.longrun) == expected
    assert longruns.defaults(recipe.dumps()) == expected
    assert longruns.defaults(recipe.dumps(), "mala") == expected
    assert longruns.defaults(recipe.dumps(), "hmc") == {"start": "data", "steps": 50}
    assert longruns.defaults("") == {}
    assert longruns.defaults("no recipe") == {}


def test_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the training where it is on the CPU and leaves a core free, in line elsewhere."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert longruns.run_beside("cpu", 3)
    assert not longruns.run_beside("cpu", 4)
    assert not longruns.run_beside("cuda:0", 1)


def test_words() -> None:
    """One sentence, with the gap and its error, or the reason why there is none."""
    assert longruns.in_words(line(1000)) == "long run of update 1,000: convergent, gap -0.50 ± 0.10 sd after 12 steps"
    failed = line(20, None, None, "the data is not at hand")
    assert longruns.in_words(failed) == "long run of update 20: no verdict, the data is not at hand"


def test_going_back_forgets_later_ones(tmp_path: Path) -> None:
    """Lines, weights and folders of later updates go; half a line goes too; what else lies there stays."""
    record(tmp_path, line(10), line(5))
    with open(tmp_path / RECORD, "a") as file:
        file.write('{"update": 15, "ste')
    (tmp_path / FOLDER / "000010").mkdir(parents=True)
    for name in ("000005.safetensors", "000010.safetensors", "000015.safetensors", "notes.txt"):
        (tmp_path / FOLDER / name).write_text("")
    longruns.cut(tmp_path, 7)
    assert longruns.read(tmp_path) == [line(5)]
    assert (tmp_path / RECORD).read_text().endswith("}\n")
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == ["000005.safetensors", "notes.txt"]
    longruns.cut(tmp_path / "none", 0)


def test_a_folder_that_is_worked_in_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and then the training says so and changes nothing."""
    folder = tmp_path / FOLDER / "000010"
    folder.mkdir(parents=True)
    lock = hold(folder)
    monkeypatch.setattr(longruns, "PATIENCE", 0.0)
    with pytest.raises(EBMError, match="another process is at work"):
        longruns.cut(tmp_path, 5)
    assert folder.is_dir()
    if lock is not None:
        lock.close()
    longruns.cut(tmp_path, 5)
    assert not folder.exists()


def test_a_failure_is_a_line(tmp_path: Path) -> None:
    """Weights that cannot be read end no training; the reason is kept, and the long run counts as finished."""
    runs = LongRuns(Place(tmp_path, load("digits_quickstart", ["longrun.every=5"]).longrun, None), beside=False)
    assert [update for update in range(1, 11) if runs.due(update)] == [5, 10]
    runs.begin(5, lambda path: path.write_bytes(b"no weights"))
    (found,) = runs.finished()
    assert found["update"] == 5
    assert found["verdict"] is None
    assert "000005.safetensors" in found["error"]
    assert longruns.read(tmp_path) == [found]
    assert LongRuns(runs.place, beside=False).unfinished == []


def test_noise_free_learning_without_a_step_size(tmp_path: Path) -> None:
    """Its ε is none for long chains: that is the line's reason, and nothing fails."""
    still = ("mcmc.noise=0", "recipe.regime=non-convergent", "longrun.every=0")
    learning = learn(tmp_path / "run", *still, long_runs=False)
    runs = LongRuns(Place(tmp_path / "run", learning.recipe.longrun, None), beside=False)
    runs.begin(10, learning.write_model)
    (found,) = runs.finished()
    assert "without noise" in found["error"]


def learn(folder: Path, *settings: str, long_runs: bool) -> Learning:
    """Learn the toy to its end in this process, with long runs in line or without."""
    recipe = load("gmm_convergent", [*TOY, *settings])
    run = Run.create(folder, recipe.dumps(), {})
    learning = Learning(recipe, ToyData(load_toy("gmm")), run, torch.device("cpu"))
    runs = LongRuns(Place(folder, recipe.longrun, None), beside=False)
    learning.long_runs = runs if long_runs else None
    for _ in learning.events():
        if long_runs:
            list(runs.finished())
    return learning


def test_in_line_they_change_nothing(tmp_path: Path) -> None:
    """Weights, bank, metrics and all that continues a run are those of a training without long runs."""
    short = ("longrun.steps=1", "longrun.every=10")
    one = learn(tmp_path / "with", *short, long_runs=True)
    two = learn(tmp_path / "without", "longrun.steps=1", "longrun.every=10", long_runs=False)
    state, other = one.trainer.state(), two.trainer.state()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    same(tmp_path / "with", tmp_path / "without")
    (found,) = longruns.read(tmp_path / "with")
    assert (found["update"], found["steps"], found["error"]) == (10, 1, "")
    folder = LongRun.open(tmp_path / "with" / FOLDER / "000010")
    assert folder.result["verdict"] == found["verdict"]
    assert not (tmp_path / "without" / FOLDER).exists()


@pytest.mark.slow
def test_a_training_that_goes_back_makes_them_again(tmp_path: Path) -> None:
    """From the checkpoint of update 5 the long run of update 10 comes out as before."""
    one = learn(tmp_path / "run", long_runs=True)
    found = longruns.read(tmp_path / "run")
    assert [(line["update"], line["steps"], line["error"]) for line in found] == [(5, 12, ""), (10, 12, "")]
    assert all(line["verdict"] and line["gap"] is not None and line["gap_error"] for line in found)
    findings = list(LongRun.open(tmp_path / "run" / FOLDER / "000010").findings())
    assert findings
    assert all(finding.state is Soundness.SOUND for finding in findings)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "000010")
    again = Learning(one.recipe, one.data, Run.open(tmp_path / "run"), torch.device("cpu"))
    assert again.resume() == 5
    assert longruns.read(tmp_path / "run") == found[:1]
    again.long_runs = LongRuns(Place(tmp_path / "run", one.recipe.longrun, None), beside=False)
    for _ in again.events():
        list(again.long_runs.finished())
    timeless = [line | {"seconds": 0.0} for line in found]
    assert [line | {"seconds": 0.0} for line in longruns.read(tmp_path / "run")] == timeless


@pytest.mark.slow
def test_one_that_is_stopped_goes_on(tmp_path: Path) -> None:
    """It keeps its state when it is asked to stop, and a later process ends it."""
    learning = learn(tmp_path / "run", "longrun.steps=60", "longrun.every=0", long_runs=False)
    settings = learning.recipe.longrun.model_copy(update={"every": 10})
    place = Place(tmp_path / "run", settings, None)
    asked = iter([False, False, False, *[True] * 9])
    runs = LongRuns(place, beside=False, stop=lambda: next(asked))
    runs.begin(10, learning.write_model)
    assert list(runs.finished()) == []
    assert runs.unfinished == [10]
    begun = [record.step for record in LongRun.open(place.folder(10)).records()]
    assert 0 < len(begun) < 10
    (found,) = LongRuns(place, beside=False).finished()
    assert found["steps"] == 60
    assert [record.step for record in LongRun.open(place.folder(10)).records()][: len(begun)] == begun


@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="beside a training there is room on two cores and more")
def test_beside_the_training(tmp_path: Path) -> None:
    """In processes of their own; the training is the same, and the long runs are ordinary ones."""
    ebm(*words_of(), "--threads", 1, "--out", "without", "--no-longrun", cwd=tmp_path, check=0)
    ran = ebm(*words_of(), "--threads", 1, "--out", "with", cwd=tmp_path, check=0)
    same(tmp_path / "with", tmp_path / "without")
    assert not (tmp_path / "without" / FOLDER).exists()
    found = longruns.read(tmp_path / "with")
    assert [(one["update"], one["steps"], one["error"]) for one in found] == [(5, 12, ""), (10, 12, "")]
    assert "long run of update 10: " in ran.stderr
    folder = tmp_path / "with" / FOLDER / "000010"
    assert "trust" not in (folder / "longrun.json").read_text()
    ran = ebm("longrun", "--resume", folder, cwd=tmp_path, check=0)
    assert "all 12 steps are done" in ran.stderr
    ran = ebm("diagnose", "with", cwd=tmp_path, check=0)
    assert "2 long runs" in ran.stderr
    assert (tmp_path / "with-longruns.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("threads", sorted({1, CORES}))
def test_interrupted_and_gone_on_with(threads: int, tmp_path: Path) -> None:
    """Ctrl-C keeps a long run that is at work, beside or in line, and --resume ends it."""
    words = (*words_of("longrun.steps=20000"), "--out", "run", "--threads", threads)
    running = Running(words, tmp_path, {})
    first = tmp_path / "run" / FOLDER / "000005"
    running.until(lambda: (first / "state.safetensors").is_file())
    running.signal(signal.SIGINT)
    ran = running.end()
    assert ran.code == 130, ran
    assert "long runs" in ran.stderr
    assert not (first / "result.json").exists()
    ebm("train", "--resume", "run", cwd=tmp_path, check=0)
    assert [line["update"] for line in longruns.read(tmp_path / "run")] == [5, 10]
    assert (first / "result.json").is_file()


def test_the_gap_is_drawn(tmp_path: Path) -> None:
    """A mark with its error for each long run, a colour for each verdict, and a cross where there is none."""
    config = ModelConfig.model_validate(CONFIG)
    lines = [line(20, -40.0, "oversaturated"), line(40, None, None, "no data"), line(60), line(80, 0.2)]
    with diagnosis.draw_long_runs(config, lines) as figure:
        gap = figure.axes[0]
        assert {text.get_text() for text in gap.get_legend().get_texts()} == {
            *("oversaturated", "convergent", "none", "tolerated of a density"),
        }
        drawn = [list(bars.lines[0].get_xdata()) for bars in gap.containers]
        assert drawn == [[20], [60, 80]]

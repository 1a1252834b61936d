"""The run folder: what it refuses, what it keeps, and that a run killed at any moment ends as if it had not been."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.quick import Running, ebm, fails, metrics, recipe, same, trained

from ebmcli.errors import EBMError
from ebmcli.models.checkpoint import FILE
from ebmcli.storage.folders import new_folder
from ebmcli.training.run_folder import Run, Saved

NAMES = ("tiny", "tiny_noise")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A new run."""
    return Run.create(tmp_path / "run", "schema = 1\n", {"seed": 0})


def save(run: Run, update: int, keep: int = 3) -> Saved:
    """A checkpoint whose only tensor is its number."""
    model = run.folder / ".model.tmp"
    model.write_bytes(f"model {update}".encode())
    return run.save(update, model, {"x": torch.tensor([update])}, {"threads": 1}, keep)


# The folder


def test_a_run_is_created_and_opened(run: Run) -> None:
    """recipe.toml and run.json are there from the start, and nothing else."""
    assert sorted(p.name for p in run.folder.iterdir()) == ["recipe.toml", "run.json"]
    again = Run.open(run.folder)
    assert again.facts == {"seed": 0}
    assert again.recipe_path.read_text() == "schema = 1\n"
    assert again.checkpoints() == []
    assert list(again.metrics()) == []
    assert again.picture(60) == run.folder / "samples" / "000060.png"


def test_a_run_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    """Neither a run, nor a folder with other things in it, nor a file; each says what to do."""
    with pytest.raises(EBMError, match="holds a run already") as caught:
        Run.create(run.folder, "", {})
    assert f"--resume {run.folder}" in caught.value.hint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(EBMError, match="not empty") as caught:
        Run.create(tmp_path / "thesis", "", {})
    assert "--resume" not in caught.value.hint
    with pytest.raises(EBMError, match="is a file"):
        Run.create(tmp_path / "thesis" / "chapter.txt", "", {})
    assert run.facts == {"seed": 0}


def test_a_start_that_was_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    """Killed between its first files, a run is none yet: the same command may be given again."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.toml").write_text("old")
    (folder / ".run.json.1234.tmp").write_text("{")
    with pytest.raises(EBMError, match="no run in"):
        Run.open(folder)
    assert Run.create(folder, "new", {}).recipe_path.read_text() == "new"


def test_what_is_no_run_is_not_opened(tmp_path: Path) -> None:
    """An empty folder, a missing one, a file; and a run.json that is not JSON."""
    (tmp_path / "file").write_text("")
    for name in (".", "missing", "file"):
        with pytest.raises(EBMError, match="no run in") as caught:
            Run.open(tmp_path / name)
        assert "ebm train RECIPE" in caught.value.hint
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EBMError, match=r"run\.json is not JSON"):
        _ = Run.open(tmp_path).facts


def test_new_folder_counts_on(tmp_path: Path) -> None:
    """runs/NAME, then -2, -3."""
    assert new_folder("a", tmp_path) == tmp_path / "a"
    for name in ("a", "a-2"):
        (tmp_path / name).mkdir()
    assert new_folder("a", tmp_path) == tmp_path / "a-3"
    assert new_folder("a") == Path("runs/a")


# Checkpoints


def test_checkpoints_are_kept_pruned_and_loaded(run: Run) -> None:
    """The newest `keep` stay, in order of their numbers; the newest model is the run's."""
    for update in (0, 60, 999_999, 1_000_000):
        saved = save(run, update)
        assert (run.folder / FILE).read_bytes() == f"model {update}".encode()
    assert [s.update for s in run.checkpoints()] == [60, 999_999, 1_000_000]
    assert run.checkpoints()[-1] == saved
    assert run.checkpoints()[0].folder.name == "000060"
    state, progress = run.load(saved)
    assert state["x"].tolist() == [1_000_000]
    assert progress == {"update": 1_000_000, "threads": 1}
    save(run, 2_000_000, keep=1)
    assert [s.update for s in run.checkpoints()] == [2_000_000]


def test_half_a_checkpoint_is_none(run: Run) -> None:
    """What pruning left half removed, or a temporary folder, is not resumed from, and does not stop a new one."""
    save(run, 10)
    save(run, 20)
    (run.folder / "checkpoints" / "000020" / "state.json").unlink()
    (run.folder / "checkpoints" / ".000030.tmp").mkdir()
    assert [s.update for s in run.checkpoints()] == [10]
    save(run, 20)
    assert [s.update for s in run.checkpoints()] == [10, 20]
    run.tidy()
    assert not list(run.folder.rglob(".*.tmp"))


def test_saving_again_takes_no_checkpoint_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same update a second time: the sound checkpoint is not even touched."""
    save(run, 10, keep=1)
    before = (run.folder / "checkpoints" / "000010").stat().st_ino
    assert save(run, 10, keep=1).update == 10
    assert (run.folder / "checkpoints" / "000010").stat().st_ino == before
    assert not list(run.folder.glob(".*"))


# Metrics


def test_metrics_are_appended_and_cut_back(run: Run) -> None:
    """Cut to an update; numbers survive as they were."""
    records = [{"update": u, "d": 0.1 * u, "seconds": 1e-9} for u in range(1, 6)]
    for record in records:
        run.append(record)
    assert list(run.metrics()) == records
    run.cut_metrics(3)
    assert list(run.metrics()) == records[:3]
    before = run.metrics_path.read_bytes()
    run.cut_metrics(3)
    assert run.metrics_path.read_bytes() == before


def test_half_a_line_of_metrics_is_left_out(run: Run) -> None:
    """A kill in the middle of a write leaves no end of line, and the rest of that line is made again."""
    run.append({"update": 1})
    with open(run.metrics_path, "a") as file:
        file.write('{"update": 2, "d": 0.')
    assert list(run.metrics()) == [{"update": 1}]
    run.cut_metrics(1)
    run.append({"update": 2})
    assert list(run.metrics()) == [{"update": 1}, {"update": 2}]


# Disks


def full(*_: object, **__: object) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "pathlib.Path.mkdir"])
def test_a_full_disk_is_one_clear_line(call: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call fails, and the checkpoint before is whole."""
    save(run, 10)
    monkeypatch.setattr(call, full)
    with pytest.raises(EBMError, match=r"^cannot write .*: No space left on device$") as caught:
        save(run, 20)
    assert "disk full" in caught.value.hint
    monkeypatch.undo()
    assert [s.update for s in run.checkpoints()] == [10]
    assert (run.folder / FILE).read_bytes() == b"model 10"


def test_metrics_and_new_runs_on_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line from the metrics; a folder that cannot be made says so."""
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(EBMError, match=r"cannot write .*metrics\.jsonl"):
        run.append({"update": 1})
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(EBMError, match="cannot make the folder"):
        Run.create(tmp_path / "other", "", {})


# Killed, interrupted, resumed


def start(factory: pytest.TempPathFactory, name: str, run: Path, **env: str) -> Running:
    """`ebm train NAME --out RUN`, or its continuation."""
    cwd = run.parent
    if (run / "run.json").exists():
        return Running(("train", "--resume", run.name), cwd, env)
    words = ("train", recipe(factory, name), "--out", run.name, "--threads", 1)
    return Running(words, cwd, env)


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_chosen_instants(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One run dies at every instant that matters, three times over, and ends as the one that never did."""
    run = tmp_path / "run"
    write = ["state-written", "before-rename", "after-rename"]
    for instant in ["created", *write, "metrics-5", "metrics-20", *write, "metrics-21", "metrics-40", *write]:
        ran = start(tmp_path_factory, name, run, EBM_CRASH_AT=instant).end()
        assert ran.code == -signal.SIGKILL, (instant, ran)
    assert (run / FILE).read_bytes() != (run / "checkpoints" / "000040" / FILE).read_bytes()
    ran = start(tmp_path_factory, name, run).end()
    assert ran.code == 0, ran
    assert [r["update"] for r in metrics(run)] == [*range(1, 41)]
    same(run, trained(tmp_path_factory, name))


@pytest.mark.parametrize("name", NAMES)
def test_killed_five_times_at_random(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SIGKILL from outside, wherever it hits; a line of metrics is cut in half for good measure."""
    run, luck = tmp_path / "run", random.Random(name)
    for reached in (1, 6, 11, 16, 22):
        process = start(tmp_path_factory, name, run)
        process.until(lambda least=reached: len(metrics(run)) >= least)
        time.sleep(luck.uniform(0, 0.02))
        process.signal(signal.SIGKILL)
        assert process.end().code == -signal.SIGKILL
        if reached == 11:
            content = (run / "metrics.jsonl").read_bytes()
            (run / "metrics.jsonl").write_bytes(content[:-30])
    assert start(tmp_path_factory, name, run).end().code == 0
    assert [r["update"] for r in metrics(run)] == [*range(1, 41)]
    same(run, trained(tmp_path_factory, name))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The update under way is finished and saved, exit 130; then on to the same end."""
    run = tmp_path / "run"
    process = start(tmp_path_factory, "tiny", run)
    process.until(lambda: len(metrics(run)) >= 3)
    process.signal(number)
    ran = process.end()
    assert ran.code == 130, ran
    done = metrics(run)[-1]["update"]
    assert done < 20
    said = [f"error: interrupted: update {done} of 40 is saved", "hint: go on with ebm train --resume run"]
    assert ran.stderr.splitlines()[-2:] == said
    assert Run(run).checkpoints()[-1].update == done
    ran = start(tmp_path_factory, "tiny", run).end()
    assert f"goes on after update {done}" in ran.stderr
    same(run, trained(tmp_path_factory))


def test_killed_before_there_is_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, run_cli) -> None:
    """Then `--resume` says that there is none, and the first command works when it is given again."""
    run = tmp_path / "run"
    process = start(tmp_path_factory, "tiny", run)
    process.signal(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    assert not run.exists()
    fails(run_cli("train", "--resume", "run", cwd=tmp_path), "no run in run", "ebm train RECIPE --out run")
    words = ("train", recipe(tmp_path_factory), "--out", "run", "--set", "train.updates=1")
    ebm(*words, cwd=tmp_path, check=0)
    assert json.loads((run / "run.json").read_text())["seed"] == 0

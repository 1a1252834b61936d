"""A power cut or a failing disk at any operation of a checkpoint, of a long run's record and of a map's: old or new."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.power import FAULTS, Disk, Failing, watched
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.evaluation import Walk, WalkSettings
from ebmcli.landscape.store import Folder as Store
from ebmcli.landscape.travel import Arrival, Job
from ebmcli.longrun import LongRun, begin
from ebmcli.models import checkpoint
from ebmcli.storage.files import write_whole
from ebmcli.storage.tensors import pack
from ebmcli.training.run_folder import FILE, Run

MODEL = Path(__file__).parents[1] / "helpers" / "weights" / "gmm_convergent.safetensors"


class Work(NamedTuple):
    """Something that is kept: what is there before, what is done, and a check of what is found afterwards."""

    begin: Callable[[Path], None]
    go_on: Callable[[Path], None]
    check: Callable[[Path], None]


# A run: two more records and a checkpoint, of which one is kept


def state(update: int) -> dict[str, Tensor]:
    """Of a run."""
    return {"x": torch.arange(4.0) * update}


def learn(run: Run, update: int) -> None:
    """One update and its checkpoint."""
    run.append({"update": update, "seconds": 0.5})
    if update % 2:
        model = write_whole(run.folder / ".model.tmp", pack({"network.x": torch.ones(2) * update}))
        run.save(update, model, state(update), {"threads": 1}, keep=1)


def run_begins(path: Path) -> None:
    """Up to update 1."""
    learn(Run.create(path, "schema = 1\n", {"seed": 0}), 1)


def run_goes_on(path: Path) -> None:
    """To update 3."""
    run = Run.open(path)
    for update in (2, 3):
        learn(run, update)


def run_is_sound(path: Path) -> None:
    """What is resumed is update 1 or 3, without a warning, and comes to update 5 as if nothing had happened."""
    run = Run.open(path)
    run.tidy()
    found = run.newest_sound()
    assert found.saved is not None
    assert (found.damaged, found.notes) == ((), ())
    update = found.saved.update
    assert update in (1, 3)
    assert torch.equal(run.load(found.saved)[0]["x"], state(update)["x"])
    run.finish(found.saved, 1)
    run.cut_metrics(update)
    assert [r["update"] for r in run.metrics()] == [*range(1, update + 1)]
    for later in range(update + 1, 6):
        learn(run, later)
    assert [r["update"] for r in run.metrics()] == [1, 2, 3, 4, 5]
    assert [s.update for s in run.checkpoints()] == [5]
    assert (path / FILE).read_bytes() == pack({"network.x": torch.ones(2) * 5})


# A long run: records, images and states of the next moments

LOADED = checkpoint.load(MODEL)
SETTINGS = WalkSettings.of(LOADED, chains=3, steps=12, moments=4, spacing="linear", against="none")
HISTORY = Walk(LOADED, SETTINGS, None)
STATES = {record.step: HISTORY.state for record in HISTORY.records()}


def walk_to(folder: LongRun, walk: Walk, last: int) -> None:
    """As `longrun.follow` does."""
    for record in walk.records():
        folder.append(record)
        if walk.is_moment:
            assert walk.state is not None
            folder.keep_images(walk.state.x, record.step)
            folder.save(walk)
        if record.step == last:
            return


def long_run_begins(path: Path) -> None:
    """To step 4, a moment."""
    walk = Walk(LOADED, SETTINGS, None)
    folder = begin(path, "m", walk)
    walk_to(folder, walk, 4)
    folder._lock.close()


def long_run_goes_on(path: Path) -> None:
    """To the end."""
    folder, walk = LongRun.open(path), Walk(LOADED, SETTINGS, None)
    folder.restore(walk)
    walk_to(folder, walk, SETTINGS.steps)


def long_run_is_sound(path: Path) -> None:
    """It is restored at a moment from step 4 on, with the chains and records that belong there."""
    folder, walk = LongRun.open(path), Walk(LOADED, SETTINGS, None)
    step = folder.restore(walk)
    assert step in (4, 8, 12)
    assert walk.state is not None
    assert torch.equal(walk.state.x, STATES[step].x)
    assert walk.seen == [record for record in HISTORY.seen if record.step <= step]
    assert not [*path.rglob("*.damaged")]
    assert {0, 4} <= {number for number, _ in folder.images() if number <= step}


# A map: finished jobs, and the state of a stage in the place of another

JOBS = {Job(0, number, 0, 0.5): Arrival(number % 2 == 0, 1.5 * number, number) for number in range(12)}


def chains(step: int) -> dict[str, Tensor]:
    """The state of a stage."""
    return {"x": torch.ones(2, 3) * step}


def map_begins(path: Path) -> None:
    """Four jobs and a state."""
    path.mkdir()
    store = Store(path)
    store.append("basins", list(JOBS.items())[:4])
    store.write("chains", chains(1), step=1, still=False)


def map_goes_on(path: Path) -> None:
    """Eight more, and another state."""
    store = Store(path)
    store.append("basins", list(JOBS.items())[4:8])
    store.write("chains", chains(2), step=2, still=True)
    store.append("basins", list(JOBS.items())[8:])


def map_is_sound(path: Path) -> None:
    """Jobs that are there came to what they came to; the state is the old or the new one."""
    store = Store(path)
    assert store.jobs("basins").items() <= JOBS.items()
    kept = store.read("chains")
    assert kept is not None
    assert kept[1] == {"step": int(kept[0]["x"][0, 0]), "still": bool(kept[0]["x"][0, 0] == 2)}
    store.append("basins", JOBS.items())
    del store
    assert Store(path).jobs("basins") == JOBS


WORK = {
    "run": Work(run_begins, run_goes_on, run_is_sound),
    "long run": Work(long_run_begins, long_run_goes_on, long_run_is_sound),
    "map": Work(map_begins, map_goes_on, map_is_sound),
}


@pytest.mark.parametrize("name", WORK)
def test_power_cuts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every operation, with every combination of what was not flushed: sound, and the old or the new."""
    work, states = WORK[name], 0
    work.begin(tmp_path / "work")
    left: list[Path] = []

    def cut(model: Disk) -> None:
        left.extend(model.remains(tmp_path / f"cut-{len(left)}"))

    with watched(tmp_path / "work", monkeypatch, cut):
        work.go_on(tmp_path / "work")
    for path in left:
        work.check(path)
        states += 1
        shutil.rmtree(path)
    assert states >= 40
    print(f"{name}: {states} of {len(left)} states after a power cut are sound")


def failure_of(action: Callable[[Path], None], path: Path) -> str | None:
    """The message of the one error that is allowed; None where there was none."""
    try:
        action(path)
    except EBMError as error:
        return error.message
    return None


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize(("code", "lasting"), FAULTS)
def test_a_disk_that_fails(
    name: str, code: int, lasting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every operation in turn: one clear error, or none where nothing was lost; what is there is gone on from."""
    work = WORK[name]
    work.begin(tmp_path / "begun")
    for number in itertools.count(1):
        path = Path(shutil.copytree(tmp_path / "begun", tmp_path / f"try-{number}"))
        with Failing(number, code, lasting).installed(monkeypatch) as failing:
            said = failure_of(work.go_on, path)
        assert said is None or ("cannot" in said and "\n" not in said), said
        if failing.count < number:
            break
        work.check(path)
        shutil.rmtree(path)
    assert number > 8
    print(f"{name}: {number - 1} of {number - 1} failing operations are borne")

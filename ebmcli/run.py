"""The run folder: what a training run writes, and how it is found again after any end (floor 2).

    run.json            how it was started: seed, threads, backend, versions, data
    recipe.toml         the resolved recipe
    metrics.jsonl       one line an update (or every so many)
    model.safetensors   the newest model
    samples/000100.png  grids on the way
    checkpoints/000100/ model.safetensors, state.safetensors, state.json

Every file but the metrics is written whole under another name and then renamed; the metrics are
cut back to the newest checkpoint when a run is resumed. A run is never overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmcli.checkpoint import FILE
from ebmcli.errors import EBMError
from ebmcli.storage.files import write_whole, writing
from ebmcli.storage.locks import LOCK, held, hold
from ebmcli.storage.tensors import read_tensors

DIGITS = 6


class Saved(NamedTuple):
    """A checkpoint on the disk."""

    update: int
    folder: Path


def crash_point(name: str) -> None:
    """Where tests kill the process: SIGKILL if the environment's EBM_CRASH_AT is `name`.

    Killing from outside never hits the instants that matter; this does.
    """
    if os.environ.get("EBM_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


class Run:
    """One run folder, created with `create` or found again with `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, recipe: str, facts: dict[str, Any]) -> Run:
        """A new run: the folder, with the resolved recipe and `facts` of its start in it.

        Raises:
            EBMError: the folder exists and is not empty, or cannot be made.
        """
        cls.check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EBMError(f"cannot make the folder {folder}: {error.strerror}", "choose another --out") from error
        run = cls(folder)
        write_whole(folder / "recipe.toml", recipe)
        # run.json is last: a folder that has it is a run.
        run.write_facts(facts)
        crash_point("created")
        return run

    @staticmethod
    def check_new(folder: Path) -> None:
        """Nothing, if a run may be begun in `folder`.

        Raises:
            EBMError: it holds something, and be it a run; what a start cut short has left does not count.
        """
        if (folder / "run.json").is_file():
            raise EBMError(
                f"{folder} holds a run already, and a run is never overwritten",
                f"choose another --out, or go on with it: ebm train --resume {folder}",
            )
        if folder.exists() and not (folder.is_dir() and all(_left_over(p) for p in folder.iterdir())):
            what = "not empty" if folder.is_dir() else "a file"
            raise EBMError(f"{folder} is {what}: a run gets a folder of its own", "choose another --out")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that was begun.

        Raises:
            EBMError: there is none in that folder.
        """
        run = cls(folder)
        if not (folder / "run.json").is_file():
            raise EBMError(f"no run in {folder}", "start one: ebm train RECIPE --out " + str(folder))
        return run

    def lock(self) -> None:
        """Keep this run to this process until it ends, however it ends.

        Raises:
            EBMError: another process is learning in it.
        """
        self._lock = hold(self.folder)

    def locked(self) -> bool:
        """Whether a process is learning in it now (never, where the system has no such lock)."""
        return held(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """run.json."""
        path = self.folder / "run.json"
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise EBMError(f"{path} cannot be read", "was it changed by hand?") from error

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace run.json."""
        write_whole(self.folder / "run.json", json.dumps(facts, indent=2) + "\n")

    @property
    def recipe_path(self) -> Path:
        """recipe.toml."""
        return self.folder / "recipe.toml"

    def picture(self, update: int) -> Path:
        """Where the grid of this update belongs."""
        return self.folder / "samples" / f"{update:0{DIGITS}d}.png"

    # Checkpoints

    def checkpoints(self) -> list[Saved]:
        """Whole checkpoints, oldest first."""
        folders = (self.folder / "checkpoints").glob("[0-9]*")
        whole = ("state.safetensors", "state.json", FILE)
        return sorted(
            Saved(int(f.name), f) for f in folders if f.name.isdigit() and all((f / n).is_file() for n in whole)
        )

    def save(self, update: int, model: Path, state: dict[str, Tensor], progress: dict[str, Any], keep: int) -> Saved:
        """Make checkpoint `update` out of a model file (moved there) and the training state.

        Args:
            model: a file in this run's folder.
            state: tensors that continue the run.
            progress: whatever else does, as JSON can hold it.
            keep: how many numbered checkpoints stay; older ones are removed.
        """
        final = self.folder / "checkpoints" / f"{update:0{DIGITS}d}"
        temporary = final.with_name(f".{final.name}.tmp")
        saved = Saved(update, final)
        if saved in self.checkpoints():  # the same update, so the same state: never taken away
            model.unlink()
            return saved
        with writing(final):
            for left in (temporary, final):  # by a process that was killed while writing, or while pruning
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir(parents=True)
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
            write_whole(temporary / "state.safetensors", to_bytes(tensors))
            crash_point("state-written")
            write_whole(temporary / "state.json", json.dumps({"update": update, **progress}) + "\n")
            os.replace(model, temporary / FILE)
            crash_point("before-rename")
            os.replace(temporary, final)
            crash_point("after-rename")
            self.finish(saved, keep)
        return saved

    def finish(self, saved: Saved, keep: int) -> None:
        """What follows the newest checkpoint: its model is the run's, and older ones than `keep` go."""
        write_whole(self.folder / FILE, (saved.folder / FILE).read_bytes())
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old.folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a killed process has left half written."""
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("*/.*.tmp")]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def load(self, saved: Saved) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Training state and progress of a checkpoint."""
        tensors, _ = read_tensors(saved.folder / "state.safetensors")
        return tensors, json.loads((saved.folder / "state.json").read_text())

    # Metrics

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.folder / "metrics.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with writing(self.metrics_path), open(self.metrics_path, "a") as file:
            file.write(json.dumps(record) + "\n")
        crash_point(f"metrics-{record['update']}")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics so far; a last line that was cut off is left out."""
        if not self.metrics_path.is_file():
            return
        with open(self.metrics_path) as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def cut_metrics(self, update: int) -> None:
        """Leave only the lines up to `update`: what comes after will be made again."""
        lines = [json.dumps(r) + "\n" for r in self.metrics() if r["update"] <= update]
        write_whole(self.metrics_path, "".join(lines))


def whole_bank(model: Path) -> Tensor | None:
    """All persistent chains beside a model file of a run, of which the file itself holds a few; None elsewhere.

    Args:
        model: a run's model.safetensors, or that of one of its checkpoints.
    """
    folder = model.parent
    if (folder / "run.json").is_file():
        saved = Run(folder).checkpoints()
        folder = saved[-1].folder if saved else folder
    state = folder / "state.safetensors"
    return read_tensors(state)[0].get("bank") if state.is_file() else None


def _left_over(path: Path) -> bool:
    """What a start that was cut short leaves in its folder."""
    return path.name in ("recipe.toml", LOCK) or (path.name.startswith(".") and path.name.endswith(".tmp"))


def new_folder(name: str, parent: Path = Path("runs")) -> Path:
    """runs/NAME, or runs/NAME-2, runs/NAME-3 … where there are runs of that name."""
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder

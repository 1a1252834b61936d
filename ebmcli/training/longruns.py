"""Long runs of a model while it is learned: the test of convergent learning, every so many updates.

    longruns.jsonl               one line a finished long run: its verdict, its gap to the data's energy, its drift
    longruns/001000.safetensors  the averaged weights of that update
    longruns/001000/             the long run (`ebmcli.longrun`), which goes on after any end

Whether an energy is a density shows only in chains that are longer than any that learning ran; the paper's authors ran
100,000 steps from data every 10,000 updates. A long run has its own copy of the weights and random numbers of its own,
and its own process where a core is free, so it never changes a bit of the training.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch

from ebmcli import longrun
from ebmcli.errors import EBMError
from ebmcli.evaluation import Walk, WalkSettings, baseline, reference_of
from ebmcli.models import checkpoint
from ebmcli.recipe.sections import LongrunSettings
from ebmcli.storage import files, reading

RECORD, FOLDER = "longruns.jsonl", "longruns"
DIGITS = 6
STARTS = {"data": "data", "uniform": "noise", "gaussian": "noise", "persistent": "bank"}
"""Where a long run starts, by the word of the recipe; noise is of the kind that the model learned with."""
KERNELS = {"none": "langevin", "mh": "mala"}
"""What moves the chains, by whether the recipe wants a Metropolis–Hastings test."""
NICENESS = 5
"""By how much a long run beside the training gives way to it."""


class Line(TypedDict):
    """One line of `longruns.jsonl`; gap and drift are in standard deviations of the data's energy."""

    update: int
    steps: int
    verdict: str | None
    gap: float | None
    gap_error: float | None
    drift: float | None
    drift_error: float | None
    seconds: float
    error: str
    """why there is no verdict; empty where there is one"""


class Place(NamedTuple):
    """What a long run needs besides its model: the same for all long runs of a run."""

    run: Path
    settings: LongrunSettings
    data: str | None
    """images to start at and to compare with, where the model's own are not in the package"""
    device: str = "cpu"
    backend: str = "auto"
    trusted: bool = False
    """whether the user has just allowed the recipe's own network to be imported"""

    def model(self, update: int) -> Path:
        """The weights of an update."""
        return self.run / FOLDER / f"{update:0{DIGITS}d}.safetensors"

    def folder(self, update: int) -> Path:
        """The long run of an update."""
        return self.run / FOLDER / f"{update:0{DIGITS}d}"


def chosen(settings: LongrunSettings) -> dict[str, Any]:
    """What a recipe says of long runs, as `WalkSettings.of` takes it."""
    values: dict[str, Any] = {"start": STARTS[settings.init], "steps": settings.steps}
    values["kernel"] = KERNELS[settings.adjust]
    return values | ({"step_size": settings.step_size} if settings.step_size else {})


def read(run: Path) -> list[Line]:
    """The long runs of a run that are finished, in the order of their updates.

    Raises:
        EBMError: a line is damaged.
    """
    return sorted((line for _, line in reading.read_lines(run / RECORD, Line)), key=lambda line: line["update"])


def walk(place: Place, update: int, stop: Callable[[], bool] = lambda: False) -> Line | None:
    """Run the long run of an update to its end, from where it was; None where `stop` ended it before.

    Args:
        stop: asked after each record; what there is has been saved when it ends the long run.
    """
    began = time.monotonic()
    line = _line(update)
    try:
        model = checkpoint.load(place.model(update), device=place.device, backend=place.backend, trusted=place.trusted)
        settings = WalkSettings.of(model, **chosen(place.settings), data=place.data)
        reference = reference_of(model, settings)
        path = place.folder(update)
        begun = (path / longrun.folder.FACTS).is_file()
        kept = longrun.LongRun.open(path) if begun else None
        chains = Walk(model, settings, reference, step_size=kept.facts["step_size"] if kept else None)
        folder = kept or longrun.begin(path, str(place.model(update)), chains, judged=True)
        if kept is not None:
            kept.lock()
            kept.restore(chains)
        for _ in longrun.follow(chains, folder, stop):
            pass
        if chains.seen[-1].step < settings.steps:
            return None
        found = longrun.finish(chains, folder, baseline(model, reference, settings))
        assert found is not None
        measured = found.measured
        line["steps"], line["verdict"] = measured.steps, found.judgement.verdict.value
        line["gap"], line["gap_error"] = _number(measured.gap.value), _number(measured.gap.error)
        line["drift"], line["drift_error"] = _number(measured.drift.value), _number(measured.drift.error)
    except EBMError as error:  # chains that left for good say something of the model; no data at hand does not
        line["error"] = error.message
    line["seconds"] = round(time.monotonic() - began, 1)
    return line


def _line(update: int, error: str = "") -> Line:
    """The line of a long run that has come to nothing yet."""
    nothing = dict.fromkeys(("verdict", "gap", "gap_error", "drift", "drift_error"))
    return Line(update=update, steps=0, seconds=0.0, error=error, **nothing)  # type: ignore[typeddict-item]


def _number(value: float) -> float | None:
    """As JSON can hold it."""
    return value if math.isfinite(value) else None


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"


class LongRuns:
    """All long runs of a run: begun by learning, finished beside it or in line.

    Args:
        place: what they need.
        beside: whether each gets a process of its own, one at a time; otherwise `begin` returns when it is finished.
        stop: asked after each record of one in line; True saves what there is and ends it.
    """

    def __init__(self, place: Place, beside: bool, stop: Callable[[], bool] = lambda: False) -> None:
        self.place = place
        self.beside = beside
        self.stop = stop
        self._process: BaseProcess | None = None
        self._answer: Connection | None = None
        self._now = 0

    def due(self, update: int) -> bool:
        """Whether the recipe wants a long run of this update."""
        return self.place.settings.every > 0 and update % self.place.settings.every == 0

    def begin(self, update: int, write_model: Callable[[Path], None]) -> None:
        """Keep the weights of this update, by `write_model(path)`; `finished` runs their long run."""
        self.place.model(update).parent.mkdir(parents=True, exist_ok=True)
        write_model(self.place.model(update))

    def waiting(self) -> list[int]:
        """Updates whose weights are kept and whose long run is not finished, in order."""
        done = {line["update"] for line in read(self.place.run)}
        kept = (self.place.run / FOLDER).glob("[0-9]*.safetensors")
        return sorted({int(path.stem) for path in kept if path.stem.isdigit()} - done)

    def finished(self, to_the_end: bool = False) -> Iterator[Line]:
        """The long runs that have ended since the last call, each written down; begins those that wait.

        Args:
            to_the_end: wait until none is left.
        """
        while True:
            line = self._collect(to_the_end) if self._process is not None else None
            if line is not None:
                files.append(self.place.run / RECORD, _text(line))
                yield line
            if self._process is not None:
                return  # still at work
            waiting = [] if self.stop() else self.waiting()
            if not waiting:
                return
            if self.beside:
                self._start(waiting[0])
                if not to_the_end:
                    return
                continue
            ended = walk(self.place, waiting[0], self.stop)
            if ended is None:
                return
            files.append(self.place.run / RECORD, _text(ended))
            yield ended

    def cut(self, update: int) -> None:
        """Forget the long runs of later updates: a run that goes on from here makes them again."""
        lines = read(self.place.run)
        if any(line["update"] > update for line in lines):
            kept = "".join(_text(line) for line in lines if line["update"] <= update)
            files.write_whole(self.place.run / RECORD, kept)
        for path in (self.place.run / FOLDER).glob("[0-9]*"):
            if path.stem.isdigit() and int(path.stem) > update:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """End the one that is at work; it has saved its state, and goes on with the run."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._process = None

    def _start(self, update: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, theirs = context.Pipe(duplex=False)
        self._now = update
        self._process = context.Process(target=_beside, args=(self.place, update, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def _collect(self, patiently: bool) -> Line | None:
        """What the process answered, once it has ended; None while it is at work, or where it was stopped."""
        assert self._process is not None
        assert self._answer is not None
        while patiently and self._process.is_alive() and not self.stop():
            self._process.join(0.2)
        if self._process.is_alive():
            return None
        line: Line | None = self._answer.recv() if self._answer.poll() else None
        code, self._process = self._process.exitcode, None
        if line is None and code:
            line = _line(self._now, f"its process ended with code {code}")
        return line


def _beside(place: Place, update: int, answer: Connection) -> None:
    """The process of one long run; it ends with the training, saving what there is."""
    asked: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's, which then ends this process
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    line = walk(place, update, lambda: bool(asked) or (parent is not None and not parent.is_alive()))
    if line is not None:
        answer.send(line)

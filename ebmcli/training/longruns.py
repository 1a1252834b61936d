"""Long runs of a model while it is learned: the test of convergent learning, every so many updates.

    longruns.jsonl               one line for each finished long run: its verdict, its gap to the data, its drift
    longruns/001000.safetensors  the averaged weights of that update
    longruns/001000/             the long run, an ordinary folder of `ebmcli.longrun`

Whether an energy is a density shows only in chains that are longer than any that learning ran; the paper's authors ran
100,000 steps from data every 10,000 updates. A long run has its own copy of the weights and random numbers of its own,
so it never changes a bit of the training.

The weights of an update are kept before its checkpoint is. A training that goes on from a checkpoint forgets the long
runs of later updates, whose weights it makes again, and goes on with those that had begun before.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from typing_extensions import TypedDict

from ebmcli import longrun
from ebmcli.errors import EBMError
from ebmcli.evaluation import Outcome, Walk, WalkSettings, baseline, reference_of
from ebmcli.models import checkpoint
from ebmcli.recipe import LongrunSettings, loads
from ebmcli.storage import files, locks, reading

RECORD, FOLDER = "longruns.jsonl", "longruns"
DIGITS = 6
STARTS = {"data": "data", "uniform": "noise", "gaussian": "noise", "persistent": "bank"}
"""Where a long run starts, by the word of the recipe; noise is of the kind that the model learned with."""
KERNELS = {"none": "langevin", "mh": "mala"}
"""Which kernel moves the chains, by whether the recipe asks for a Metropolis–Hastings test."""
NICENESS = 5
"""By how much the process of a long run gives way to the training (of 19 at most)."""
POLL = 0.2
"""Seconds between two looks at a process that is waited for."""
PATIENCE = 20.0
"""Seconds in which a process that is asked to end may save its state; a state is on the disk in any case."""


class Line(TypedDict):
    """One line of `longruns.jsonl`; gap and drift are in standard deviations of the data's energy.

    Numbers are None where the long run did not come to them, and `error` says why.
    """

    update: int
    steps: int
    verdict: str | None
    gap: float | None
    """mean energy of the chains, late in the run, minus that of the data"""
    gap_error: float | None
    """standard error of the gap"""
    drift: float | None
    """change of the mean energy between the last two quarters of the steps"""
    drift_error: float | None
    """standard error of the drift"""
    seconds: float
    """wall time since the long run was begun or gone on with"""
    error: str
    """why there is no verdict; empty where there is one"""


class Place(NamedTuple):
    """What a long run needs besides its weights: the same for all long runs of a training."""

    run: Path
    settings: LongrunSettings
    data: str | None
    """images to start at and to compare with; None for the model's own, where those come with the package"""
    device: str = "cpu"
    backend: str = "auto"
    trusted: bool = False
    """whether the user has just allowed the recipe's own network to be imported; this is never stored"""

    def model(self, update: int) -> Path:
        """The file of the weights of an update."""
        return self.run / FOLDER / f"{update:0{DIGITS}d}.safetensors"

    def folder(self, update: int) -> Path:
        """The folder of the long run of an update."""
        return self.run / FOLDER / f"{update:0{DIGITS}d}"


def chosen(settings: LongrunSettings) -> dict[str, Any]:
    """What a recipe says of long runs, in the words of `WalkSettings.of`."""
    values: dict[str, Any] = {"start": STARTS[settings.init], "steps": settings.steps}
    values["kernel"] = KERNELS[settings.adjust]
    return values | ({"step_size": settings.step_size} if settings.step_size else {})


def defaults(recipe: str, kernel: str | None = None) -> dict[str, Any]:
    """What the recipe of a model says of long runs, in the words of `WalkSettings.of`; nothing where it says nothing.

    Args:
        recipe: TOML, as it travels with a model; of a model from elsewhere it may be empty, or any text.
        kernel: what the user wants instead of the recipe's kernel; the recipe's step size is not for it then.
    """
    try:
        values = chosen(loads(recipe, "the recipe of the model").longrun)
    except EBMError:  # a model can be walked without a recipe
        return {}
    if kernel not in (None, values["kernel"]):
        del values["kernel"]
        values.pop("step_size", None)
    return values


def read(run: Path) -> list[Line]:
    """The finished long runs of a training, in the order of their updates.

    Raises:
        EBMError: a line is damaged.
    """
    return sorted((line for _, line in reading.read_lines(run / RECORD, Line)), key=lambda line: line["update"])


def cut(run: Path, update: int) -> None:
    """Forget the long runs of later updates than this one: a training that goes on from here makes them again.

    Raises:
        EBMError: a line is damaged, or a process is still at work in one of the long runs.
    """
    record = run / RECORD
    if record.is_file():
        kept = "".join(_text(line) for line in read(run) if line["update"] <= update)
        files.write_whole(record, kept)
    for path in sorted((run / FOLDER).glob("[0-9]*")):
        if not path.stem.isdecimal() or int(path.stem) <= update:
            continue
        if path.is_dir():
            _wait_for(path)
            shutil.rmtree(path)
        else:
            path.unlink()


def _wait_for(folder: Path) -> None:
    """Give the process of a training that was killed the time to see that, which it does after its next record."""
    end = time.monotonic() + PATIENCE
    while locks.held(folder) and time.monotonic() < end:
        time.sleep(POLL)
    lock = locks.hold(folder)
    if lock is not None:
        lock.close()


def walk(place: Place, update: int, stop: Callable[[], bool] = lambda: False) -> Line | None:
    """Run the long run of an update to its end, from where it was; None where `stop` ended it before.

    Whatever fails is written into the line, for a long run must never end the training.

    Args:
        place: of the training.
        update: whose weights are kept.
        stop: asked after each record; True saves the state and ends the long run.
    """
    began = time.monotonic()
    try:
        found = _outcome(place, update, stop)
    except (EBMError, RuntimeError, MemoryError, OSError) as error:
        message = error.message if isinstance(error, EBMError) else str(error).partition("\n")[0]
        return _without_verdict(update, message or type(error).__name__, time.monotonic() - began)
    if found is None:
        return None
    measured = found.measured
    return Line(
        update=update,
        steps=measured.steps,
        verdict=found.judgement.verdict.value,
        gap=_number(measured.gap.value),
        gap_error=_number(measured.gap.error),
        drift=_number(measured.drift.value),
        drift_error=_number(measured.drift.error),
        seconds=round(time.monotonic() - began, 1),
        error="",
    )


def _outcome(place: Place, update: int, stop: Callable[[], bool]) -> Outcome | None:
    """What the long run of an update comes to; None where it was stopped."""
    path = place.model(update)
    model = checkpoint.load(path, device=place.device, backend=place.backend, trusted=place.trusted)
    settings = WalkSettings.of(model, **chosen(place.settings), data=place.data)
    reference = reference_of(model, settings)
    if (place.folder(update) / longrun.folder.FACTS).is_file():
        folder = longrun.LongRun.open(place.folder(update))
        folder.lock()
        chains = Walk(model, settings, reference, step_size=folder.facts["step_size"])
        folder.restore(chains)
    else:
        chains = Walk(model, settings, reference)
        folder = longrun.begin(place.folder(update), str(path.resolve()), chains, data_path=place.data, judged=True)
    for _ in longrun.follow(chains, folder, stop):
        pass
    if chains.seen[-1].step < settings.steps:
        return None
    return longrun.finish(chains, folder, baseline(model, reference, settings))


def _without_verdict(update: int, error: str, seconds: float = 0.0) -> Line:
    return Line(
        update=update,
        steps=0,
        verdict=None,
        gap=None,
        gap_error=None,
        drift=None,
        drift_error=None,
        seconds=round(seconds, 1),
        error=error,
    )


def _number(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"


def in_words(line: Line) -> str:
    """One sentence on a finished long run."""
    what = f"long run of update {line['update']:,}"
    if line["error"]:
        return f"{what}: no verdict, {line['error']}"
    return f"{what}: {line['verdict']}, gap {numbers(line)[0]} sd after {line['steps']:,} steps"


def numbers(line: Line) -> tuple[str, str]:
    """Gap and drift with their errors, for a table."""
    pairs = ((line["gap"], line["gap_error"]), (line["drift"], line["drift_error"]))
    gap, drift = ("-" if v is None else f"{v:+.2f} ± {math.nan if e is None else e:.2f}" for v, e in pairs)
    return gap, drift


def run_beside(device: torch.device | str, threads: int) -> bool:
    """Whether long runs get a process of their own: where the training computes on the CPU and leaves a core free.

    Args:
        device: of the training; two processes would share the memory of a GPU, which may not be enough for both.
        threads: of the training.
    """
    return torch.device(device).type == "cpu" and (os.cpu_count() or 1) > threads


class LongRuns:
    """All long runs of a training: begun by it, finished beside it or in line.

    Args:
        place: what they need.
        beside: whether each runs in a process of its own, one at a time and on one thread; otherwise `finished` runs
            them itself.
        stop: asked again and again; True saves what there is of one in line, and begins no other.
    """

    def __init__(self, place: Place, beside: bool, stop: Callable[[], bool] = lambda: False) -> None:
        self.place = place
        self.beside = beside
        self.stop = stop
        self.waiting = deque(_unfinished(place.run))
        """updates whose weights are kept and whose long run has not been begun in this process, in order"""
        self._process: BaseProcess | None = None
        self._answer: Connection | None = None
        self._update = 0

    @property
    def unfinished(self) -> list[int]:
        """Updates whose long run waits or is at work."""
        return [*([self._update] if self._process is not None else []), *self.waiting]

    def due(self, update: int) -> bool:
        """Whether the recipe wants a long run of this update."""
        return self.place.settings.every > 0 and update % self.place.settings.every == 0

    def begin(self, update: int, write_model: Callable[[Path], object]) -> None:
        """Keep the weights of this update, by `write_model(path)`; `finished` runs their long run."""
        path = self.place.model(update)
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_model(path)
        if update not in self.unfinished:
            self.waiting.append(update)

    def finished(self, to_the_end: bool = False) -> Iterator[Line]:
        """The long runs that have ended since the last call, each written down; begins those that wait.

        Args:
            to_the_end: wait until none is left; otherwise only one in line takes time.
        """
        while True:
            if self._process is not None:
                line = self._collect(to_the_end)
                if self._process is not None:
                    return  # still at work
                if line is not None:
                    yield self._keep(line)
            if self.stop() or not self.waiting:
                return
            if locks.held(self.place.folder(self.waiting[0])):  # by a process of a training that was killed just now
                if not to_the_end:
                    return
                time.sleep(POLL)
            elif self.beside:
                self._start(self.waiting.popleft())
                if not to_the_end:
                    return
            else:
                line = walk(self.place, self.waiting[0], self.stop)
                if line is None:
                    return
                self.waiting.popleft()
                yield self._keep(line)

    def close(self) -> None:
        """End the one that is at work; its state is kept, and it goes on with the training."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(PATIENCE)
            self._process.kill()
            self._process.join()
            self._process = None
            self.waiting.appendleft(self._update)

    def _keep(self, line: Line) -> Line:
        files.append(self.place.run / RECORD, _text(line))
        return line

    def _start(self, update: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, theirs = context.Pipe(duplex=False)
        self._update = update
        self._process = context.Process(target=_beside, args=(self.place, update, theirs), daemon=True)
        # Ctrl-C in a terminal is for the training. Its process ignores it too for these few milliseconds, for what a
        # process ignores the one that it starts ignores as well, from the first moment.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()

    def _collect(self, patiently: bool) -> Line | None:
        """What the process answered, once it has ended; None while it is at work, or where it was stopped."""
        assert self._process is not None
        assert self._answer is not None
        while patiently and self._process.is_alive() and not self.stop():
            self._process.join(POLL)
        if self._process.is_alive():
            return None
        try:
            line: Line | None = self._answer.recv()
        except EOFError:  # it ended without an answer
            line = None
        code, self._process = self._process.exitcode, None
        return _without_verdict(self._update, f"its process ended with code {code}") if line is None and code else line


def _unfinished(run: Path) -> list[int]:
    """Updates whose weights are kept and whose long run is not finished, in order."""
    done = {line["update"] for line in read(run)}
    kept = (run / FOLDER).glob("[0-9]*.safetensors")
    return sorted({int(path.stem) for path in kept if path.stem.isdecimal()} - done)


def _beside(place: Place, update: int, answer: Connection) -> None:
    """The process of one long run; it ends with the training, and its state is kept."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    if hasattr(signal, "SIGHUP"):  # the terminal was closed: that is for the training to hear
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    line = walk(place, update, lambda: bool(asked) or (parent is not None and not parent.is_alive()))
    if line is not None:
        answer.send(line)

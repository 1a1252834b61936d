"""`ebm sweep`: one recipe at many settings, each an ordinary run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NamedTuple

import typer

import ebmcli
from ebmcli.cli import _frame as frame
from ebmcli.cli import _options as options
from ebmcli.cli._output import Bar, Output
from ebmcli.errors import EBMError, Exit

if TYPE_CHECKING:
    from ebmcli.training.sweep import Cell, Outcome

POLL = 0.2
"""Seconds between two looks at the runs under way."""
_PLACE = str(Path(ebmcli.__file__).resolve().parents[1])
_LEARNER = "import sys; sys.path.append(sys.argv.pop(1)); from ebmcli.cli._attended import main; main()"
"""A learner's program. `python -m ebmcli` would put the present folder first on the path, and a file in it could then
stand in for a module of Python's; -P puts none there, and this package's own place comes last."""


def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or path.")],
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=A,B,C",
            help="Values that a setting takes, e.g. mcmc.step_size=0.005,0.01,0.02. Repeatable: all combinations.",
        ),
    ],
    set_: options.Set = None,
    data: options.Data = None,
    out: options.Out = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, help="Runs at once, one thread each.", show_default="all cores"),
    ] = None,
    trust_code: options.TrustCode = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a recipe at all combinations of some settings, and draw what r came to (Fig. 5).

    Each cell is a run in a folder of its own under --out (sweeps/RECIPE if left out). The same
    command again goes on where it was, however it ended: cells that are done stay, those begun are resumed.
    """
    output = Output(json=json, quiet=quiet)

    from ebmcli.training import sweep as grids

    axes = grids.axes_of(over)
    folder = out or Path("sweeps") / Path(recipe).stem
    cells = grids.cells(folder, recipe, axes, set_ or ())
    if dry_run:
        output.table([(c.folder.name, *c.values) for c in cells], ("run", *(a.key for a in axes)))
        output.result([{"run": c.folder, **dict(zip((a.key for a in axes), c.values, strict=True))} for c in cells])
        return
    grids.check_consent(_waiting(cells), recipe, trust_code)
    lock = grids.begin(folder, recipe, axes, set_ or (), data)
    waiting = _waiting(cells)
    output.say(f"{folder}: {len(cells)} runs, {len(cells) - len(waiting)} of them done before")
    count = jobs or os.cpu_count() or 1
    with output.progress("runs", len(cells), unit="runs", start=len(cells) - len(waiting), every=60.0) as bar:
        _run_all(waiting, recipe, data, trust_code, count, bar, output)
    from ebmcli.media import plots

    outcomes = [grids.outcome(c) for c in cells]
    with grids.draw(axes, outcomes) as drawn:
        figure = plots.save(drawn, folder / "sweep.png", {"recipe": recipe, "over": over})
        plots.save(drawn, folder / "sweep.svg")
    output.table(
        [(*o.values, o.state, *_numbers(o)) for o in outcomes],
        (*(a.key.partition(".")[2] for a in axes), "state", "r", "r·L/R", "r/(ε√D)", "straightness", "d"),
    )
    if lock is not None:
        lock.close()
    output.say(f"{folder}: {figure}")
    output.result({"out": folder, "figure": figure, "cells": [o._asdict() for o in outcomes]})


def _waiting(cells: list[Cell]) -> list[Cell]:
    """The cells that are to be learned, from the start or further."""
    from ebmcli.training import sweep as grids

    return [c for c in cells if grids.state_of(c.folder)[0] in ("not begun", "begun")]


def _numbers(o: Outcome) -> tuple[str, ...]:
    ratio = o.displacement * o.steps / o.burn_in_distance if o.burn_in_distance else float("nan")
    noise = o.displacement / o.noise_step if o.noise_step else float("nan")
    return tuple(f"{v:.3g}" for v in (o.displacement, ratio, noise, o.straightness, o.energy_difference))


class Learner(NamedTuple):
    """A cell that is being learned, in a process of its own that ends when this one does."""

    cell: Cell
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    """all of its stderr; a file, since nobody reads along, and a full pipe would hold it up"""

    def told(self) -> dict[str, str]:
        """What it said last, by the word before the colon: `error`, `hint`."""
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").splitlines()
        return dict(line.partition(": ")[::2] for line in lines if ": " in line)


def _run_all(
    waiting: list[Cell], recipe: str, data: str | None, trusted: bool, count: int, bar: Bar, output: Output
) -> None:
    """Run the cells, `count` at once; a signal that ends this process lets each save its checkpoint."""
    running: list[Learner] = []
    queue, waits = list(waiting), set[Path]()
    with frame.asked_to_stop(force=False) as asked:
        try:
            while (queue or running) and not asked:
                for cell in itertools.islice(_startable(queue, waits, output), count - len(running)):
                    running.append(_start(cell, recipe, data, trusted))
                for learner in [one for one in running if one.process.poll() is not None]:
                    running.remove(learner)
                    _ended(learner, output)
                    bar.update(run=learner.cell.folder.name)
                time.sleep(POLL)
        finally:
            _stop(running, asked)
    if asked:
        raise EBMError(
            "interrupted: each run under way has saved a checkpoint",
            "the same command goes on",
            code=Exit.INTERRUPTED,
        )


def _startable(queue: list[Cell], waits: set[Path], output: Output) -> Iterator[Cell]:
    """Take cells out of the queue, but for those that other processes learn; that is said once of each."""
    from ebmcli.storage.locks import held

    for cell in list(queue):
        if not held(cell.folder):
            queue.remove(cell)
            yield cell
        elif cell.folder not in waits:  # such as the learner of a sweep that was killed, until it has saved
            waits.add(cell.folder)
            output.say(f"{cell.folder.name}: another process is at work in it; it waits for that to end")


def _ended(learner: Learner, output: Output) -> None:
    """Note what a learner that has ended came to.

    Raises:
        EBMError: it failed.
    """
    name, told = learner.cell.folder.name, learner.told()
    if learner.process.returncode == Exit.DIVERGED:
        _note_divergence(learner.cell)
        output.warn(f"{name} diverged: {told.get('error', 'it does not say where')}")
    elif learner.process.returncode:
        code = learner.process.returncode
        raise EBMError(
            f"{name} failed: {told.get('error', f'its process ended with {code}')}",
            f"{told.get('hint', 'run it alone to see why: ebm train')}; the same command goes on",
        )


def _stop(running: list[Learner], asked: list[int]) -> None:
    """Let all learners save and end; each further signal that this process gets is passed on to them."""
    passed_on = 0
    for learner in running:
        learner.process.terminate()
    while any(learner.process.poll() is None for learner in running):
        if len(asked) > max(passed_on, 1):
            passed_on = len(asked)
            for learner in running:
                learner.process.terminate()
        time.sleep(POLL / 4)


def _start(cell: Cell, recipe: str, data: str | None, trusted: bool) -> Learner:
    if (cell.folder / "run.json").is_file():
        words = ["--resume", str(cell.folder)]
    else:
        words = [recipe, "--out", str(cell.folder)]
        words += [word for override in cell.overrides for word in ("--set", override)]
    words += ["--data", data] if data else []
    words += ["--trust-code"] if trusted else []
    command = [
        sys.executable,
        "-P",
        "-c",
        _LEARNER,
        _PLACE,
        "train",
        *words,
        "--no-longrun",
        "--threads",
        "1",
        "--quiet",
    ]
    said = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
    # In a session of its own: Ctrl-C in a terminal is for this process, which passes it on once.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
    )
    return Learner(cell, process, said)


def _note_divergence(cell: Cell) -> None:
    """So that the sweep, begun again, does not try it again."""
    from ebmcli.training.run_folder import Run

    run = Run.open(cell.folder)
    run.write_facts(run.facts | {"ended": "diverged"})

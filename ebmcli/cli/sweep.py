"""`ebm sweep`: one recipe at many settings, each an ordinary run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli.cli import options
from ebmcli.cli.output import Bar, Output
from ebmcli.errors import EBMError, Exit

if TYPE_CHECKING:
    from ebmcli.sweep import Cell, Outcome

POLL = 0.2
"""Seconds between two looks at the runs under way."""


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
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a recipe at all combinations of some settings, and draw what r came to (Fig. 5).

    Each cell is a run in a folder of its own under --out (sweeps/RECIPE if left out). The same
    command again goes on where it was: cells that are done stay, those begun are resumed.
    """
    output = Output(json=json, quiet=quiet)

    from ebmcli import sweep as grids

    axes = grids.axes_of(over)
    folder = out or Path("sweeps") / Path(recipe).stem
    cells = grids.cells(folder, recipe, axes, set_ or ())
    if dry_run:
        output.table([(c.folder.name, *c.values) for c in cells], ("run", *(a.key for a in axes)))
        output.result([{"run": c.folder, **dict(zip((a.key for a in axes), c.values, strict=True))} for c in cells])
        return
    grids.begin(folder, recipe, axes, set_ or (), data)
    waiting = [c for c in cells if grids.state_of(c.folder)[0] in ("not begun", "begun")]
    output.say(f"{folder}: {len(cells)} runs, {len(cells) - len(waiting)} of them done before")
    count = jobs or os.cpu_count() or 1
    with output.progress("runs", len(cells), unit="runs", start=len(cells) - len(waiting), every=60.0) as bar:
        _run_all(waiting, recipe, data, count, bar, output)
    from ebmcli.media import plots

    outcomes = [grids.outcome(c) for c in cells]
    with grids.draw(axes, outcomes) as drawn:
        figure = plots.save(drawn, folder / "sweep.png", {"recipe": recipe, "over": over})
        plots.save(drawn, folder / "sweep.svg")
    output.table(
        [(*o.values, o.state, *_numbers(o)) for o in outcomes],
        (*(a.key.partition(".")[2] for a in axes), "state", "r", "r·L/R", "r/(ε√D)", "straightness", "d"),
    )
    output.say(f"{folder}: {figure}")
    output.result({"out": folder, "figure": figure, "cells": [o._asdict() for o in outcomes]})


def _numbers(o: Outcome) -> tuple[str, ...]:
    ratio = o.displacement * o.steps / o.burn_in_distance if o.burn_in_distance else float("nan")
    noise = o.displacement / o.noise_step if o.noise_step else float("nan")
    return tuple(f"{v:.3g}" for v in (o.displacement, ratio, noise, o.straightness, o.energy_difference))


def _run_all(waiting: list[Cell], recipe: str, data: str | None, count: int, bar: Bar, output: Output) -> None:
    """Run the cells, `count` at once; Ctrl-C lets each save its checkpoint."""
    running: dict[subprocess.Popen[str], Cell] = {}
    queue = list(waiting)
    try:
        while queue or running:
            while queue and len(running) < count:
                cell = queue.pop(0)
                running[_start(cell, recipe, data)] = cell
            for process in [p for p in running if p.poll() is not None]:
                cell = running.pop(process)
                _, said = process.communicate()
                if process.returncode == Exit.DIVERGED:
                    _note_divergence(cell)
                    output.warn(f"{cell.folder.name} diverged: {said.strip().splitlines()[-2]}")
                elif process.returncode:
                    lines = dict(line.partition(": ")[::2] for line in said.splitlines() if ": " in line)
                    hint = lines.get("hint", "run it alone to see why: ebm train")
                    raise EBMError(
                        f"{cell.folder.name} failed: {lines.get('error', said.strip()[-200:])}",
                        f"{hint}; the same command goes on",
                    )
                bar.update(run=cell.folder.name)
            time.sleep(POLL)
    except KeyboardInterrupt:
        raise EBMError(
            "interrupted: each run under way has saved a checkpoint",
            "the same command goes on",
            code=Exit.INTERRUPTED,
        ) from None
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _start(cell: Cell, recipe: str, data: str | None) -> subprocess.Popen[str]:
    if (cell.folder / "run.json").is_file():
        words = ["--resume", str(cell.folder)]
    else:
        words = [recipe, "--out", str(cell.folder)]
        words += [word for override in cell.overrides for word in ("--set", override)]
    words += ["--data", data] if data else []
    command = [sys.executable, "-m", "ebmcli", "train", *words, "--threads", "1", "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _note_divergence(cell: Cell) -> None:
    """So that the sweep, begun again, does not try it again."""
    from ebmcli.run import Run

    run = Run.open(cell.folder)
    run.write_facts(run.facts | {"ended": "diverged"})

"""`ebm runs`: which runs there are, how far each is, and their curves in one picture."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 2000
"""Points of a curve at most."""


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Runs, or folders with runs in them.", show_default="runs"),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            "--curves", metavar="FIGURE", help="Draw d, v, r of all of them (.png or .svg).", show_default=False
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List runs: state, updates, newest numbers and newest grid of samples."""
    output = Output(json=json, quiet=quiet)
    from ebmcli.training.run_folder import Run

    places = folders or [Path("runs")]
    found = sorted(
        {p.parent for place in places for p in [place / "run.json", *place.glob("*/run.json")] if p.is_file()}
    )
    if not found:
        raise EBMError(f"no runs in {', '.join(map(str, places))}", "ebm train RECIPE begins one")
    rows = [_facts(Run.open(folder)) for folder in found]
    if curves is not None:
        from ebmcli.media import plots

        with _draw([Run.open(folder) for folder in found]) as figure:
            plots.save(figure, curves, {"runs": [f.name for f in found]})
        output.say(f"{curves}: {len(found)} runs")
    output.table(
        [
            (
                r["run"],
                r["recipe"],
                r["state"],
                f"{r['updates']:,} of {r['of']:,}",
                *("-" if r[k] is None else f"{r[k]:.3g}" for k in ("energy_difference", "displacement")),
                f"{r['hours']:.1f} h",
                r["picture"] or "-",
            )
            for r in rows
        ],
        ("run", "recipe", "state", "updates", "d", "r", "time", "newest grid"),
    )
    output.result(rows)


def _facts(run: Any) -> dict[str, Any]:
    from ebmcli.recipe import load
    from ebmcli.training.run_folder import hours

    recipe = load(run.recipe_path)
    records = list(run.metrics())
    newest = records[-1] if records else {}
    updates, total = newest.get("update", 0), recipe.train.updates
    pictures = sorted((run.folder / "samples").glob("*.png"))
    state = "done" if updates >= total else "going" if run.locked() else "stopped"
    if state == "stopped" and run.facts.get("ended"):
        state = run.facts["ended"]
    return {
        "run": run.folder,
        "recipe": recipe.recipe.name,
        "state": state,
        "updates": updates,
        "of": total,
        "energy_difference": newest.get("energy_difference"),
        "displacement": newest.get("displacement"),
        "rollbacks": sum(bool(r.get("rolled_back")) for r in records),
        "hours": hours(records),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.metrics_path.stat().st_mtime))
        if records
        else None,
        "picture": pictures[-1] if pictures else None,
    }


@contextmanager
def _draw(all_runs: list[Any]) -> Iterator[Figure]:
    from ebmcli.media import plots

    panels = (("energy_difference", "d", "symlog"), ("gradient_magnitude", "v", "log"), ("displacement", "r", "log"))
    with plots.figure(12.0, 3.8, columns=3) as (fig, axes):
        for axis, (key, title, scale) in zip(axes, panels, strict=True):
            for number, run in enumerate(all_runs):
                records = list(run.metrics())
                thin = records[:: max(1, len(records) // SHOWN)]
                colour = plots.COLOURS[number % len(plots.COLOURS)]
                axis.plot(
                    [r["update"] for r in thin],
                    [r.get(key, math.nan) for r in thin],
                    color=colour,
                    linewidth=0.9,
                    linestyle=("-", "--", ":")[number // len(plots.COLOURS) % 3],
                    label=run.folder.name,
                )
            axis.set_yscale(scale)
            axis.set_title(title)
            axis.set_xlabel("update")
        axes[0].legend(loc="best")
        yield fig

"""`ebm diagnose`: what a run has learned so far, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.models.checkpoint import Checkpoint
    from ebmcli.training.longruns import Line

Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|MODEL",
        envvar="EBM_MODEL",
        help="A run, which may still be going, or a model. Left out: the bundled default.",
        show_default=False,
    ),
]
Last = Annotated[
    int, typer.Option("--last", metavar="N", min=50, help="How many of the newest records correlations are taken over.")
]
Lags = Annotated[
    int, typer.Option("--lags", metavar="N", min=6, max=200, help="Largest lag of the correlations, in records.")
]


class Findings(NamedTuple):
    """What there is to draw of a run or model."""

    file: Path
    model: Checkpoint
    records: list[dict[str, Any]]
    """of learning; empty where none were kept"""
    long_runs: list[Line]
    """that the training ran; empty where it ran none"""


def diagnose(
    model: Subject = None,
    last: Last = 1000,
    lags: Lags = 15,
    out: options.Out = None,
    trust_code: options.TrustCode = False,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how learning swings (Fig. 4), a toy's density (Fig. 6), and when an energy became a density.

    Draws NAME-learning.png. Of a run with long runs it also draws NAME-longruns.png, their gap to the data's energy
    over the updates; of a toy NAME-density.png, the energy against the truth by quadrature. With --out FIGURE.png or
    FIGURE.svg the first figure has that name, and the others are FIGURE-learning and FIGURE-longruns.
    """
    output = Output(json=json, quiet=quiet)
    if out is not None and out.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--out {out} is no name of a figure", "figures end in .png or .svg")

    from ebmcli.data.toys import TOYS
    from ebmcli.models import lookup

    cores.use(threads)
    name = model or lookup.default()
    found = _look(name, trust_code)
    is_toy = found.model.config.data in TOYS
    if not found.records and not found.long_runs and not is_toy:
        raise EBMError(
            f"{name} keeps no record of how it was learned", "diagnose a run, or a model exported with its metrics"
        )
    stem = Path(name).resolve().name if Path(name).exists() else Path(name).name
    result: dict[str, Any] = {"model": name, "updates": found.model.config.updates, "figures": []}
    figures: list[Path] = result["figures"]

    def target(kind: str) -> Path:
        if out is None:
            return Path(f"{stem}-{kind}.png")
        return out.with_name(f"{out.stem}-{kind}{out.suffix}") if figures else out

    if is_toy:
        figures.append(_density(found, target("density"), result, output))
    if found.records:
        try:
            figures.append(_learning(found, last, lags, target("learning"), result, output))
        except EBMError as error:
            if not is_toy and not found.long_runs:
                raise
            output.warn(f"no picture of learning: {error.message}")
    if found.long_runs:
        figures.append(_long_runs(found, target("longruns"), result, output))
    output.result(result)


def _look(name: str, trusted: bool) -> Findings:
    from ebmcli.models import lookup
    from ebmcli.training import diagnosis, longruns

    file = lookup.look_up(name, trusted).path
    run = diagnosis.run_of(file)
    lines = [] if run is None else longruns.read(run)
    return Findings(file, lookup.load(name, trusted=trusted), diagnosis.records_of(file), lines)


def _about(model: Checkpoint, figure: str) -> dict[str, Any]:
    """What is written into a figure's file."""
    config = model.config
    return {"model": config.name, "model_sha256": model.digest, "updates": config.updates, "figure": figure}


def _density(found: Findings, target: Path, result: dict[str, Any], output: Output) -> Path:
    from ebmcli.media import plots
    from ebmcli.training import diagnosis
    from ebmcli.training.run_folder import bank_of

    model = found.model
    toy, x = diagnosis.of_toy(model, bank_of(found.file, model))
    words = diagnosis.toy_in_words(toy)
    with diagnosis.draw_toy(model, toy, x) as figure:
        plots.save(figure, target, _about(model, "density"))
    p, s = toy.density, toy.smoothed
    output.table(
        [
            ("KL(true‖model)", f"{p.kl_true_model:.4g}" + ("" if p.normalisable else " in the box")),
            ("KL(model‖true)", f"{p.kl_model_true:.4g}" + ("" if p.normalisable else " in the box")),
            ("total variation", f"{p.total_variation:.4g}"),
            ("log Z", f"{p.log_z:.6g} (last halving of the cells: {p.change:.1g})"),
            ("normalisable", "yes" if p.normalisable else "no"),
            ("lowest outward slope", f"{p.lowest_slope:.4g}"),
            ("mass outside the box", f"{p.outside:.3g} beyond ±{p.box:g}" if p.normalisable else "-"),
            (f"{toy.samples}, smoothed", f"total variation {s.total_variation:.4f}, floor {s.floor:.4f}"),
        ]
    )
    output.say(f"{words} {target}")
    result["density"] = {**p._asdict(), "words": words}
    result["samples"] = {**s._asdict(), "from": toy.samples}
    return target


def _learning(found: Findings, last: int, lags: int, target: Path, result: dict[str, Any], output: Output) -> Path:
    from ebmcli.media import plots
    from ebmcli.training import diagnosis
    from ebmcli.training.oscillation import in_words, oscillation

    model, records = found.model, found.records
    swing = oscillation(records[-last:], lags)
    words = in_words(swing)
    pattern = diagnosis.sign_pattern(swing)
    newest = records[-1]
    noise = model.config.noise * model.config.step_size
    with diagnosis.draw_learning(model.config, records, swing, words) as figure:
        plots.save(figure, target, _about(model, "learning"))
    output.table(
        [
            ("oscillation", swing.strength),
            ("expansion", f"{swing.expansion:.1%} of {swing.records:,} records"),
            ("d", f"{swing.d_mean:.4g} ± {swing.d_sd:.3g}"),
            ("v", f"{swing.v_mean:.4g}, log v changes by {swing.v_change:+.2f}"),
            ("r", f"{newest['displacement']:.4g} px a step, noise ε {noise:g}"),
            ("r·L", f"{newest['displacement'] * model.config.steps:.4g}, R {newest['burn_in_distance']:.4g}"),
            ("straightness", f"{newest['straightness']:.3f}"),
            ("cross-correlation", pattern),
        ]
    )
    output.say(f"{words} {target}")
    result["learning"] = {**swing._asdict(), "words": words, "pattern": pattern}
    return target


def _long_runs(found: Findings, target: Path, result: dict[str, Any], output: Output) -> Path:
    from ebmcli.media import plots
    from ebmcli.training import diagnosis, longruns

    lines = found.long_runs
    with diagnosis.draw_long_runs(found.model.config, lines) as figure:
        plots.save(figure, target, _about(found.model, "longruns"))
    columns = ("update", "gap", "drift", "steps", "verdict")
    rows = [
        (f"{line['update']:,}", *longruns.numbers(line), f"{line['steps']:,}", line["verdict"] or line["error"])
        for line in lines
    ]
    output.table(rows, columns)
    output.say(f"{len(lines)} long runs, gap and drift in standard deviations of the data's energy. {target}")
    result["long_runs"] = lines
    return target

"""`ebm diagnose`: what a run has learned so far, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.models.checkpoint import Checkpoint


def diagnose(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|MODEL",
            envvar="EBM_MODEL",
            help="A run, also one that is still going, or a model. Left out: the bundled default.",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=50, help="Newest records that correlations are taken over.")
    ] = 1000,
    lags: Annotated[int, typer.Option("--lags", metavar="N", min=6, max=200, help="Lags, in records.")] = 15,
    out: options.Out = None,
    trust_code: options.TrustCode = False,
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how learning swings between expansion and contraction (Fig. 4), and a toy's density (Fig. 6).

    Draws NAME-learning.png; of a toy also NAME-density.png, the energy against the truth by
    quadrature. With --out FIGURE.png or FIGURE.svg, that name (a toy's second figure is FIGURE-learning).
    """
    output = Output(json=json, quiet=quiet)
    if out is not None and out.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--out {out} is no name of a figure", "figures end in .png or .svg")

    from ebmcli.data.toys import TOYS
    from ebmcli.models import lookup
    from ebmcli.training import diagnosis

    cores.use(threads)
    name = model or lookup.default()
    file = lookup.look_up(name, trust_code).path
    loaded = lookup.load(name, trusted=trust_code)
    records = diagnosis.records_of(file)
    stem = Path(name).resolve().name if Path(name).exists() else Path(name).name
    is_toy = loaded.config.data in TOYS
    if not records and not is_toy:
        raise EBMError(
            f"{name} keeps no record of how it was learned", "diagnose a run, or a model exported with its metrics"
        )
    result: dict[str, Any] = {"model": name, "updates": loaded.config.updates, "figures": []}
    info = {"model": loaded.config.name, "model_sha256": loaded.digest, "updates": loaded.config.updates}
    if is_toy:
        target = out or Path(f"{stem}-density.png")
        _toy(loaded, file, target, info, result, output)
    if records:
        target = out or Path(f"{stem}-learning.png")
        if out is not None and is_toy:
            target = out.with_name(f"{out.stem}-learning{out.suffix}")
        try:
            _learning(loaded, records, last, lags, target, info, result, output)
        except EBMError as error:
            if not is_toy:
                raise
            output.warn(f"no picture of learning: {error.message}")
    output.result(result)


def _toy(
    model: Checkpoint, file: Path, target: Path, info: dict[str, Any], result: dict[str, Any], output: Output
) -> None:
    from ebmcli.media import plots
    from ebmcli.training import diagnosis
    from ebmcli.training.run_folder import bank_of

    found, x = diagnosis.of_toy(model, bank_of(file, model))
    words = diagnosis.toy_in_words(found)
    with diagnosis.draw_toy(model, found, x) as figure:
        plots.save(figure, target, info | {"figure": "density"})
    p, s = found.density, found.smoothed
    output.table(
        [
            ("KL(true‖model)", f"{p.kl_true_model:.4g}" + ("" if p.normalisable else " in the box")),
            ("KL(model‖true)", f"{p.kl_model_true:.4g}" + ("" if p.normalisable else " in the box")),
            ("total variation", f"{p.total_variation:.4g}"),
            ("log Z", f"{p.log_z:.6g} (last halving of the cells: {p.change:.1g})"),
            ("normalisable", "yes" if p.normalisable else "no"),
            ("lowest outward slope", f"{p.lowest_slope:.4g}"),
            ("mass outside the box", f"{p.outside:.3g} beyond ±{p.box:g}" if p.normalisable else "-"),
            (f"{found.samples}, smoothed", f"total variation {s.total_variation:.4f}, floor {s.floor:.4f}"),
        ]
    )
    output.say(f"{words} {target}")
    result["density"] = {**p._asdict(), "words": words}
    result["samples"] = {**s._asdict(), "from": found.samples}
    result["figures"].append(target)


def _learning(
    model: Checkpoint,
    records: list[dict[str, Any]],
    last: int,
    lags: int,
    target: Path,
    info: dict[str, Any],
    result: dict[str, Any],
    output: Output,
) -> None:
    from ebmcli.media import plots
    from ebmcli.training import diagnosis
    from ebmcli.training.oscillation import in_words, oscillation

    found = oscillation(records[-last:], lags)
    words = in_words(found)
    pattern = diagnosis.sign_pattern(found)
    newest = records[-1]
    noise = model.config.noise * model.config.step_size
    with diagnosis.draw_learning(model.config, records, found, words) as figure:
        plots.save(figure, target, info | {"figure": "learning"})
    output.table(
        [
            ("oscillation", found.strength),
            ("expansion", f"{found.expansion:.1%} of {found.records:,} records"),
            ("d", f"{found.d_mean:.4g} ± {found.d_sd:.3g}"),
            ("v", f"{found.v_mean:.4g}, log v changes by {found.v_change:+.2f}"),
            ("r", f"{newest['displacement']:.4g} px a step, noise ε {noise:g}"),
            ("r·L", f"{newest['displacement'] * model.config.steps:.4g}, R {newest['burn_in_distance']:.4g}"),
            ("straightness", f"{newest['straightness']:.3f}"),
            ("cross-correlation", pattern),
        ]
    )
    output.say(f"{words} {target}")
    result["learning"] = {**found._asdict(), "words": words, "pattern": pattern}
    result["figures"].append(target)

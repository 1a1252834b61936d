"""`ebm longrun`: chains long enough to judge an energy by, in a folder that survives any end."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _frame as frame
from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, Exit, UsageError
from ebmcli.native import cores
from ebmcli.storage.paths import full_path

if TYPE_CHECKING:
    from ebmcli.evaluation import Baseline, Outcome, Reference, Walk, WalkSettings
    from ebmcli.longrun import LongRun

SPARKLINE_WIDTH = 16
"""Characters of the energy's curve beside the bar."""

FIELDS = {
    "--from": "start",
    "--against": "against",
    "--steps": "steps",
    "--chains": "chains",
    "--kernel": "kernel",
    "--adjust": "adjust",
    "--step-size": "step_size",
    "--warmup": "warmup",
    "--leapfrog": "n_leapfrog",
    "--persistence": "persistence",
    "--temperature": "temperature",
    "--moments": "moments",
    "--spacing": "spacing",
    "--compared": "compared",
    "--seed": "seed",
    "--data": "data",
    "--features": "",
    "--energy-scale": "",
    "--out": "",
}
"""Every option that decides what a long run comes to, or where, and its field of `WalkSettings` where it has one.

A long run that goes on keeps them all.
"""


class KernelName(StrEnum):
    """What moves the chains."""

    langevin = "langevin"
    mala = "mala"
    hmc = "hmc"
    underdamped = "underdamped"


class Adjust(StrEnum):
    """Whether each step has to pass a Metropolis–Hastings test."""

    none = "none"
    mh = "mh"


class Spacing(StrEnum):
    """How the moments lie over the steps."""

    log = "log"
    linear = "linear"


START_HELP = "Where the chains start: data, noise, bank, or a path to images."
AGAINST_HELP = "Where a second group of chains starts, which has to meet the first: noise, bank or none."
ADJUST_HELP = "mh tests each step (with langevin, this is mala); none accepts every step."
STEP_SIZE_HELP = "Step size ε, in pixel units. A warm-up starts from it."
WARMUP_HELP = "Steps before the first, in which ε is adapted to an acceptance of 0.6."
PERSISTENCE_HELP = "Share of the momentum that is kept between refreshes, of hmc and underdamped."
FEATURES_HELP = (
    "Another feature network for the Fréchet distance: a safetensors file, or code as package.module:factory."
)
VERDICT_HELP = "Exit with 0 if the steady state matches the data, and with 1 if it does not."
RESUME_HELP = "Go on with the long run in this folder, bit for bit."

From = Annotated[
    str | None, typer.Option("--from", metavar="START", help=START_HELP, show_default="the recipe's, or data")
]
Against = Annotated[
    str | None,
    typer.Option("--against", metavar="START", help=AGAINST_HELP, show_default="with --from data, bank or noise"),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Steps of each chain.", show_default="the recipe's, or 100000"),
]
Chains = Annotated[
    int | None,
    typer.Option(
        "--chains", "-n", metavar="N", min=4, help="Chains of the first group.", show_default="64; 500 of a toy"
    ),
]
Kernel = Annotated[
    KernelName | None, typer.Option("--kernel", help="What moves the chains.", show_default="the recipe's, or langevin")
]
AdjustChoice = Annotated[Adjust | None, typer.Option("--adjust", help=ADJUST_HELP, show_default="the kernel's own")]
StepSize = Annotated[
    float | None,
    typer.Option(
        "--step-size", metavar="E", min=1e-12, help=STEP_SIZE_HELP, show_default="the recipe's, or the model's own"
    ),
]
Warmup = Annotated[
    int | None,
    typer.Option(
        "--warmup", metavar="N", min=0, help=WARMUP_HELP, show_default="400 with a test and without --step-size"
    ),
]
Leapfrog = Annotated[
    int | None,
    typer.Option("--leapfrog", metavar="N", min=1, help="Leapfrog steps of hmc and underdamped.", show_default="10"),
]
Persistence = Annotated[
    float | None,
    typer.Option(
        "--persistence", metavar="A", min=0.0, max=0.999, help=PERSISTENCE_HELP, show_default="the kernel's own"
    ),
]
Moments = Annotated[
    int | None,
    typer.Option(
        "--moments", metavar="N", min=2, help="How often images are kept and compared with the data.", show_default="40"
    ),
]
SpacingChoice = Annotated[
    Spacing | None, typer.Option("--spacing", help="How the moments lie over the steps.", show_default="log")
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", min=0, max=2**63 - 1, help="The same seed gives the same chains.", show_default="0"
    ),
]
Compared = Annotated[
    int | None,
    typer.Option(
        "--compared", metavar="N", min=20, help="Images of the data that chains are compared with.", show_default="2000"
    ),
]
Features = Annotated[
    str | None, typer.Option("--features", metavar="PATH|CODE", help=FEATURES_HELP, show_default=False)
]
Verdict = Annotated[bool, typer.Option("--verdict", help=VERDICT_HELP)]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="FOLDER", help=RESUME_HELP, show_default=False)]


def longrun(
    model: options.Model = None,
    from_: From = None,
    against: Against = None,
    steps: Steps = None,
    chains: Chains = None,
    kernel: Kernel = None,
    adjust: AdjustChoice = None,
    step_size: StepSize = None,
    warmup: Warmup = None,
    leapfrog: Leapfrog = None,
    persistence: Persistence = None,
    temperature: options.Temperature = None,
    moments: Moments = None,
    spacing: SpacingChoice = None,
    seed: Seed = None,
    data: options.Data = None,
    compared: Compared = None,
    features: Features = None,
    verdict: Verdict = False,
    resume: Resume = None,
    out: options.Out = None,
    energy_scale: options.EnergyScale = None,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run chains long enough to judge an energy by, and judge it.

    Writes a folder (runs/longrun-MODEL unless --out says otherwise) with metrics, images on the way, a picture,
    report.html and result.json. Ctrl-C keeps what there is. A long run that ended in any way goes on with --resume.
    """
    output = Output(json=json, quiet=quiet, verbose=verbose)
    values: list[Any] = [from_, against, steps, chains, kernel, adjust, step_size, warmup, leapfrog, persistence]
    values += [temperature, moments, spacing, compared, seed, data, features, energy_scale, out]
    given = {option: value for option, value in zip(FIELDS, values, strict=True) if value is not None}
    how = {"backend": backend, "trusted": trust_code, "device": device}
    if resume is not None:
        _refuse(given)
        walk, run, base = _reopen(resume, model, how, threads, output)
    else:
        walk, run, base = _begin(model, given, how, threads, output)
    go_on = frame.command_to_go_on("ebm longrun --resume", run.folder, walk.model.config.network)
    _follow(walk, run, go_on, output)
    found = _finish(walk, run, base, output)
    last, total = walk.seen[-1].step, walk.settings.steps
    if last < total:
        raise frame.interrupted(f"step {last:,} of {total:,} is saved", go_on)
    if verdict and (found is None or not found.judgement.matches):
        raise typer.Exit(Exit.FAILED)


def _refuse(given: dict[str, Any]) -> None:
    """Let no option change a long run that goes on."""
    for option in given:
        raise UsageError(
            f"{option} is for a new long run, not for --resume", "a long run keeps its settings: leave it out"
        )


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `WalkSettings` that were chosen, with kernel and test as one choice.

    Raises:
        UsageError: some of them exclude each other.
    """
    chosen = {FIELDS[option]: value for option, value in given.items() if FIELDS[option]}
    kernel, adjust = chosen.get("kernel"), chosen.pop("adjust", None)
    has_momentum = kernel in (KernelName.hmc, KernelName.underdamped)
    if not has_momentum and chosen.keys() & {"n_leapfrog", "persistence"}:
        raise UsageError("--leapfrog and --persistence are for --kernel hmc and underdamped", "add --kernel hmc")
    if adjust is not None and has_momentum:
        chosen["adjust"] = adjust is Adjust.mh
    elif adjust is Adjust.mh:
        chosen["kernel"] = KernelName.mala
    elif adjust is Adjust.none and kernel is KernelName.mala:
        raise UsageError("--kernel mala is always tested", "take --kernel langevin, or leave out --adjust")
    return {field: value.value if isinstance(value, StrEnum) else value for field, value in chosen.items()}


def _begin(
    model: str | None, given: dict[str, Any], how: dict[str, Any], threads: int | None, output: Output
) -> tuple[Walk, LongRun, Baseline | None]:
    """A new long run. Everything that can be wrong is said before there is a folder."""
    from ebmcli.data.chosen import absolute
    from ebmcli.engine import device as devices
    from ebmcli.evaluation import Walk, WalkSettings
    from ebmcli.longrun import LongRun, begin
    from ebmcli.models import lookup
    from ebmcli.storage.folders import new_folder
    from ebmcli.training.longruns import defaults

    chosen = _settings(given)
    cores.use(threads)
    name, scale = model or lookup.default(), given.get("--energy-scale")
    loaded = lookup.load(model, **{**how, "device": devices.pick(how["device"])}, energy_scale=scale)
    typed = {key: value for key, value in chosen.items() if value is not None}
    settings = WalkSettings.of(loaded, **defaults(loaded.recipe, chosen.get("kernel")) | typed)
    folder = given.get("--out") or new_folder(f"longrun-{lookup.label(name)}")
    LongRun.check_new(folder)
    features = given.get("--features")
    reference = _reference(loaded, settings, features, how["trusted"], output)
    walk = Walk(loaded, settings, reference)
    if settings.warmup:
        output.detail(f"warm-up: {settings.warmup} steps")
    more: dict[str, Any] = {"features": features, "data_path": absolute(settings.data)}
    more |= {"energy_scale": scale, "judged": reference is not None}
    return walk, begin(folder, full_path(name, lookup.bundled()) or name, walk, **more), _baseline(walk, output)


def _reopen(
    folder: Path, model: str | None, how: dict[str, Any], threads: int | None, output: Output
) -> tuple[Walk, LongRun, Baseline | None]:
    """A long run that was begun, where it was saved last."""
    from ebmcli.engine import device as devices
    from ebmcli.evaluation import Walk
    from ebmcli.longrun import LongRun
    from ebmcli.longrun.folder import circumstances
    from ebmcli.models import lookup
    from ebmcli.models.checkpoint import checksum_of

    run = LongRun.open(folder)
    facts, settings = run.facts, run.settings
    run.lock()
    cores.use(threads, facts.get("threads"))
    if facts.get("data_path"):
        settings = dataclasses.replace(settings, data=facts["data_path"])
    name, scale, trusted = model or facts["model"], facts.get("energy_scale"), how["trusted"]
    # Before the network is built, which may mean to import code: is it the model at all?
    if checksum_of(lookup.look_up(name, trusted).path, scale, trusted) != facts["model_sha256"]:
        raise EBMError(
            f"{folder} is of {facts['model_name']} at update {facts['updates']:,}, and this is another model",
            "give the same one: ebm longrun MODEL --resume FOLDER",
        )
    device = devices.pick(how["device"] if how["device"] != "auto" else facts.get("device", "auto"))
    loaded = lookup.load(name, **{**how, "device": device}, energy_scale=scale)
    reference = None
    if facts.get("judged"):
        reference = _reference(loaded, settings, facts.get("features"), trusted, output)
    walk = Walk(loaded, settings, reference, step_size=facts["step_size"])
    now = circumstances(walk)
    del now["ebmcli"]  # another version of this package makes the same bits
    for change in frame.changes(facts, now):
        output.warn(change)
    step = run.restore(walk)
    output.say(
        f"{folder}: " + (f"all {step:,} steps are done" if step == settings.steps else f"goes on after step {step:,}")
    )
    return walk, run, _baseline(walk, output)


def _reference(
    loaded: Any, settings: WalkSettings, features: str | None, trusted: bool, output: Output
) -> Reference | None:
    """The data's side; None, with a warning, where the data is not at hand and nothing was asked of it."""
    from ebmcli.evaluation import load_features, reference_of

    network = load_features(features, trusted=trusted) if features else None
    try:
        return reference_of(loaded, settings, network)
    except EBMError as error:
        if settings.start == "data" or settings.data is not None:
            raise
        output.warn(f"no verdict: {error.message}; {error.hint}")
        return None


def _baseline(walk: Walk, output: Output) -> Baseline | None:
    """The data's and the model's own energies, said in one line with the settings; None without data."""
    from ebmcli.evaluation import baseline

    if walk.reference is None:
        return None
    base, s = baseline(walk.model, walk.reference, walk.settings), walk.settings
    others = f" and {s.others} from {s.against}" if s.against else ""
    output.say(
        f"{walk.model.config.name}: {s.chains} chains from {s.start}{others}, {s.steps:,} steps of {s.kernel}, "
        f"ε {walk.kernel.step_size:.4g}, T {s.temperature:g}, seed {s.seed}, backend "
        f"{walk.model.potential.backend.name}; energy of the data {base.band[0]:.5g} to {base.band[1]:.5g}"
    )
    return base


def _follow(walk: Walk, run: LongRun, go_on: str, output: Output) -> None:
    """Go on to the last step, or until a signal asks to stop, with a bar that shows the energy's curve."""
    from ebmcli.longrun import follow
    from ebmcli.longrun.report import sparkline

    start = walk.state.step if walk.state is not None else 0
    means = [_mean(record.energy[: walk.settings.chains]) for record in walk.seen]
    with (
        frame.long_work(go_on, lambda: f"what there is stays in {run.folder}") as asked,
        output.progress("long run", walk.settings.steps, unit="steps", start=start, every=60.0) as bar,
    ):
        for record in follow(walk, run, lambda: bool(asked)):
            means.append(_mean(record.energy[: walk.settings.chains]))
            fields: dict[str, Any] = {"U": f"{sparkline(means, SPARKLINE_WIDTH)} {means[-1]:.5g}"}
            if record.acceptance is not None:
                fields["accepted"] = record.acceptance
            bar.update(done=record.step, **fields)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _finish(walk: Walk, run: LongRun, base: Baseline | None, output: Output) -> Outcome | None:
    """Write the report, and print the verdict with its reasons."""
    from ebmcli.longrun import finish

    found = finish(walk, run, base)
    if found is None:
        output.data("no verdict: there was no data to hold the chains against")
    else:
        output.data(f"{found.judgement.verdict}")
        for reason in found.judgement.reasons:
            output.say(f"  {reason}")
    last = walk.seen[-1].step
    output.say(f"{run.folder}: {last:,} steps; picture in {run.folder / 'longrun.png'}, page in report.html")
    output.result({"out": run.folder, **run.result})
    return found

"""`ebm longrun`: chains long enough to judge an energy by, in a folder that survives any end."""

from __future__ import annotations

import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import DivergedError, EBMError, Exit, UsageError
from ebmcli.native import cores
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    from ebmcli.evaluation import Baseline, Outcome, Reference, Walk
    from ebmcli.longrun import Folder

SPARK = 16
"""Characters of the energy's curve beside the bar."""


class KernelName(StrEnum):
    """What moves the chains."""

    langevin = "langevin"
    mala = "mala"
    hmc = "hmc"
    underdamped = "underdamped"


class Adjust(StrEnum):
    """Whether each step is tested."""

    none = "none"
    mh = "mh"


class Spacing(StrEnum):
    """Of the moments."""

    log = "log"
    linear = "linear"


def longrun(
    model: options.Model = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="START", help="data, noise, bank, or a path to images.", show_default="data"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="START",
            help="Where a quarter as many chains start that have to meet the others: noise, bank or none.",
            show_default="with --from data, the bank or noise",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", min=1, show_default="100000")] = None,
    chains: Annotated[
        int | None, typer.Option("--chains", "-n", metavar="N", min=4, show_default="64; 500 points of a toy")
    ] = None,
    kernel: Annotated[
        KernelName | None, typer.Option("--kernel", help="What moves the chains.", show_default="langevin")
    ] = None,
    adjust: Annotated[
        Adjust | None,
        typer.Option("--adjust", help="mh is --kernel mala; none takes every proposal.", show_default=False),
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size", metavar="E", min=1e-12, help="ε, pixel units.", show_default="the model's; adapted if tested"
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            "--warmup",
            metavar="N",
            min=0,
            help="Steps in which ε is adapted to an acceptance of 0.6, before the first.",
            show_default="400 for tested kernels without --step-size",
        ),
    ] = None,
    leapfrog: Annotated[
        int | None,
        typer.Option("--leapfrog", metavar="N", min=1, help="Leapfrog steps of hmc.", show_default="10"),
    ] = None,
    persistence: Annotated[
        float | None,
        typer.Option("--persistence", metavar="A", min=0.0, max=0.999, help="Of momenta.", show_default="the kernel's"),
    ] = None,
    temperature: options.Temperature = None,
    moments: Annotated[
        int, typer.Option("--moments", metavar="N", min=2, help="How often images are kept and compared.")
    ] = 40,
    spacing: Annotated[Spacing, typer.Option("--spacing", help="Of the moments over the steps.")] = Spacing.log,
    seed: options.Seed = 0,
    data: options.Data = None,
    compared: Annotated[
        int, typer.Option("--compared", metavar="N", min=20, help="Images of the data that chains are compared with.")
    ] = 2000,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="PATH|CODE",
            help="Another feature network of the Fréchet distance: safetensors, or package.module:factory.",
            show_default=False,
        ),
    ] = None,
    verdict: Annotated[
        bool, typer.Option("--verdict", help="Exit 0 if the steady state matches data, else with 1.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FOLDER", help="Go on with a long run, bit for bit.", show_default=False),
    ] = None,
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

    Writes a folder (runs/longrun-MODEL unless --out says otherwise): metrics, images on the way, a picture,
    report.html, result.json. Ctrl-C keeps what there is; a run that ended in any way goes on with --resume.
    """
    output = Output(json=json, quiet=quiet, verbose=verbose)
    choices = {
        "start": from_,
        "against": against,
        "steps": steps,
        "chains": chains,
        "step_size": step_size,
        "warmup": warmup,
        "n_leapfrog": leapfrog,
        "persistence": persistence,
        "temperature": temperature,
        **_kernel(kernel, adjust, leapfrog, persistence),
    }
    fixed = {"--out": out, "--features": features, **{f"--{k}": v for k, v in choices.items()}, "--data": data}
    if resume is not None and any(v is not None for v in fixed.values()):
        given = next(k for k, v in fixed.items() if v is not None)
        names = {
            "--start": "--from",
            "--step_size": "--step-size",
            "--n_leapfrog": "--leapfrog",
            "--adjust": "--kernel",
        }
        raise UsageError(
            f"{names.get(given, given)} is for a new long run, not for --resume", "a long run keeps its settings"
        )
    load = {"backend": backend, "energy_scale": energy_scale, "trusted": trust_code, "device": device}
    if resume is None:
        choices |= {"moments": moments, "spacing": spacing.value, "seed": seed, "data": data, "compared": compared}
        walk, folder, base = _begin(model, out, choices, features, load, threads, output)
    else:
        walk, folder, base = _reopen(resume, model, load, threads, output)
    interrupted = _follow(walk, folder, base, output)
    _say(walk, folder, base, output, interrupted, verdict)


def _kernel(
    kernel: KernelName | None, adjust: Adjust | None, leapfrog: int | None, persistence: float | None
) -> dict[str, Any]:
    """Kernel and test of --kernel and --adjust."""
    if kernel in (None, KernelName.langevin, KernelName.mala) and (leapfrog or persistence is not None):
        raise UsageError("--leapfrog and --persistence are for --kernel hmc and underdamped", "add --kernel hmc")
    if adjust is None:
        return {"kernel": kernel.value if kernel else None}
    if kernel in (KernelName.hmc, KernelName.underdamped):
        return {"kernel": kernel.value, "adjust": adjust is Adjust.mh}
    own = KernelName.mala if adjust is Adjust.mh else KernelName.langevin
    if kernel not in (None, own) and not (kernel is KernelName.langevin and adjust is Adjust.mh):
        raise UsageError(f"--kernel {kernel} is always tested", "take --kernel langevin, or leave out --adjust")
    return {"kernel": own.value}


def _begin(
    model: str | None,
    out: Path | None,
    choices: dict[str, Any],
    features: str | None,
    load: dict[str, Any],
    threads: int | None,
    output: Output,
) -> tuple[Walk, Folder, Baseline | None]:
    """A new long run: everything that can be wrong is said before there is a folder."""

    from ebmcli.data.chosen import absolute
    from ebmcli.engine import device as devices
    from ebmcli.evaluation import Walk, WalkSettings
    from ebmcli.longrun import Folder, facts
    from ebmcli.models import lookup
    from ebmcli.models.lookup import label as _label
    from ebmcli.training.run_folder import new_folder

    cores.use(threads)
    name = model or lookup.default()
    loaded = lookup.load(model, **{**load, "device": devices.pick(load["device"])})
    settings = WalkSettings.of(loaded, **choices)
    path = out or new_folder(f"longrun-{_label(name)}")
    Folder.check_new(path)
    start = None
    reference = _reference(loaded, settings, features, load["trusted"], output)
    walk = Walk(loaded, settings, reference, start)
    more = {
        "features": features,
        "data_path": absolute(settings.data),
        "energy_scale": load["energy_scale"],
        "judged": reference is not None,
    }
    if settings.warmup:
        output.detail(f"warm-up: {settings.warmup} steps")
    folder = Folder.create(path, facts(_absolute(name) or name, walk, **more))
    return walk, folder, _baseline(walk, output)


def _absolute(source: str | None) -> str | None:
    """The full path of a file or folder, so that the run goes on from anywhere; None of a name."""
    from ebmcli.data.bundled import bundled
    from ebmcli.models import lookup

    if source is None or source in bundled() or source in lookup.bundled():
        return None
    path = typed_path(source)
    return str(path.resolve()) if path.exists() else None


def _reopen(
    path: Path, model: str | None, load: dict[str, Any], threads: int | None, output: Output
) -> tuple[Walk, Folder, Baseline | None]:
    import dataclasses

    import torch

    from ebmcli.engine import device as devices
    from ebmcli.evaluation import Walk
    from ebmcli.longrun import Folder
    from ebmcli.models import lookup
    from ebmcli.models.checkpoint import checksum_of, versions

    folder = Folder.open(path)
    facts, settings = folder.facts, folder.settings
    folder.lock()
    cores.use(threads, facts.get("threads"))
    if facts.get("data_path"):
        settings = dataclasses.replace(settings, data=facts["data_path"])
    load = {**load, "energy_scale": load["energy_scale"] or facts.get("energy_scale")}
    device = load["device"] if load["device"] != "auto" else facts.get("device", "auto")
    name, trusted = model or facts["model"], load["trusted"]
    # Before the network is built, which may mean to import code: is it the model at all?
    if checksum_of(lookup.look_up(name, trusted).path, load["energy_scale"], trusted) != facts["model_sha256"]:
        raise EBMError(
            f"{path} is a long run of {facts['model_name']} at update {facts['updates']:,}, and this is another model",
            "give the same one: ebm longrun MODEL --resume FOLDER",
        )
    loaded = lookup.load(name, **{**load, "device": devices.pick(device)})
    now = {"threads": torch.get_num_threads(), "backend": loaded.potential.backend.name, "torch": versions()["torch"]}
    for key, value in now.items():
        if facts.get(key) != value:
            output.warn(f"{key} was {facts.get(key)} and is {value}: the run goes on, but not bit for bit")
    features = facts.get("features")
    reference = _reference(loaded, settings, features, load["trusted"], output) if facts.get("judged") else None
    walk = Walk(loaded, settings, reference, step_size=facts["step_size"])
    step = folder.restore(walk)
    if step == settings.steps:
        output.say(f"{path}: all {step:,} steps are done")
    else:
        output.say(f"{path}: goes on after step {step:,}")
    return walk, folder, _baseline(walk, output)


def _reference(loaded: Any, settings: Any, features: str | None, trusted: bool, output: Output) -> Reference | None:
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
    from ebmcli.evaluation import baseline

    if walk.reference is None:
        return None
    base = baseline(walk.model, walk.reference, walk.settings)
    s, low_high = walk.settings, base.band
    others = f" and {s.others} from {s.against}" if s.against else ""
    output.say(
        f"{walk.model.config.name}: {s.chains} chains from {s.start}{others}, {s.steps:,} steps of {s.kernel}, "
        f"ε {walk.kernel.step_size:.4g}, T {s.temperature:g}, seed {s.seed}, backend "
        f"{walk.model.potential.backend.name}; energy of the data {low_high[0]:.5g} to {low_high[1]:.5g}"
    )
    return base


def _follow(walk: Walk, folder: Folder, base: Baseline | None, output: Output) -> bool:
    """To the end, or to Ctrl-C; whether it was that."""
    from ebmcli.longrun import follow
    from ebmcli.longrun.report import sparkline

    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:  # a second Ctrl-C does not wait for the piece's end: what is on the disk is whole at any moment
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    start = walk.state.step if walk.state is not None else 0
    try:
        with output.progress("long run", walk.settings.steps, unit="steps", start=start, every=60.0) as bar:
            means = [_mean(r.energy[: walk.settings.chains]) for r in walk.seen]
            for record in follow(walk, folder, lambda: bool(asked)):
                means.append(_mean(record.energy[: walk.settings.chains]))
                fields: dict[str, Any] = {"U": f"{sparkline(means, SPARK)} {means[-1]:.5g}"}
                if record.acceptance is not None:
                    fields["accepted"] = record.acceptance
                bar.update(done=record.step, **fields)
    except DivergedError as error:
        error.hint += f"; what there is stays in {folder.path}"
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(asked) and walk.seen[-1].step < walk.settings.steps


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _say(walk: Walk, folder: Folder, base: Baseline | None, output: Output, interrupted: bool, verdict: bool) -> None:
    """Write the report, print the verdict, choose the exit code."""
    from ebmcli.longrun import finish

    found: Outcome | None = finish(walk, folder, base)
    last = walk.seen[-1].step
    if found is None:
        output.data("no verdict: there was no data to hold the chains against")
    else:
        output.data(f"{found.judgement.verdict}")
        for reason in found.judgement.reasons:
            output.say(f"  {reason}")
    output.say(f"{folder.path}: {last:,} steps; picture in {folder.path / 'longrun.png'}, page in report.html")
    output.result({"out": folder.path, **folder.result})
    if interrupted:
        flag = options.consent_again(walk.model.config.network)
        raise EBMError(
            f"interrupted: step {last:,} of {walk.settings.steps:,} is saved",
            f"go on with ebm longrun --resume {folder.path}{flag}",
            code=Exit.INTERRUPTED,
        )
    if verdict and (found is None or not found.judgement.matches):
        raise typer.Exit(Exit.FAILED)

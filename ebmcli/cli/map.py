"""`ebm map`: the basins of an energy and the hills between them, paths between two pictures, and recall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _frame as frame
from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores
from ebmcli.storage.paths import full_path

if TYPE_CHECKING:
    from ebmcli.landscape.mapping import Landscape, MapSettings
    from ebmcli.landscape.store import Folder
    from ebmcli.landscape.subject import Subject

KEPT = frozenset(["resume", "trust_code", "batch_size", "device", "backend", "threads", "json", "quiet"])
"""Options that may be given again for a map that goes on: none of them changes it."""
STAGES = {
    "chains": ("long chains", "steps"),
    "descent": ("descent", "states"),
    "grid": ("grid of α and T", "states"),
    "basins": ("grouping", "states"),
    "barriers": ("barriers", "pairs"),
    "paths": ("paths", "iterations"),
}


Samples = Annotated[
    int,
    typer.Option("--samples", "-n", metavar="N", min=2, max=20000, help="How many metastable states are looked for."),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="WHERE",
        help="Where long chains start: bank, data, noise, or bank+data.",
        show_default="what is at hand",
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps", metavar="N", min=0, help="Longest chain; it ends earlier once its energy no longer drifts."
    ),
]
Quench = Annotated[
    int, typer.Option("--quench", metavar="N", min=0, help="Steps of gradient descent that cool each chain.")
]
Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        metavar="A",
        min=1e-9,
        help="Strength of the pull towards the target, per pixel unit.",
        show_default="from a grid",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        min=1e-9,
        help="Temperature at which chains travel between states.",
        show_default="from a grid",
    ),
]
StepSize = Annotated[
    float | None,
    typer.Option(
        "--step-size",
        metavar="E",
        min=1e-9,
        help="Step size ε of travel, pixel units.",
        show_default="by the temperature",
    ),
]
Adjust = Annotated[bool, typer.Option("--adjust", help="Test each step of travel by Metropolis–Hastings.")]
Patience = Annotated[
    int,
    typer.Option(
        "--patience", metavar="M", min=1, help="Travel has failed after so many steps without getting nearer."
    ),
]
Rounds = Annotated[
    int,
    typer.Option("--rounds", metavar="N", min=1, max=60, help="How often a state is tried against its nearest basins."),
]
Trials = Annotated[
    int, typer.Option("--trials", metavar="N", min=1, max=60, help="Attempts in each direction for one barrier.")
]
Neighbours = Annotated[
    int, typer.Option("--neighbours", metavar="N", min=1, help="To how many nearest basins each basin is connected.")
]
Leaves = Annotated[
    int,
    typer.Option(
        "--leaves", metavar="N", min=2, help="How many basins the figure shows at most; the largest come first."
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="A.png", help="Draw the way from this picture to that of --to, not a map."),
]
To = Annotated[Path | None, typer.Option("--to", metavar="B.png", help="The other end of the way from --from.")]
Recall = Annotated[
    Path | None,
    typer.Option("--recall", metavar="PICTURE", help="Let a damaged picture relax into its basin; no map is made."),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="FOLDER", help="Go on with an interrupted map, to the very same map.")
]


def map_(
    ctx: typer.Context,
    model: options.Model = None,
    samples: Samples = 200,
    start: Start = None,
    steps: Steps = 2000,
    quench: Quench = 4000,
    alpha: Alpha = None,
    temperature: Temperature = None,
    step_size: StepSize = None,
    adjust: Adjust = False,
    patience: Patience = 400,
    rounds: Rounds = 3,
    trials: Trials = 4,
    neighbours: Neighbours = 15,
    leaves: Leaves = 60,
    from_: From = None,
    to: To = None,
    recall: Recall = None,
    resume: Resume = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    energy_scale: options.EnergyScale = None,
    trust_code: options.TrustCode = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Map an energy: its basins, who is in them, and the lowest hills between them (Fig. 9).

    MODEL may also be gmm or rings, the true densities of the toys. A map is a folder: tree.png, tree.svg, map.json,
    states.safetensors, and map.html, a page to touch. The same seed gives the same map for any batch size.
    """
    output = Output(json=json, quiet=quiet)
    _check(from_, to, recall, resume, model)
    if resume is not None:
        _refuse_others(ctx)

    from ebmcli.engine import device as devices
    from ebmcli.landscape.mapping import MapSettings
    from ebmcli.landscape.subject import open_subject, origin

    cores.use(threads)
    place = devices.pick(device)
    if resume is not None:
        _resume(resume, place, backend, trust_code, batch_size, output)
        return
    how = {"backend": backend, "energy_scale": energy_scale, "trusted": trust_code}
    subject = open_subject(model, place, **how)
    settings = MapSettings(
        step_size=subject.step_size,
        chain_steps=steps,
        quench_steps=quench,
        seed=seed,
        strength=alpha,
        temperature=temperature,
        travel_step=step_size,
        adjust=adjust,
        patience=patience,
        rounds=rounds,
        trials=trials,
        neighbours=neighbours,
    )
    if recall is not None:
        from ebmcli.cli.between import recall as recall_picture

        recall_picture(subject, recall, settings, out, force, output)
    elif from_ is not None and to is not None:
        from ebmcli.cli.between import between

        between(subject, from_, to, settings, out, force, output)
    else:
        where = origin(subject, start, data)
        _begin(subject, settings, samples, where, data, how, out, force, batch_size, leaves, output)


def _check(from_: Path | None, to: Path | None, recall: Path | None, resume: Path | None, model: str | None) -> None:
    if (from_ is None) != (to is None):
        raise UsageError("a way has two ends", "give both --from and --to")
    if sum(x is not None for x in (from_, recall, resume)) > 1:
        raise UsageError("--from, --recall and --resume exclude each other", "give one of them")
    if resume is not None and model is not None:
        raise UsageError("--resume knows its model", "leave out MODEL")


def _refuse_others(ctx: typer.Context) -> None:
    """A map that goes on keeps its settings: an option that would change it is refused, not ignored.

    Raises:
        UsageError: one was given.
    """
    for param in ctx.command.params:
        source = ctx.get_parameter_source(str(param.name))
        if param.name not in KEPT and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{param.opts[0]} is for a new map, not for --resume", "a map keeps its settings")


def _begin(
    subject: Subject,
    settings: MapSettings,
    samples: int,
    where: str,
    data: str | None,
    how: dict[str, Any],
    out: Path | None,
    force: bool,
    batch_size: int | None,
    leaves: int,
    output: Output,
) -> None:
    from dataclasses import asdict

    from ebmcli.data.chosen import absolute
    from ebmcli.data.toys import TOYS
    from ebmcli.landscape.report import UNFINISHED
    from ebmcli.landscape.store import Folder
    from ebmcli.landscape.subject import first_states
    from ebmcli.models import lookup
    from ebmcli.storage.files import write_whole
    from ebmcli.storage.seals import dumps

    folder = out or Path(f"{lookup.label(subject.name)}-map")
    _check_new(folder, force)
    first = first_states(subject, where, samples, settings.seed, data)
    facts = {
        "model": full_path(subject.name, {*lookup.bundled(), *TOYS}) or subject.name,
        "digest": None if subject.model is None else subject.model.digest,
        "how": {"energy_scale": how["energy_scale"]},  # never whether code is trusted: that is asked anew each time
        "start": where,
        "samples": samples,
        "data": absolute(data) or data,
        "leaves": leaves,
        "settings": asdict(settings),
    }
    work = folder / UNFINISHED
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EBMError(f"cannot make the folder {folder}: {error.strerror}", "choose another --out") from error
    store = Folder(work, fresh=True)
    write_whole(work / "settings.json", dumps(facts))
    _make(subject, first, settings, where, folder, store, batch_size, leaves, output)


def _check_new(folder: Path, force: bool) -> None:
    """A map gets a folder of its own; with --force it replaces the map that is there, and nothing else."""
    from ebmcli.landscape.report import FILES, UNFINISHED

    if folder.exists() and not folder.is_dir():
        raise EBMError(f"{folder} is a file: a map gets a folder of its own", "choose another --out")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if (folder / UNFINISHED / "settings.json").exists() and not force:
        raise EBMError(f"{folder} holds a map under way", f"go on with it: ebm map --resume {folder}; or --force")
    others = there - {UNFINISHED}  # alone it is what a start that was cut short has left
    if others and not (force and others <= set(FILES)):
        what = "a map already" if "map.json" in there else "something already"
        raise EBMError(f"{folder} holds {what}", "choose another --out" + (", or --force" if not force else ""))


def _resume(folder: Path, place: Any, backend: str, trusted: bool, batch_size: int | None, output: Output) -> None:
    from ebmcli.landscape.mapping import MapSettings
    from ebmcli.landscape.report import UNFINISHED
    from ebmcli.landscape.store import Begun, Folder
    from ebmcli.landscape.subject import first_states, is_truth, open_subject
    from ebmcli.models import lookup
    from ebmcli.models.checkpoint import checksum_of
    from ebmcli.storage.seals import read_sealed

    work = folder / UNFINISHED
    if not (work / "settings.json").exists():
        if (folder / "map.json").exists():
            if work.is_dir():  # by a process that was killed at its very end
                Folder(work).clear()
            raise EBMError(f"the map in {folder} is finished", "there is nothing to go on with")
        raise EBMError(f"no map was begun in {folder}", f"start one: ebm map MODEL --out {folder}")
    facts = read_sealed(work / "settings.json", Begun)
    settings, scale = MapSettings(**facts["settings"]), facts["how"].get("energy_scale")
    name = facts["model"]
    # Before the network is built, which may mean to import code: is it the model at all?
    if not is_truth(name) and checksum_of(lookup.look_up(name, trusted).path, scale, trusted) != facts["digest"]:
        raise EBMError(
            f"{name or lookup.default()} is not the model that {folder} was begun with",
            "has it learned on since? begin anew",
        )
    subject = open_subject(name, place, backend=backend, energy_scale=scale, trusted=trusted)
    first = first_states(subject, facts["start"], facts["samples"], settings.seed, facts["data"])
    _make(subject, first, settings, facts["start"], folder, Folder(work), batch_size, facts["leaves"], output)


def _make(
    subject: Subject,
    first: Any,
    settings: MapSettings,
    where: str,
    folder: Path,
    store: Folder,
    batch_size: int | None,
    leaves: int,
    output: Output,
) -> None:
    from dataclasses import asdict

    from ebmcli._version import __version__
    from ebmcli.landscape.mapping import chart
    from ebmcli.landscape.report import save
    from ebmcli.models.lookup import label

    output.say(f"{subject.name}: {len(first)} states from {where}, seed {settings.seed}: {folder}")
    network = subject.model.config.network if subject.model else ""
    go_on = frame.command_to_go_on("ebm map --resume", folder, network)
    with frame.long_work(go_on, lambda: f"what is done is kept in {folder}") as asked:
        records = chart(subject.potential, first, settings, batch_size=batch_size, store=store)
        landscape = _watch(frame.until_asked(records, asked), output)
    made = {"made_by": f"ebm {__version__}", **subject.facts, "start": where, "settings": asdict(settings)}
    save(landscape, folder, f"{label(subject.name)}: {len(first)} metastable states from {where}", made, leaves)
    store.clear()
    _tell(landscape, folder, output)


def _watch(records: Any, output: Output) -> Landscape:
    """A bar for each stage."""
    progress = next(records)
    while True:
        stage = progress.stage
        words, unit = STAGES[stage]
        with output.progress(words, progress.total, unit=unit, start=progress.done, every=30.0) as bar:
            while progress.stage == stage:
                more = {"basins": progress.basins} if progress.basins else {}
                bar.update(done=progress.done, **more, **({"jobs": progress.jobs} if progress.jobs else {}))
                if progress.result is not None:
                    return progress.result
                progress = next(records)


def _tell(landscape: Landscape, folder: Path, output: Output) -> None:
    sizes = sorted(map(len, landscape.basins.members), reverse=True)
    known = len(landscape.routes)
    for cell in landscape.cells:
        output.say(f"  T {cell.temperature:g}, α {cell.strength:.3g}: {cell.basins} basins of {cell.states} states")
    if not landscape.at_rest:
        output.warn(f"the long chains' energy was still moving after {landscape.chain_steps} steps; raise --steps")
    output.say(
        f"{folder}: {len(sizes)} basins at α {landscape.strength:.3g}, T {landscape.conditions.temperature:g}; "
        f"largest {', '.join(map(str, sizes[:5]))}; {known} barriers"
    )
    output.say(f"look at {folder / 'tree.png'}, touch {folder / 'map.html'}")
    output.result(
        {
            "out": folder,
            "basins": len(sizes),
            "members": [len(m) for m in landscape.basins.members],
            "energies": [float(landscape.energies[m[0]]) for m in landscape.basins.members],
            "barriers": [{"basins": route.pair, "barrier": route.barrier} for route in landscape.routes],
            "alpha": landscape.strength,
            "temperature": landscape.conditions.temperature,
            "grid": [cell._asdict() for cell in landscape.cells],
            "at_rest": landscape.at_rest,
        }
    )

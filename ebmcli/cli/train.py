"""`ebm train`: learn an energy, in a run folder that survives any end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _frame as frame
from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.recipe import Recipe
    from ebmcli.training.longruns import LongRuns
    from ebmcli.training.run_folder import Run
    from ebmcli.training.session import Learning

LOOKED_AT = 1000
"""Images by which the data's local sd is estimated."""
TIMED_UPDATES = 20
FEW = 4
"""Updates that are timed before a run with a chosen recipe."""


RecipeOption = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="A recipe's name or path.", show_default=False),
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN", help="Go on with a run, bit for bit.", show_default=False),
]
InitFrom = Annotated[
    str | None,
    typer.Option(
        "--init-from",
        metavar="MODEL",
        help="Begin with the weights of a model or run, and with its bank: fine-tuning, or the next stage.",
        show_default=False,
    ),
]
SaveRecipe = Annotated[
    Path | None,
    typer.Option(
        "--save-recipe", metavar="TOML", help="Keep the recipe that was chosen for --data.", show_default=False
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=2**63 - 1,
        help="Short for --set train.seed=N, and stronger: it is set after every --set.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse settings that contradict what the paper found, instead of warning.")
]
Longrun = Annotated[
    bool,
    typer.Option("--longrun/--no-longrun", help="Run the recipe's long runs, which judge the energy on the way."),
]


def train(
    recipe: RecipeOption = None,
    resume: Resume = None,
    init_from: InitFrom = None,
    data: options.Data = None,
    column: options.Column = None,
    config: options.Config = None,
    save_recipe: SaveRecipe = None,
    set_: options.Set = None,
    seed: Seed = None,
    out: options.Out = None,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    strict: Strict = False,
    longrun: Longrun = True,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Learn an energy from images or 2-D points (Algorithm 1).

    Writes a run folder (runs/RECIPE unless --out says otherwise) with metrics, sample grids and
    checkpoints. Ctrl-C saves a checkpoint first. A run that ended in any way goes on with --resume.
    With --data and no RECIPE, one is chosen that suits the pictures and the machine.
    """
    output = Output(json=json, quiet=quiet, verbose=verbose)
    data = options.with_choice(data, column, config)
    chosen = recipe is None and resume is None and data is not None
    for_a_new_run = {"out": out, "dry-run": dry_run or None, "init-from": init_from, "seed": seed}
    _check(recipe, resume, chosen, save_recipe, for_a_new_run)
    set_ = [*(set_ or ()), *([] if seed is None else [f"train.seed={seed}"])]
    run: Run | None = None
    folder = Path()
    from ebmcli.models.origin import may_import
    from ebmcli.recipe import load

    if resume is not None:
        settings, run, facts = _reopen(resume, set_, data, device, backend, trust_code)
    else:
        settings = _choose(str(data), device, save_recipe, set_, output) if chosen else load(str(recipe), set_)
        folder, facts = _begin(settings, out, data, device, backend)

    own = trust_code if run or chosen else may_import(settings, str(recipe), trust_code, set_)

    from ebmcli.training.run_folder import Run
    from ebmcli.training.session import Learning

    cores.use(threads, facts.get("threads"))
    learning = _prepare(settings, run, facts, own, output)
    if run is None:
        _preflight(learning, strict, output)
    if init_from is not None:
        facts["init_from"] = _begin_with(init_from, learning, trust_code, output)
    if dry_run:
        _estimate(learning, longrun, output)
        return
    if chosen:
        again = Learning(settings, learning.data, None, learning.device, backend, own)  # the updates are thrown away
        output.say(f"{_cost(again, FEW, longrun, output)[0]}; Ctrl-C stops and saves at any time")
    if run is None:
        # Only now: what is wrong with recipe, data or device has been said, and leaves no folder behind.
        run = learning.folder = Run.create(folder, settings.dumps(), facts)
        run.lock()
    if longrun:
        learning.long_runs = _long_runs(learning, run, facts, own)
    _learn(learning, run, output)


def _check(
    recipe: str | None, resume: Path | None, chosen: bool, save_recipe: Path | None, of_a_new_run: dict[str, Any]
) -> None:
    """Words that contradict each other.

    Raises:
        UsageError: there are some.
    """
    if not chosen and (recipe is None) == (resume is None):
        raise UsageError(
            "give a RECIPE, or --resume RUN", "ebm recipe list shows the recipes; with --data PICTURES one is chosen"
        )
    if save_recipe is not None and not chosen:
        raise UsageError("--save-recipe is for a recipe that is chosen for --data", "ebm recipe copy copies others")
    for option, given in of_a_new_run.items():
        if resume is not None and given is not None:
            raise UsageError(f"--{option} is for a new run, not for --resume", "a run goes on in its own folder")


def _choose(source: str, device: str, keep: Path | None, overrides: list[str] | None, output: Output) -> Recipe:
    """A recipe for pictures that have none, shown, and kept in a file where that is asked for."""
    from ebmcli.cli._fetching import fetch
    from ebmcli.data.chosen import absolute, chosen
    from ebmcli.data.listing import readable
    from ebmcli.data.survey import survey
    from ebmcli.engine import device as devices
    from ebmcli.recipe import loads
    from ebmcli.recipe.suggest import suggest
    from ebmcli.storage.files import write_whole

    if keep is not None and keep.exists():
        raise EBMError(f"{keep} is there already", "choose another --save-recipe")
    fetch(source, "train", output)
    seen = survey(source)
    path = readable(absolute(source) or source)  # a recipe is UTF-8; the run remembers the bytes themselves
    gpu = devices.pick(device).type != "cpu"
    recipe = suggest(path, Path(chosen(path).place).name, seen.images, seen.short_side, seen.colour, gpu, seen.crop)
    text = loads(recipe.dumps(), "chosen for --data", overrides or ()).dumps()
    for line in text.splitlines():
        output.say(f"  {line}".rstrip())
    if keep is not None:
        write_whole(keep, text)
        output.say(f"this recipe is kept in {keep}")
    return loads(text)


def _begin(
    settings: Recipe, out: Path | None, data: str | None, device: str, backend: str
) -> tuple[Path, dict[str, Any]]:
    from ebmcli._version import __version__
    from ebmcli.data.chosen import absolute
    from ebmcli.storage.folders import new_folder
    from ebmcli.training.run_folder import Run

    folder = out or new_folder(settings.recipe.name)
    Run.check_new(folder)
    facts = {
        "recipe": settings.recipe.name,
        "recipe_hash": settings.hash(),
        "seed": settings.train.seed,
        "data_path": absolute(data or settings.data.source) or data,
        "device": device,
        "backend_requested": backend,
        "ebmcli": __version__,
    }
    return folder, facts


def _reopen(
    folder: Path, overrides: list[str] | None, data: str | None, device: str, backend: str, trusted: bool
) -> tuple[Recipe, Run, dict[str, Any]]:
    """A begun run; only how long it learns and what it logs may be set anew."""
    from ebmcli.data.chosen import absolute
    from ebmcli.models.origin import may_import
    from ebmcli.recipe import load
    from ebmcli.storage.files import write_whole
    from ebmcli.training.run_folder import Run

    run = Run.open(folder)
    run.lock()
    for item in overrides or ():
        key = item.partition("=")[0].strip()
        if key != "train.updates" and not key.startswith("log."):
            raise UsageError(
                f"--set {item}: a resumed run keeps its settings",
                "only train.updates and log.* can be set anew",
            )
    settings = load(run.recipe_path, overrides or ())
    may_import(settings, run.folder, trusted)
    if overrides:
        write_whole(run.recipe_path, settings.dumps())
    facts = {"data_path": None, "device": "auto", "backend_requested": "auto"} | run.facts
    if data is not None:
        facts["data_path"] = absolute(data) or data
    if device != "auto":
        facts["device"] = device
    if backend != "auto":
        facts["backend_requested"] = backend
    return settings, run, facts


def _prepare(settings: Recipe, run: Run | None, facts: dict[str, Any], trusted: bool, output: Output) -> Learning:
    """Data, network and engine; a `run` that was begun goes on. What was found is added to `facts`.

    Args:
        trusted: whether code that the recipe names as its network may be imported.
    """
    import torch

    from ebmcli.cli._fetching import fetch
    from ebmcli.data.training import ImageData, open_data
    from ebmcli.engine import device as devices
    from ebmcli.models.checkpoint import versions
    from ebmcli.training.session import Learning

    fetch(facts["data_path"] or settings.data.source, settings.data.split, output)
    with output.counter("reading images") as progress:
        positives = open_data(settings.data, facts["data_path"], progress)
    place = devices.pick(facts["device"])
    learning = Learning(settings, positives, run, place, facts["backend_requested"], trusted)
    now = {
        "data": positives.name,
        "data_identity": positives.identity,
        "data_path": getattr(positives, "address", None) or facts["data_path"],
        "threads": torch.get_num_threads(),
        "device_used": str(place),
        "backend": learning.potential.backend.name,
        "torch": versions()["torch"],
    }
    if run is not None:
        if facts.get("data_identity") not in (None, now["data_identity"]):
            raise EBMError(
                f"these are not the images that {run.folder} learned from",
                "give the same ones with --data; files that are read now and were not then are to be taken out",
            )
        for change in frame.changes(facts, {key: now[key] for key in ("threads", "device_used", "backend", "torch")}):
            output.warn(change)
        update = learning.resume()
        run.write_facts(facts | now)
        if update < settings.train.updates:
            output.say(f"{run.folder}: goes on after update {update}")
        else:
            output.say(f"{run.folder}: all {update} updates are done; --set train.updates=N learns on")
    facts |= now
    if isinstance(positives, ImageData):
        positives.set.tell()
    if learning.potential.backend.note:
        output.warn(learning.potential.backend.note)
    output.say(
        f"{settings.recipe.name} ({settings.recipe.regime}) on {positives.name}, "
        f"{settings.data.image_size}×{settings.data.image_size}×{settings.data.channels}, "
        f"network {settings.potential.network} of width {settings.potential.width}, "
        f"{place}, backend {now['backend']}, {now['threads']} threads"
    )
    return learning


def _preflight(learning: Learning, strict: bool, output: Output) -> None:
    """Say which settings contradict what the paper found.

    Raises:
        UsageError: there are some, and `strict`.
    """
    from ebmcli.data.stats import local_sd
    from ebmcli.training.preflight import concerns

    images = getattr(learning.data, "set", None)
    sd = None
    if images is not None and len(images) > 1 and learning.recipe.recipe.regime == "convergent":
        sd = local_sd(images.images(slice(0, LOOKED_AT)))
    found = concerns(learning.recipe, sd)
    if found and strict:
        raise UsageError(
            f"{len(found)} settings contradict what the paper found",
            "change them, or leave out --strict",
            details=tuple(c.line() for c in found),
        )
    for concern in found:
        output.warn(concern.line())


def _begin_with(model: str, learning: Learning, trusted: bool, output: Output) -> str:
    """Take the weights and the bank of `model` over; returns which it was, for the run's record."""
    from ebmcli.models import lookup
    from ebmcli.training.run_folder import bank_of

    source = lookup.load(model, trusted=trusted)
    source = source._replace(bank=bank_of(lookup.look_up(model, trusted).path, source))
    learning.begin_with(source)
    mine, its = learning.potential.energy_scale, source.config.energy_scale
    if mine != its:
        output.warn(f"the energy scale was {its:g} and is {mine:g}: the same weights are another energy")
    kept = " and bank" if source.bank is not None and learning.trainer.bank is not None else ""
    what = f"{source.config.name}, update {source.config.updates:,}, {source.digest[:12]}"
    output.say(f"begins with the weights{kept} of {what}")
    return what


def _long_runs(learning: Learning, run: Run, facts: dict[str, Any], trusted: bool) -> LongRuns:
    """The long runs of a training that has its folder."""
    import torch

    from ebmcli.data.toys import TOYS
    from ebmcli.training.longruns import LongRuns, Place, run_beside

    data = None if facts["data"] in TOYS else facts["data_path"] or learning.recipe.data.source
    place = Place(run.folder, learning.recipe.longrun, data, str(learning.device), facts["backend_requested"], trusted)
    return LongRuns(place, run_beside(learning.device, torch.get_num_threads()))


def _learn(learning: Learning, run: Run, output: Output) -> None:
    from ebmcli.training.longruns import in_words

    total = learning.recipe.train.updates
    long_runs = learning.long_runs

    def sound_state() -> str:
        kept = ", ".join(saved.folder.name for saved in run.checkpoints())
        return f"the last sound state is saved, with earlier ones: {run.folder}/checkpoints ({kept})"

    network = learning.recipe.potential.network
    go_on = frame.command_to_go_on("ebm train --resume", run.folder, network)
    with frame.long_work(go_on, sound_state) as asked, contextlib.ExitStack() as ending:
        learning.stop = lambda: bool(asked)
        if long_runs is not None:
            long_runs.stop = learning.stop
            ending.callback(long_runs.close)
        with output.progress("learning", total, unit="updates", start=learning.trainer.update, every=60.0) as bar:
            for event in learning.events():
                r = event.record
                bar.update(done=r.update, d=r.energy_difference, r=r.displacement)
                if r.rolled_back:
                    output.warn(f"{r.rolled_back}, at a lower rate for a while")
                if event.picture is not None:
                    output.detail(f"update {r.update}: {event.picture}")
                for line in long_runs.finished() if long_runs is not None else ():
                    output.say(in_words(line))
        if long_runs is not None and long_runs.unfinished and not asked:
            output.say(f"learned; long runs still to finish: {len(long_runs.unfinished)} (Ctrl-C keeps them for later)")
            for line in long_runs.finished(to_the_end=True):
                output.say(in_words(line))
    done = learning.trainer.update
    waiting = long_runs.unfinished if long_runs is not None else []
    if asked and (done < total or waiting):
        later = f", and {len(waiting)} long runs wait" if waiting else ""
        raise frame.interrupted(f"update {done} of {total} is saved{later}", go_on)
    samples = run.picture(done) if run.picture(done).is_file() else None
    output.say(f"{run.folder}: {done} updates" + (f"; samples in {samples}" if samples else ""))
    output.say(f"next: {frame.command_to_go_on('ebm sample', run.folder, network)}")
    output.result({"run": run.folder, "updates": done, "samples": samples})


def _estimate(learning: Learning, longrun: bool, output: Output) -> None:
    """Say what a run would cost."""
    text, result = _cost(learning, TIMED_UPDATES, longrun, output)
    output.say(f"{text}; nothing was written")
    output.result(result)


def _cost(learning: Learning, updates: int, longrun: bool, output: Output) -> tuple[str, dict[str, Any]]:
    """The cost of a run in words and as figures, from `updates` timed ones; `learning` changes."""
    from ebmcli.training.price import in_words, price, timed

    seconds: list[float] = []
    with output.progress("timing", updates, unit="updates") as bar:
        for one in timed(learning, updates):
            seconds.append(one)
            bar.update()
    found = price(learning, seconds, longrun)
    return in_words(learning.recipe, found), found._asdict()

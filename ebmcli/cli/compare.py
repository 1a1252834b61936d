"""`ebm compare`: several energies, ours and others', on the same noise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.evaluation import Reference
    from ebmcli.evaluation.compare import Comparison
    from ebmcli.models.checkpoint import Checkpoint
    from ebmcli.models.foreign import Foreign


class Sign(StrEnum):
    """Which outputs of an imported module are likely."""

    energy = "energy"
    logp = "logp"


Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Bundled names, folders, files, runs, or code: package.module:factory. Left out: all bundled models.",
        show_default=False,
    ),
]
From = Annotated[
    str,
    typer.Option("--from", metavar="START", help="Where long runs start: data, noise, bank, or a path to images."),
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of each long run.")]
Count = Annotated[int, typer.Option("--count", "-n", metavar="N", min=2, help="Chains of each model.")]
StepSize = Annotated[
    float | None,
    typer.Option(
        "--step-size",
        metavar="E",
        min=1e-9,
        help="Step size ε of all, in pixel units.",
        show_default="each model's own",
    ),
]
CrossSteps = Annotated[
    int | None,
    typer.Option(
        "--cross-steps",
        metavar="N",
        min=0,
        help="Steps of a model's chains that start at another's samples.",
        show_default="a tenth of --steps",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="PATH|CODE",
        help="Another feature network for the Fréchet distance: a safetensors file, or package.module:factory.",
        show_default="embedded",
    ),
]
SignChoice = Annotated[
    Sign, typer.Option("--sign", help="Which outputs of imported code are likely: low ones (energy), or high (logp).")
]
Scale = Annotated[
    float, typer.Option("--scale", metavar="S", min=1e-30, help="Scale of imported code: U = S times its output.")
]
Side = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="PX", min=1, help="Side of the images that imported code takes.", show_default="the others'"
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels", metavar="C", min=1, help="Channels that imported code takes.", show_default="the others'"
    ),
]
Short = Annotated[int, typer.Option("--short", metavar="N", min=1, help="Steps of a short run of imported code.")]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="PATH", help="Write everything as one page that needs no network.", show_default=False
    ),
]
Png = Annotated[
    Path | None, typer.Option("--png", metavar="PATH", help="Write the samples as a picture.", show_default=False)
]


def compare(
    models_: Models = None,
    from_: From = "data",
    steps: Steps = 2000,
    count: Count = 36,
    kernel: options.Kernel = "langevin",
    step_size: StepSize = None,
    cross_steps: CrossSteps = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    features: Features = None,
    sign: SignChoice = Sign.energy,
    scale: Scale = 1.0,
    size: Side = None,
    channels: Channels = None,
    short: Short = 100,
    html: Html = None,
    png: Png = None,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare energies: short and long samples side by side, verdict, distance to the data, cost.

    All start at the same images and use the same noise. Each model is also asked about the samples of
    every other of its size and data; --data puts models of one size on the same data. Code that you
    name is imported and run.
    """
    output = Output(json=json, quiet=quiet)
    for path, ending in ((html, ".html"), (png, ".png")):
        _free(path, ending, force)

    from ebmcli.engine import device as devices
    from ebmcli.evaluation import compare as comparing
    from ebmcli.evaluation.kernels import check_kernel

    check_kernel(kernel)
    cores.use(threads)
    how = {"device": devices.pick(device), "backend": backend}
    of_code = {"sign": sign.value, "scale": scale, "step_size": step_size, "steps": short}
    models = _load(models_, trust_code, how, size=size, channels=channels, data=data, **of_code)
    groups = comparing.alike(models, data)
    walk = {"start": from_, "against": "none", "steps": steps, "chains": count, "kernel": kernel}
    walk |= {"step_size": step_size, "seed": seed, "moments": 3, "data": data}
    crossing = max(1, steps // 10) if cross_steps is None else cross_steps
    found = _compare(groups, walk, features, trust_code, crossing, output)
    _write(found, html, png, output)
    _tell(found, output)


def _load(named: list[str] | None, trusted: bool, how: dict[str, Any], **of_code: Any) -> list[tuple[str, Checkpoint]]:
    """The models by what they are called in tables, in the order in which they were named.

    Raises:
        UsageError: one set of data was chosen for points and images; or as `_foreign`.
    """
    from ebmcli.models import foreign, lookup

    names, data = list(named or _all_bundled()), of_code["data"]
    ours = {name: lookup.load(name, **how, trusted=trusted) for name in names if not foreign.is_spec(name)}
    others = _foreign(names, ours, **of_code)

    def imported(name: str) -> Checkpoint:
        """Code as a model: naming it as an argument is to ask for it, but EBM_MODEL is no argument."""
        return foreign.load(name, others, trusted=trusted or name in (named or ()), **how)

    models = [(_label(name), ours[name] if name in ours else imported(name)) for name in names]
    points = [name for name, model in models if model.config.is_points]
    images = [name for name, model in models if not model.config.is_points]
    if data and points and images:
        raise UsageError(
            f"{points[0]} is a model of points and {images[0]} of images: --data {data} cannot be for both",
            "leave --data out, and each is held against its own data; or compare them apart",
        )
    return models


def _compare(
    groups: list[list[tuple[str, Checkpoint]]],
    walk: dict[str, Any],
    features: str | None,
    trusted: bool,
    cross_steps: int,
    output: Output,
) -> list[Comparison]:
    """Each group of models on its data, with a bar over the steps of all chains.

    Args:
        groups: names and models that can be compared with one another.
        walk: what is chosen for `WalkSettings`.
        features: another feature network; None for the embedded one.
        trusted: whether code that `features` names may be imported.
        cross_steps: of a model's chains from another's samples.
        output: of the command.
    """
    from ebmcli.data.bundled import at_hand
    from ebmcli.evaluation import WalkSettings, load_features, reference_of
    from ebmcli.evaluation.compare import compare as compare_group

    def settings(model: Checkpoint) -> WalkSettings:
        return WalkSettings.of(model, **walk)

    references: list[Reference] = []
    for group in groups:
        first = group[0][1]
        network = None if first.config.image_size == 1 else load_features(features, trusted=trusted)
        references.append(reference_of(first, settings(first), network))
    own = sum(model.config.steps + walk["steps"] for group in groups for _, model in group)
    total = own + cross_steps * sum(len(group) * (len(group) - 1) for group in groups)
    made: dict[str, int] = {}
    with output.progress("comparing", total, unit="steps", every=30.0) as bar:

        def watch(name: str, step: int) -> None:
            made[name] = step
            bar.update(done=min(total, sum(made.values())), model=name)

        return [
            compare_group(
                group, reference, walk["data"] or at_hand(group[0][1].config.data), settings, cross_steps, watch
            )
            for group, reference in zip(groups, references, strict=True)
        ]


def _tell(found: list[Comparison], output: Output) -> None:
    """Print the tables, what their numbers mean, and what is doubtful."""
    from ebmcli.evaluation import sheet

    output.table(sheet.rows(found), sheet.HEADER)
    if any(comparison.crossings for comparison in found):
        output.data("")
        output.table(sheet.cross_rows(found), sheet.CROSS_HEADER)
    for line in sheet.notes(found):
        output.say(line)
    for contestant in (one for comparison in found for one in comparison.contestants):
        if contestant.diverged:
            output.warn(f"{contestant.name}: {contestant.diverged}")
        if contestant.model.potential.backend.note:
            output.warn(f"{contestant.name}: {contestant.model.potential.backend.note}")
    output.result(sheet.as_json(found))


def _label(name: str) -> str:
    from ebmcli.models import foreign, lookup

    return name if foreign.is_spec(name) else lookup.label(name)


def _all_bundled() -> list[str]:
    """The default model, and the others of the package."""
    from ebmcli.models import lookup

    first = lookup.default()
    return [first, *(name for name in lookup.bundled() if name != first)]


def _foreign(
    names: list[str],
    ours: dict[str, Checkpoint],
    size: int | None,
    channels: int | None,
    data: str | None,
    **settings: Any,
) -> Foreign:
    """What the options, or else the models beside it, say of imported code.

    Raises:
        UsageError: nothing says its size, or its data.
    """
    from ebmcli.models.foreign import Foreign

    code = [n for n in names if n not in ours]
    beside = next(iter(ours.values())).config if ours else None
    if code and beside is None and (size is None or channels is None or data is None):
        raise UsageError(f"nothing says what images {code[0]} takes", "give --size, --channels and --data")
    return Foreign(
        size=size or (beside.image_size if beside else 1),
        channels=channels or (beside.channels if beside else 1),
        data=data or (beside.data if beside else ""),
        data_noise=beside.data_noise if beside else 0.0,
        **{k: v for k, v in settings.items() if v is not None},
    )


def _free(path: Path | None, ending: str, force: bool) -> None:
    """Where a report may go; said before anything is computed."""
    from ebmcli.media import refuse_foreign

    if path is None:
        return
    if path.suffix.lower() != ending:
        raise UsageError(f"--{ending[1:]} {path} does not end in {ending}", f"give a name such as result{ending}")
    refuse_foreign(path, force)


def _write(found: list[Comparison], html: Path | None, png: Path | None, output: Output) -> None:
    from ebmcli import media
    from ebmcli.evaluation import sheet

    if png is not None:
        media.save_png(sheet.picture(found), png, sheet.about(found))
        output.say(f"{png}: short and long samples, a row a model")
    if html is not None:
        sheet.report(found).save(html)
        output.say(f"{html}: everything on one page")

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
    from ebmcli.evaluation import Reference, WalkSettings
    from ebmcli.evaluation.compare import Comparison
    from ebmcli.models.checkpoint import Checkpoint
    from ebmcli.models.foreign import Foreign


class Sign(StrEnum):
    """Which outputs of an imported module are likely."""

    energy = "energy"
    logp = "logp"


def compare(
    models_: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Bundled names, folders, files, runs, or code: package.module:factory. Left out: all bundled models.",
            show_default=False,
        ),
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", metavar="START", help="Of the long runs: data, noise, bank, or a path to images.")
    ] = "data",
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Of the long runs.")] = 2000,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=2, help="Chains of each.")] = 36,
    kernel: options.Kernel = "langevin",
    step_size: Annotated[
        float | None,
        typer.Option("--step-size", metavar="E", min=1e-9, help="ε of all.", show_default="each model's own"),
    ] = None,
    cross_steps: Annotated[
        int | None,
        typer.Option(
            "--cross-steps",
            metavar="N",
            min=0,
            help="Of A's chains from B's samples.",
            show_default="a tenth of --steps",
        ),
    ] = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="NET", help="Feature network of the distance.", show_default="embedded"),
    ] = None,
    sign: Annotated[
        Sign, typer.Option("--sign", help="Of code: are low outputs likely (energy), or high ones (logp)?")
    ] = Sign.energy,
    scale: Annotated[float, typer.Option("--scale", metavar="S", min=1e-30, help="Of code: U = S · output.")] = 1.0,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PX", min=1, help="Of code: its images.", show_default="the others'")
    ] = None,
    channels: Annotated[
        int | None, typer.Option("--channels", metavar="C", min=1, help="Of code.", show_default="the others'")
    ] = None,
    short: Annotated[int, typer.Option("--short", metavar="N", min=1, help="Of code: steps of a short run.")] = 100,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PATH", help="Write one page, offline.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="PATH", help="Write the samples as a picture.", show_default=False)
    ] = None,
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

    from ebmcli.data.bundled import at_hand
    from ebmcli.engine import device as devices
    from ebmcli.evaluation import WalkSettings, load_features, reference_of, sheet
    from ebmcli.evaluation import compare as comparing
    from ebmcli.models import foreign, lookup
    from ebmcli.sampler import KERNELS

    if kernel not in KERNELS:
        raise UsageError(f"unknown kernel {kernel!r}", f"use {', '.join(KERNELS)}")
    cores.use(threads)
    place = devices.pick(device)
    names = list(models_ or _all_bundled())
    ours = {
        n: lookup.load(n, device=place, backend=backend, trusted=trust_code) for n in names if not foreign.is_spec(n)
    }

    def imported(name: str, others: Foreign) -> Checkpoint:
        """Code as a model: naming it as an argument is to ask for it, but EBM_MODEL is no argument."""
        asked = trust_code or name in (models_ or ())
        return foreign.load(name, others, trusted=asked, device=place, backend=backend)

    more = {"sign": sign.value, "scale": scale, "step_size": step_size, "steps": short}
    others = _foreign(names, ours, size, channels, data, **more)
    loaded = [(_label(n), ours[n] if n in ours else imported(n, others)) for n in names]
    points = [name for name, model in loaded if model.config.is_points]
    images = [name for name, model in loaded if not model.config.is_points]
    if data and points and images:
        raise UsageError(
            f"{points[0]} is a model of points and {images[0]} of images: --data {data} cannot be for both",
            "leave --data out, and each is held against its own data; or compare them apart",
        )
    groups = comparing.alike(loaded, data)

    def settings(model: Checkpoint) -> WalkSettings:
        return WalkSettings.of(
            model,
            start=from_,
            against="none",
            steps=steps,
            chains=count,
            kernel=kernel,
            step_size=step_size,
            seed=seed,
            moments=3,
            data=data,
        )

    crossing = max(1, steps // 10) if cross_steps is None else cross_steps
    pairs = sum(len(group) * (len(group) - 1) for group in groups)
    total = sum(m.config.steps + steps for _, m in loaded) + pairs * crossing
    references: list[Reference] = []
    for group in groups:
        first = group[0][1]
        net = None if first.config.is_points else load_features(features, trusted=trust_code)
        references.append(reference_of(first, settings(first), net))
    before: dict[str, int] = {}
    found: list[Comparison] = []
    with output.progress("comparing", total, unit="steps", every=30.0) as bar:

        def watch(name: str, step: int) -> None:
            before[name] = step
            bar.update(done=min(total, sum(before.values())), model=name)

        for group, reference in zip(groups, references, strict=True):
            on = data or at_hand(group[0][1].config.data)
            found.append(comparing.compare(group, reference, on, settings, crossing, watch))

    _write(found, html, png, output)
    output.table(sheet.rows(found), sheet.HEADER)
    if any(comparison.crossings for comparison in found):
        output.data("")
        output.table(sheet.cross_rows(found), sheet.CROSS_HEADER)
    for line in sheet.notes(found):
        output.say(line)
    for c in (c for comparison in found for c in comparison.contestants):
        if c.diverged:
            output.warn(f"{c.name}: {c.diverged}")
        if c.model.potential.backend.note:
            output.warn(f"{c.name}: {c.model.potential.backend.note}")
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

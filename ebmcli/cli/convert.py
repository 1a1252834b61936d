"""`ebm convert`: the authors' .pth files to our folders, and back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.storage.paths import typed_path


class To(StrEnum):
    """What a model becomes."""

    folder = "folder"
    pth = "pth"


class Sign(StrEnum):
    """Which outputs of a network are likely."""

    energy = "energy"
    logp = "logp"


class Regime(StrEnum):
    """How it was learned."""

    convergent = "convergent"
    non_convergent = "non-convergent"


def convert(
    source: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A .pth file; with --to pth, a model.")],
    to: Annotated[To, typer.Option("--to", help="A folder of ours, or a .pth with the state dict.")] = To.folder,
    out: options.Out = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="RECIPE", help="Energy scale and settings of training.", show_default=False),
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(
            "--step-size", metavar="E", min=1e-9, help="ε of training; the scale is then 2/E².", show_default=False
        ),
    ] = None,
    energy_scale: Annotated[
        float | None,
        typer.Option(
            "--energy-scale", metavar="S", min=1e-30, help="U = S · output, where it is not 2/ε².", show_default=False
        ),
    ] = None,
    sign: Annotated[
        Sign, typer.Option("--sign", help="Which outputs are likely: low ones (energy) or high ones (logp).")
    ] = Sign.energy,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="L of training, without a recipe.")] = 100,
    noise: Annotated[float, typer.Option("--noise", metavar="T", min=0.0, help="τ, without a recipe.")] = 1.0,
    regime: Annotated[
        Regime | None, typer.Option("--regime", help="Without a recipe.", show_default="by the network")
    ] = None,
    leak: Annotated[float, typer.Option("--leak", metavar="A", help="Slope of LeakyReLU, without a recipe.")] = 0.05,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            metavar="PX",
            min=1,
            help="Of the images, where the weights fit several.",
            show_default="28, 32, 64, …",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="Of a file that holds several: average, last, or the name they have in it.",
            show_default="the average, where there is one",
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn the authors' released weights (.pth) into a model, or a model into a .pth.

    The network, its width, channels and size are read off the weights; the energy scale is not in
    them: name the recipe, or the step size of training. No code in a file is run.
    """
    output = Output(json=json, quiet=quiet)
    if to is To.pth:
        _back(source, out, force, trust_code, output)
        return
    from ebmcli.models import convert as converting
    from ebmcli.models import state_dicts

    path = typed_path(source)
    read = state_dicts.read(path, weights)
    target = out or Path(path.stem)
    if recipe is not None:
        from ebmcli.recipe import load

        if step_size is not None:
            raise UsageError("--recipe tells the step size already", "leave out --step-size")
        settings = load(recipe)
        found = converting.recognise(read.weights, leak=settings.potential.leak, size=size or settings.data.image_size)
        config = converting.settings_of_recipe(found, settings, energy_scale)
        text = settings.dumps()
    else:
        found = converting.recognise(read.weights, leak=leak, size=size)
        own = Regime.convergent if found.network == "nonlocal" else Regime.non_convergent
        config = converting.settings_by_hand(
            found,
            step_size=step_size,
            energy_scale=energy_scale,
            steps=steps,
            noise=noise,
            regime=regime or own,
        )
        text = ""
    config = config.model_copy(update={"weights": read.kind})
    checksum = converting.write_folder(converting.signed(found, sign.value), config, target, text)
    c, h, w = found.shape
    for note in read.notes:
        output.say(f"{path.name}: {note}")
    output.say(
        f"{path.name}: {found.network} of width {found.arguments['width']}, {h}×{w}×{c}, leak "
        f"{config.arguments['leak']:g}, {sum(v.numel() for v in found.weights.values()):,} weights; "
        f"energy scale {config.energy_scale:g}, ε {config.step_size:g}, {config.steps} steps, {config.regime}: {target}"
    )
    output.say(f"next: ebm sample {target} --from noise")
    output.result({"out": target, "sha256": checksum, **config.model_copy(update={"name": target.name}).model_dump()})


def _back(source: str, out: Path | None, force: bool, trusted: bool, output: Output) -> None:
    from ebmcli.models import lookup
    from ebmcli.models.convert import write_pth

    model = lookup.load(source, trusted=trusted)
    target = out or Path(f"{lookup.label(source)}.pth")
    if target.is_dir() or (target.exists() and not force):
        raise EBMError(f"{target} exists", "give another --out" + ("" if target.is_dir() else ", or --force"))
    write_pth(model, target)
    config = model.config
    output.say(
        f"{target}: the state dict of {config.network} ({config.weights} weights); the energy scale "
        f"{config.energy_scale:g} (ε {config.step_size:g}) is not in it"
    )
    output.result({"out": target, "network": config.network, "energy_scale": config.energy_scale})

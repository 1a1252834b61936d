"""`ebm convert`: the authors' .pth files to our folders, and back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    from ebmcli.models.checkpoint import ModelConfig
    from ebmcli.models.convert import Recognised


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


Source = Annotated[
    str, typer.Argument(metavar="FILE|MODEL", help="A .pth file; with --to pth, the model to write as one.")
]
Target = Annotated[To, typer.Option("--to", help="Write a model folder, or a .pth file with the state dict.")]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Recipe that the weights were learned with: it tells the energy scale and all settings.",
        show_default=False,
    ),
]
StepSize = Annotated[
    float | None,
    typer.Option(
        "--step-size",
        metavar="E",
        min=1e-9,
        help="Step size ε of training, in pixel units; the energy scale is then 2/E².",
        show_default=False,
    ),
]
EnergyScale = Annotated[
    float | None,
    typer.Option(
        "--energy-scale",
        metavar="S",
        min=1e-30,
        help="Energy scale, U = S · output, where it is not 2/ε².",
        show_default=False,
    ),
]
SignOption = Annotated[
    Sign, typer.Option("--sign", help="Which outputs are likely: low ones (energy) or high ones (logp).")
]
Steps = Annotated[
    int, typer.Option("--steps", metavar="N", min=1, help="Langevin steps L of training, where no recipe tells them.")
]
Noise = Annotated[
    float, typer.Option("--noise", metavar="T", min=0.0, help="Noise τ of training, where no recipe tells it.")
]
RegimeOption = Annotated[
    Regime | None,
    typer.Option(
        "--regime",
        help="Whether chains were meant to converge, where no recipe tells it.",
        show_default="by the network",
    ),
]
Leak = Annotated[
    float,
    typer.Option("--leak", metavar="A", help="Slope of LeakyReLU below zero, where no recipe tells it."),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PX",
        min=1,
        help="Width of the images in pixels, where the weights fit several.",
        show_default="28, 32, 64, …",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Which weights of a file that holds several sets: average, last, or the name they have in it.",
        show_default="the average, where there is one",
    ),
]


def convert(
    source: Source,
    to: Target = To.folder,
    out: options.Out = None,
    recipe: RecipeOption = None,
    step_size: StepSize = None,
    energy_scale: EnergyScale = None,
    sign: SignOption = Sign.energy,
    steps: Steps = 100,
    noise: Noise = 1.0,
    regime: RegimeOption = None,
    leak: Leak = 0.05,
    size: Size = None,
    weights: Weights = None,
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
        found, config, text = converting.with_recipe(read.weights, load(recipe), energy_scale=energy_scale, size=size)
    else:
        given = {"step_size": step_size, "energy_scale": energy_scale, "steps": steps, "noise": noise}
        found, config, text = converting.by_hand(read.weights, leak=leak, size=size, regime=regime, **given)
    config = config.model_copy(update={"weights": read.kind, "name": target.resolve().name})
    checksum = converting.write_folder(converting.signed(found, sign.value), config, target, text)
    for note in read.notes:
        output.say(f"{path.name}: {note}")
    output.say(f"{path.name}: {_in_words(found, config)}: {target}")
    output.say(f"next: ebm sample {target} --from noise")
    output.result({"out": target, "sha256": checksum, **config.model_dump()})


def _in_words(found: Recognised, config: ModelConfig) -> str:
    c, h, w = found.shape
    return (
        f"{found.network} of width {found.arguments['width']}, {h}×{w}×{c}, leak {config.arguments['leak']:g}, "
        f"{sum(v.numel() for v in found.weights.values()):,} weights; energy scale {config.energy_scale:g}, "
        f"ε {config.step_size:g}, {config.steps} steps, {config.regime}"
    )


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

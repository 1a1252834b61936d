"""`ebm reconstruct`: starts of a short run that lead to given images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from torch import Tensor

    from ebmcli.models.generator import Generator

ROWS = 4
"""Moments that the picture shows, the last one included."""


class Gradient(StrEnum):
    """How the gradient comes back through the chain."""

    auto = "auto"
    exact = "exact"
    cheap = "cheap"


From = Annotated[
    str, typer.Option("--from", metavar="IMAGES", help="Images to reconstruct: data, or a path to your own.")
]
Iterations = Annotated[int, typer.Option("--iterations", metavar="N", min=0, help="Iterations of gradient descent.")]
GradientOption = Annotated[
    Gradient,
    typer.Option(
        "--gradient", help="exact goes back through the chain; cheap is equal to it for piecewise linear networks."
    ),
]
Rate = Annotated[float, typer.Option("--rate", metavar="R", min=1e-6, help="Length of the first step of descent.")]
Noise = Annotated[
    float | None,
    typer.Option(
        "--noise",
        metavar="T",
        min=0.0,
        help="Langevin noise τ, the same at each iteration; 0 for none.",
        show_default="the model's own",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PATH", help="The picture to write, PNG or SVG.", show_default="MODEL-reconstruction.png"
    ),
]


def reconstruct(
    model: options.Model = None,
    from_: From = "data",
    count: options.Count = 8,
    iterations: Iterations = 60,
    gradient: GradientOption = Gradient.auto,
    rate: Rate = 0.5,
    steps: options.Steps = None,
    step_size: options.StepSize = None,
    noise: Noise = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    out: Out = None,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the start from which a short run leads to an image, by gradient descent through the chain.

    Shows images, what the chains come to after some iterations, where they start, and the mean squared
    error a pixel on the scale of [-1, 1]. The exact gradient holds 2√steps states and one step's activations.
    """
    output = Output(json=json, quiet=quiet)
    from ebmcli.engine import device as devices
    from ebmcli.media import plots, refuse_foreign
    from ebmcli.models import lookup
    from ebmcli.models.generator import Generator
    from ebmcli.models.sampling import SampleSettings, metadata, starts

    name = model or lookup.default()
    target = out or Path(f"{lookup.label(name)}-reconstruction.png")
    if target.suffix.lower() not in plots.SUFFIXES:
        raise UsageError(f"--out {target} is no picture's name", f"pictures end in {' or '.join(plots.SUFFIXES)}")
    if from_ in ("noise", "bank"):
        raise UsageError(f"--from {from_} is no image to reconstruct", "give data, or a path to images")
    if target.suffix.lower() == ".png" or target.is_dir():
        refuse_foreign(target, force)
    cores.use(threads)
    loaded = lookup.load(model, device=devices.pick(device), backend=backend, trusted=trust_code)
    if loaded.config.channels not in (1, 3):
        raise EBMError(f"{name} is a model of points, not of images", "reconstruct images")
    settings = SampleSettings.of(
        loaded, start=from_, steps=steps, step_size=step_size, noise=noise, count=count, seed=seed, data=data
    )
    generator = Generator(loaded, steps, step_size, noise, seed)
    exact = gradient is Gradient.exact or (gradient is Gradient.auto and not generator.is_piecewise_linear)
    about = {
        **metadata(loaded, settings),
        "reconstruction": {"iterations": iterations, "gradient": "exact" if exact else "cheap", "rate": rate},
    }
    images = starts(loaded, settings)
    errors = _descend(generator, images, iterations, exact, rate, target, about, output)
    final = errors[-1]
    output.say(
        f"{name}: {count} images, {iterations} iterations of {generator.steps} steps, "
        f"{'exact' if exact else 'cheap (equal for this network)'} gradient; mean squared error a pixel "
        f"{final.mean():.4f} (from {final.min():.4f} to {final.max():.4f}): {target}"
    )
    output.result(
        {
            "out": target,
            "mean_squared_error": final.mean().item(),
            "errors": final.tolist(),
            "curve": errors.mean(dim=1).tolist(),
            **about,
        }
    )


def _descend(
    generator: Generator,
    images: Tensor,
    iterations: int,
    exact: bool,
    rate: float,
    target: Path,
    about: dict[str, object],
    output: Output,
) -> Tensor:
    """Go down, write the picture, and return the errors of each image [iterations + 1 n]."""
    import torch

    from ebmcli.models.generator import reconstruct as attempts

    moments = {round(iterations * (i / (ROWS - 1)) ** 2) for i in range(ROWS)}
    curve: list[Tensor] = []
    rows: dict[int, Tensor] = {}
    with output.progress("reconstructing", iterations + 1, unit="iterations", every=30.0) as bar:
        for attempt in attempts(generator, images, iterations, exact, rate):
            curve.append(attempt.best)
            if attempt.iteration in moments:
                rows[attempt.iteration] = attempt.x
            bar.update(mse=float(attempt.best.mean()))
    errors = torch.stack(curve)
    _picture(images, rows, attempt.z, errors, target, about)
    return errors


def _picture(
    images: Tensor, rows: dict[int, Tensor], z: Tensor, errors: Tensor, target: Path, about: dict[str, object]
) -> None:
    """Images over what became of them, and the error over the iterations."""
    import numpy as np
    import torch

    from ebmcli import media
    from ebmcli.media import plots

    shown = min(len(images), 10)
    labels = ["image", *(f"after {i}" for i in rows), "start z", "error"]
    final = list(rows.values())[-1]
    differs = (final - images).abs() - 1  # dark where right
    stack = torch.cat([part[:shown] for part in (images, *rows.values(), z, differs)])
    sheet = np.asarray(media.grid(stack, columns=shown, padding=1, scale=4).convert("RGB"))
    tall = 8.6 * sheet.shape[0] / sheet.shape[1]
    with plots.figure(9.4, tall + 2.4, rows=2, height_ratios=[tall, 2.0]) as (fig, (top, bottom)):
        top.imshow(sheet, interpolation="nearest")
        cell = sheet.shape[0] / len(labels)
        top.set_yticks([(i + 0.5) * cell for i in range(len(labels))], labels)
        top.set_xticks([])
        top.tick_params(length=0)
        for spine in top.spines.values():
            spine.set_visible(False)
        steps = range(len(errors))
        bottom.plot(steps, errors, color=plots.FAINT, linewidth=0.7)
        bottom.plot(steps, errors.mean(dim=1), color=plots.COLOURS[0], linewidth=2)
        bottom.set_yscale("log")
        bottom.set_xlabel("iteration")
        bottom.set_title("mean squared error a pixel: each image, and their mean")
        plots.save(fig, target, about)

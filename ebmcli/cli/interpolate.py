"""`ebm interpolate`: the images between pairs of starts of a short run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from PIL import Image

    from ebmcli.models.generator import Interpolation

COLUMNS = 10
"""Images of a pair in the strip."""


Pairs = Annotated[
    int, typer.Option("--pairs", "-n", metavar="N", min=1, help="Pairs of starts, a row of the strip each.")
]
Frames = Annotated[
    int, typer.Option("--frames", metavar="N", min=3, help="Images from one end of a pair to the other, both included.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PATH", help="The strip to write, a PNG.", show_default="MODEL-interpolation.png"
    ),
]
Video = Annotated[
    Path | None,
    typer.Option(
        "--video", metavar="PATH", help="The film to write: there and back.", show_default="beside the strip, .mp4"
    ),
]
Fps = Annotated[float, typer.Option("--fps", metavar="F", min=1, max=120, help="Frames a second of the film.")]


def interpolate(
    model: options.Model = None,
    pairs: Pairs = 6,
    frames: Frames = 64,
    steps: options.Steps = None,
    step_size: options.StepSize = None,
    noise: options.Noise = None,
    seed: options.Seed = 0,
    out: Out = None,
    video: Video = None,
    fps: Fps = 30.0,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Walk between starts of a short run: its chains as a generator of images.

    z = sin θ·z1 + cos θ·z2 with θ at equal distances, and one Langevin noise for all images of a pair.
    A strip with a pair in each row, and a film.
    """
    output = Output(json=json, quiet=quiet)

    from ebmcli import media
    from ebmcli.engine import device as devices
    from ebmcli.media import refuse_foreign
    from ebmcli.media.video import check_name, save_video
    from ebmcli.models import lookup
    from ebmcli.models.generator import Generator
    from ebmcli.models.generator import interpolate as walk
    from ebmcli.models.sampling import SampleSettings, metadata

    name = model or lookup.default()
    strip = out or Path(f"{lookup.label(name)}-interpolation.png")
    film = video or strip.with_suffix(".mp4")
    if strip.suffix.lower() != ".png":
        raise UsageError(f"--out {strip} does not end in .png", f"give a name such as {strip.with_suffix('.png').name}")
    check_name(film, fps)
    for path in (strip, film):
        refuse_foreign(path, force)
    cores.use(threads)
    loaded = lookup.load(model, device=devices.pick(device), backend=backend, trusted=trust_code)
    if loaded.config.channels not in (1, 3):
        raise EBMError(f"{name} is a model of points, not of images", "interpolate models of images")
    generator = Generator(loaded, steps, step_size, noise, seed)
    with output.progress("interpolating", pairs, unit="pairs", every=30.0) as bar:
        for done in walk(generator, pairs, frames):
            found = done
            bar.update()
    settings = SampleSettings.of(
        loaded, start="noise", steps=steps, step_size=step_size, noise=noise, count=pairs, seed=seed
    )
    about = {**metadata(loaded, settings), "interpolation": {"pairs": pairs, "frames": frames}}
    shown = found.at(COLUMNS)
    media.save_png(media.grid(shown.x.flatten(0, 1), columns=len(shown.angles), width=1000), strip, about)
    made = save_video(film, _frames(found), fps, about)
    how = f"{name}: {pairs} pairs, {frames} images each, {generator.steps} steps, seed {seed}"
    smooth = (
        f"the largest step between neighbours is {shown.jump.max():.2g} times a pair's median in the strip, "
        f"{found.jump.max():.2g} times in the film, where the median changes a pixel by {found.steps.median():.3g}"
    )
    output.say(f"{how}; {smooth}: {strip}, {film} ({made.seconds:.3g} s)")
    output.result(
        {
            "out": strip,
            "video": film,
            "step_median": found.steps.median().item(),
            "largest_over_median": found.jump.tolist(),
            "strip": {"images": len(shown.angles), "largest_over_median": shown.jump.tolist()},
            **about,
        }
    )


def _frames(found: Interpolation) -> Iterator[Image.Image]:
    """There and back, all pairs at once, with a mark that shows θ."""
    from PIL import Image, ImageDraw

    from ebmcli.media.curve import BACKDROP, LINES, RULE
    from ebmcli.media.film import Box, sheet

    margin, rail = 36, 44
    count = found.x.shape[1]
    for i in [*range(count), *range(count - 2, 0, -1)]:
        images = sheet(found.x[:, i], Box(0, 0, 1208, 640))
        width, height = images.width + 2 * margin, images.height + 2 * margin + rail
        frame = Image.new("RGB", (width, height), BACKDROP)
        frame.paste(images, (margin, margin))
        draw = ImageDraw.Draw(frame)
        y, x = height - margin, margin + 8 + round((width - 2 * margin - 16) * i / (count - 1))
        draw.line((margin, y, width - margin, y), fill=RULE, width=3)
        draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=LINES[0])
        yield frame

"""`ebm chain-video`: chains as a film, of one model or of two side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli._version import __version__
from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    from ebmcli.models.checkpoint import Checkpoint

LONGER = 10
"""Steps of a film, in lengths of the chains of training: long enough to see where short chains would go."""
REST = 1.5
"""Seconds that the end is shown; at most a sixth of the film."""
FROZEN = 0.01
"""An acceptance below this is worth a warning."""
POINTS = 2000
"""Chains of a 2-D toy."""
SMALLEST = 200
"""Pixels that a side of a frame has at least."""
IMAGES = {1: 16, 2: 24}
"""Chains of images, with one model and with two: what fills the frame."""


def chain_video(
    model: options.Model = None,
    other: Annotated[
        str | None,
        typer.Argument(metavar="MODEL2", help="Another, beside it: same start, same noise.", show_default=False),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="START", help="noise, data, bank, or a path to images.", show_default="as sample"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=0, help="Steps.", show_default="10 times the model's own")
    ] = None,
    pace: Annotated[
        str,
        typer.Option(
            "--pace", metavar="PACE", help="linear, log (the first steps slowly) or ease (slow at both ends)."
        ),
    ] = "log",
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", metavar="N", min=1, help="Chains.", show_default="what fills the frame"),
    ] = None,
    kernel: options.Kernel = "langevin",
    step_size: options.StepSize = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", metavar="T", min=0.0, help="τ of langevin.", show_default="the model's own"),
    ] = None,
    temperature: options.Temperature = None,
    data: options.Data = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WxH", help="Pixels, wide or tall.", show_default="1280x720, others than mp4 800x450"
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps", metavar="F", min=1, max=120, help="Frames a second.", show_default="30, others than mp4 15"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.1, help="How long.")] = 8.0,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="A film: .mp4, .gif, .webp or .apng.", show_default=False),
    ] = None,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Film chains: their images, a step counter, their energies beside the data's.

    MODEL may also be the folder of a long run.

    With two models both start from the same images and use the same noise: a convergent model beside
    one that is not shows what long chains come to. The file's name decides the format.
    """
    output = Output(json=json, quiet=quiet)

    from ebmcli.engine import device as devices
    from ebmcli.longrun import films
    from ebmcli.media import refuse_foreign
    from ebmcli.media.video import check_name, save_video
    from ebmcli.models import lookup
    from ebmcli.models.sampling import SampleSettings, metadata, starts

    names = [model or lookup.default(), *([other] if other else [])]
    target = out or Path("-vs-".join(lookup.label(n) for n in names) + "-chains.mp4")
    large = target.suffix.lower() == ".mp4"
    rate = fps or (30.0 if large else 15.0)
    frame = parse_size(size or ("1280x720" if large else "800x450"))
    check_name(target, rate)
    refuse_foreign(target, force)
    frames = max(2, round(seconds * rate))
    films.check_pace(pace)
    rest = (0, min(round(REST * rate), frames // 6))

    cores.use(threads)
    if films.is_longrun(names):
        own = {"from": from_, "steps": steps, "step-size": step_size, "noise": noise, "temperature": temperature}
        _as_it_was(names, [name for name, value in own.items() if value is not None])
        run = films.kept(typed_path(names[0]))
        loaded: list[Checkpoint] = []
        total, trained, titles = run.steps, run.trained, [run.title]
        many = count or IMAGES[1]
        about = {"made_by": f"ebm {__version__}", "longrun": run.title.name, "count": many, "pace": pace}
    else:
        place = devices.pick(device)
        loaded = [lookup.load(n, device=place, backend=backend, trusted=trust_code) for n in names]
        _same_shape(names, loaded)
        kernels = [films.make_kernel(kernel, m, step_size, noise, temperature) for m in loaded]
        toy = loaded[0].config.is_points
        settings = SampleSettings.of(
            loaded[0],
            start=from_,
            steps=LONGER * max(m.config.steps for m in loaded) if steps is None else steps,
            count=count or (POINTS if toy else IMAGES[len(loaded)]),
            seed=seed,
            step_size=step_size,
            noise=noise,
            temperature=temperature,
            data=data,
        )
        labels = [lookup.label(n) for n in names]
        total, trained, many = settings.steps, loaded[0].config.steps, settings.count
        titles = [films.title(n, m, k, settings, data) for n, m, k in zip(labels, loaded, kernels, strict=True)]
        about = {**metadata(loaded[0], settings), "models": labels, "kernel": kernel, "pace": pace}

    at = films.schedule(total, frames, pace, rest)
    with output.progress("filming", total * len(names), unit="steps", every=30.0) as bar:

        def tell(done: int) -> None:
            bar.update(done=done)

        chains = (
            films.scenes(kernels, starts(loaded[0], settings), seed, at, tell)
            if loaded
            else films.kept_scenes(run, at, many, tell)
        )
        reel = films.Reel(chains, titles, total, pace, frame, trained, films.reach(loaded, data))
        film = save_video(target, reel, rate, about)

    assert reel.last is not None
    panels = reel.last.panels
    backends = ", ".join(dict.fromkeys(m.potential.backend.name for m in loaded))
    output.say(
        f"{' and '.join(t.name for t in titles)}: {many} chains, {titles[0].about}, {total:,} steps"
        f"{f', backend {backends}' if backends else ''}: {target}, {film.frames} frames, {film.seconds:.3g} s, "
        f"{film.size[0]}×{film.size[1]}"
    )
    for name, panel, m in zip(names, panels, loaded, strict=False):
        if panel.acceptance is not None and panel.acceptance < FROZEN:
            output.warn(f"{name}: {panel.acceptance:.1%} of the last proposals accepted: take a smaller --step-size")
        if m.potential.backend.note:
            output.warn(m.potential.backend.note)
    output.result(
        {
            "out": target,
            "frames": film.frames,
            "seconds": film.seconds,
            "width": film.size[0],
            "height": film.size[1],
            "bytes": target.stat().st_size,
            "energy_mean": [p.energy.mean().item() for p in panels],
            "acceptance": [p.acceptance for p in panels],
            **about,
        }
    )


def _as_it_was(names: list[str], given: list[str]) -> None:
    """A long run is filmed as it was run, and alone."""
    if len(names) > 1:
        raise UsageError("a long run is filmed alone", "give one folder, or two models")
    if given:
        raise UsageError(f"--{given[0]} is for a model: a long run is filmed as it was run", f"leave out --{given[0]}")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height, px, of WxH."""
    found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if not found or min(map(int, found.groups())) < SMALLEST:
        raise UsageError(
            f"--size {text!r} is not a size", f"give WIDTHxHEIGHT of {SMALLEST} to 9999 px, such as 1280x720"
        )
    return int(found[1]), int(found[2])


def _same_shape(names: list[str], loaded: list[Checkpoint]) -> None:
    shapes = ["×".join(map(str, (*m.config.shape[1:], m.config.channels))) for m in loaded]
    if len(set(shapes)) > 1:
        raise EBMError(
            f"{names[0]} is a model of {shapes[0]}, {names[1]} of {shapes[1]}: they cannot start from the same images",
            "give two models of one size",
        )

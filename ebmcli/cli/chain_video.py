"""`ebm chain-video`: chains as a film, of one model or of two side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.longrun.films import Scene, Subject
    from ebmcli.media.video import Film

END_SECONDS = 1.5
"""How long the end is shown; at most a sixth of the film."""
FROZEN_ACCEPTANCE = 0.01
"""An acceptance below this is worth a warning."""
SMALLEST_SIDE = 200
"""Least width and height of a frame, px."""

Other = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL2",
        help="A second model beside the first, from the same start on the same noise.",
        show_default=False,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="START",
        help="Where the chains start: noise, data, bank, or a path to images.",
        show_default="bank, where the model has one, else noise",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", metavar="N", min=0, help="Steps of each chain.", show_default="10 times the steps of training"
    ),
]
Pace = Annotated[
    str,
    typer.Option(
        "--pace",
        metavar="PACE",
        help="How steps pass: linear, log (the first steps slowly) or ease (slow at both ends).",
    ),
]
Count = Annotated[
    int | None,
    typer.Option("--count", "-n", metavar="N", min=1, help="Chains in the film.", show_default="what fills the frame"),
]
Noise = Annotated[
    float | None,
    typer.Option(
        "--noise", metavar="T", min=0.0, help="Factor τ of the noise of langevin.", show_default="the model's own"
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Width and height of a frame in pixels.",
        show_default="1280x720 as mp4, else 800x450",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option("--fps", metavar="F", min=1, max=120, help="Frames in a second.", show_default="30 as mp4, else 15"),
]
Seconds = Annotated[float, typer.Option("--seconds", metavar="S", min=0.1, help="Length of the film in seconds.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="PATH", help="The film's file: .mp4, .gif, .webp or .apng.", show_default=False
    ),
]


def chain_video(
    model: options.Model = None,
    other: Other = None,
    from_: From = None,
    steps: Steps = None,
    pace: Pace = "log",
    count: Count = None,
    kernel: options.Kernel = "langevin",
    step_size: options.StepSize = None,
    noise: Noise = None,
    temperature: options.Temperature = None,
    data: options.Data = None,
    size: Size = None,
    fps: Fps = None,
    seconds: Seconds = 8.0,
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
    """Film chains: their images, a step counter, and their energies beside the data's.

    MODEL may also be the folder of a long run, which is filmed as it was run.

    With two models, both start from the same images and use the same noise: a convergent model beside
    one that is not shows what long chains come to. The file's name decides the format.
    """
    output = Output(json=json, quiet=quiet)

    from ebmcli.longrun import film_subjects, films
    from ebmcli.media import refuse_foreign
    from ebmcli.media.video import check_name
    from ebmcli.models import lookup

    names = [model or lookup.default(), *([other] if other else [])]
    target = out or Path("-vs-".join(lookup.label(name) for name in names) + "-chains.mp4")
    is_mp4 = target.suffix.lower() == ".mp4"
    rate = fps or (30.0 if is_mp4 else 15.0)
    frame = parse_size(size or ("1280x720" if is_mp4 else "800x450"))
    check_name(target, rate)
    refuse_foreign(target, force)
    films.check_pace(pace)
    cores.use(threads)
    chosen = {"start": from_, "steps": steps, "step_size": step_size, "noise": noise, "temperature": temperature}
    if film_subjects.is_longrun(names):
        subject = film_subjects.of_long_run(names, count, **chosen)
    else:
        models = _load(names, device, backend=backend, trusted=trust_code)
        subject = film_subjects.of_models(names, models, kernel, count=count, seed=seed, data=data, **chosen)
    about = {**subject.about, "pace": pace}
    film, last = _film(subject, target, frame, rate, seconds, pace, about, output)
    _tell(subject, names, target, film, last, about, output)


def _load(names: list[str], device: str, **how: Any) -> list[Any]:
    """The models, on one device."""
    from ebmcli.engine import device as devices
    from ebmcli.models import lookup

    place = devices.pick(device)
    return [lookup.load(name, device=place, **how) for name in names]


def _film(
    subject: Subject,
    target: Path,
    frame: tuple[int, int],
    rate: float,
    seconds: float,
    pace: str,
    about: dict[str, Any],
    output: Output,
) -> tuple[Film, Scene]:
    """Write the film, with a bar; returns what it is, and its last scene."""
    from ebmcli.longrun import films
    from ebmcli.media.video import save_video

    frames = max(2, round(seconds * rate))
    at = films.schedule(subject.steps, frames, pace, (0, min(round(END_SECONDS * rate), frames // 6)))
    with output.progress("filming", subject.steps * len(subject.titles), unit="steps", every=30.0) as bar:
        scenes = subject.scenes(at, lambda done: bar.update(done=done))
        reel = films.Reel(scenes, subject.titles, subject.steps, pace, frame, subject.trained, subject.reach)
        film = save_video(target, reel, rate, about)
    assert reel.last is not None
    return film, reel.last


def _tell(
    subject: Subject, names: list[str], target: Path, film: Film, last: Scene, about: dict[str, Any], output: Output
) -> None:
    """Say what was filmed, and what is doubtful about it."""
    backends = ", ".join(dict.fromkeys(model.potential.backend.name for model in subject.models))
    output.say(
        f"{' and '.join(title.name for title in subject.titles)}: {subject.chains} chains, {subject.titles[0].about}, "
        f"{subject.steps:,} steps{f', backend {backends}' if backends else ''}: {target}, {film.frames} frames, "
        f"{film.seconds:.3g} s, {film.size[0]}×{film.size[1]}"
    )
    for name, panel, model in zip(names, last.panels, subject.models, strict=False):
        if panel.acceptance is not None and panel.acceptance < FROZEN_ACCEPTANCE:
            output.warn(f"{name}: {panel.acceptance:.1%} of the last proposals accepted: take a smaller --step-size")
        if model.potential.backend.note:
            output.warn(model.potential.backend.note)
    output.result(
        {
            "out": target,
            "frames": film.frames,
            "seconds": film.seconds,
            "width": film.size[0],
            "height": film.size[1],
            "bytes": target.stat().st_size,
            "energy_mean": [panel.energy.mean().item() for panel in last.panels],
            "acceptance": [panel.acceptance for panel in last.panels],
            **about,
        }
    )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels of a text such as 1280x720.

    Raises:
        UsageError: it is no such text, or a side is too short.
    """
    found = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if not found or min(map(int, found.groups())) < SMALLEST_SIDE:
        raise UsageError(
            f"--size {text!r} is not a size", f"give WIDTHxHEIGHT of {SMALLEST_SIDE} to 9999 px, such as 1280x720"
        )
    return int(found[1]), int(found[2])

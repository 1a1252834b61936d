"""`ebm map --from A --to B` and `ebm map --recall PICTURE`: strips and curves of single paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ebmcli.landscape.mapping import MapSettings
    from ebmcli.landscape.subject import Subject

FPS = 24


def between(
    subject: Subject, one: Path, two: Path, settings: MapSettings, out: Path | None, force: bool, output: Output
) -> None:
    """Write the ways between two pictures as a picture, their energies as curves, and the lowest way as a film."""
    from ebmcli import media
    from ebmcli.landscape import ways
    from ebmcli.landscape.barriers import BETWEEN
    from ebmcli.landscape.film import frames
    from ebmcli.landscape.subject import picture
    from ebmcli.media import refuse_foreign
    from ebmcli.media.video import save_video
    from ebmcli.models.lookup import label

    target = _target(out, f"{label(subject.name)}-{one.stem}-{two.stem}.png", force)
    film = target.with_suffix(".mp4")
    refuse_foreign(film, force)
    first, second = picture(subject, one), picture(subject, two)
    temperature = settings.temperature or ways.HEAT * subject.potential.temperature
    with _patience(output, "looking for a way"):
        found = ways.between(subject.potential, first, second, settings, temperature)
    rows, names = [found.path], ["lowest path"]
    for trip, name in ((found.there, "there"), (found.back, "back")):
        if trip is None:
            output.warn(f"no way {name} was found")
            continue
        rows.append(trip.path if name == "there" else trip.path.flip(0))
        names.append(f"travelled {name}, α {trip.strength:.3g}")
    made = {**_made(subject, settings, temperature), "rows": names}
    media.save_png(media.grid(_rows(rows), columns=len(rows[0]), width=1400), target, made)

    along = [(k / BETWEEN, float(u)) for k, u in enumerate(found.energy)]
    curves = {names[0]: along}
    for name, trip in zip(names[1:], [t for t in (found.there, found.back) if t is not None], strict=True):
        energy = trip.energy if "there" in name else trip.energy.flip(0)
        curves[name] = list(enumerate(energy.tolist()))
    curve = target.with_name(f"{target.stem}-energy.png")
    _curves(curves, f"picture on the way from {one.stem} to {two.stem}", curve, made)
    save_video(film, frames(found.path.cpu(), found.energy.cpu()), FPS, made)
    top = float(found.energy.max())
    output.say(
        f"{subject.name}: highest energy {top:.6g}, {top - found.ends[0]:.4g} above {one.name}, "
        f"{top - found.ends[1]:.4g} above {two.name}: {target}, {curve}, {film}"
    )
    output.result(
        {
            "out": target,
            "curve": curve,
            "video": film,
            "barrier": top,
            "ends": found.ends,
            "energy": found.energy,
            "there": None if found.there is None else {"alpha": found.there.strength, "top": found.there.top},
            "back": None if found.back is None else {"alpha": found.back.strength, "top": found.back.top},
            **made,
        }
    )


def recall(
    subject: Subject, damaged: Path, settings: MapSettings, out: Path | None, force: bool, output: Output
) -> None:
    """Write a picture's relaxation as a strip, the state it ends in, and the energy on the way."""
    from ebmcli import media
    from ebmcli.landscape.subject import picture
    from ebmcli.landscape.ways import HEAT, relax
    from ebmcli.models.lookup import label

    target = _target(out, f"{label(subject.name)}-recall-{damaged.stem}.png", force)
    x = picture(subject, damaged)
    temperature = settings.temperature or HEAT * subject.potential.temperature
    heated, cooled = settings.chain_steps, settings.quench_steps
    with _patience(output, "recalling"):
        relaxed = relax(subject.potential, x, settings.step_size, heated, cooled, temperature, settings.seed)
    made = {**_made(subject, settings, temperature), "steps": relaxed.steps}
    media.save_png(media.grid(relaxed.frames, columns=len(relaxed.frames), width=1400), target, made)
    curve = target.with_name(f"{target.stem}-energy.png")
    _curves({"energy": list(enumerate(relaxed.energy.tolist()))}, "step", curve, made)
    first, last = float(relaxed.energy[0]), float(relaxed.energy[-1])
    moved = float((relaxed.frames[-1] - relaxed.frames[0]).norm())
    output.say(
        f"{subject.name}: {heated} steps at T {temperature:g}, {cooled} of descent; energy {first:.6g} to {last:.6g}, "
        f"moved {moved:.3g}: {target}, {curve}"
    )
    output.result({"out": target, "curve": curve, "energy": [first, last], "moved": moved, **made})


def _target(out: Path | None, name: str, force: bool) -> Path:
    """Where the strip goes; only what ebm wrote is replaced without --force."""
    from ebmcli.media import read_metadata

    target = out or Path(name)
    if target.suffix.lower() != ".png":
        raise UsageError(
            f"--out {target} does not end in .png", f"give a name such as {target.with_suffix('.png').name}"
        )
    for path in (target, target.with_name(f"{target.stem}-energy.png")):
        if path.exists() and not force:
            try:
                read_metadata(path)
            except EBMError as error:
                raise EBMError(f"{path} exists and was not written by ebm", "give another --out, or --force") from error
    return target


def _made(subject: Subject, settings: MapSettings, temperature: float) -> dict[str, Any]:
    from dataclasses import asdict

    from ebmcli._version import __version__

    own = {**asdict(settings), "temperature": temperature}
    return {"made_by": f"ebm {__version__}", **subject.facts, "settings": own}


def _rows(paths: list[Tensor]) -> Tensor:
    import torch

    return torch.cat([path.cpu() for path in paths])


def _curves(curves: dict[str, list[Any]], xlabel: str, path: Path, made: dict[str, Any]) -> None:
    from ebmcli.media import plots

    with plots.figure(7, 3.2) as (fig, axes):
        for number, (name, points) in enumerate(curves.items()):
            colour, width = plots.COLOURS[number], 1.8 if number == 0 else 1.0
            axes.plot(*zip(*points, strict=True), color=colour, lw=width, label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("energy U")
        if len(curves) > 1:
            axes.legend()
        plots.save(fig, path, made)


@contextmanager
def _patience(output: Output, words: str) -> Iterator[None]:
    """A bar without an end."""
    with output.progress(words, None, unit="ways"):
        yield

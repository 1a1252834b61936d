"""What films are of: chains of one model or of two, run for the film, or a long run that was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli import media
from ebmcli._version import __version__
from ebmcli.errors import EBMError, UsageError
from ebmcli.evaluation.kernels import make_kernel
from ebmcli.longrun.films import Panel, Scene, Subject, scenes
from ebmcli.longrun.folder import FACTS, LongRun
from ebmcli.media.film import Title
from ebmcli.models import lookup
from ebmcli.models.checkpoint import Checkpoint, settings_of
from ebmcli.models.sampling import SampleSettings, metadata, starts
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Kernel
from ebmcli.storage.paths import typed_path

TIMES_TRAINED = 10
"""Steps of a film, in lengths of the chains of training: long enough to see where short chains would go."""
POINT_COUNT = 2000
"""Chains of a 2-D toy."""
IMAGE_COUNT = {1: 16, 2: 24}
"""Chains of images by the number of models: as many as fill the frame."""


# Chains that are run for the film


def of_models(names: Sequence[str], models: Sequence[Checkpoint], kernel: str, **chosen: Any) -> Subject:
    """Chains of one model, or of two from the same start and on the same noise.

    Args:
        names: what each model was called on the command line.
        models: of one shape.
        kernel: what moves the chains.
        chosen: fields of `SampleSettings`; None leaves the first model's own.

    Raises:
        UsageError: there is no such kernel, or a noise is chosen for one that has none.
        EBMError: the models are of different shapes; or as `sampling.starts`.
    """
    _check_shapes(names, models)
    labels = [lookup.label(name) for name in names]
    count = POINT_COUNT if models[0].config.is_points else IMAGE_COUNT[len(models)]
    steps = TIMES_TRAINED * max(model.config.steps for model in models)
    given = {key: value for key, value in chosen.items() if value is not None}
    settings = SampleSettings.of(models[0], **{"count": count, "steps": steps, **given})
    kernels = [_kernel(kernel, model, given) for model in models]
    titles = [_title(*each, settings) for each in zip(labels, models, kernels, strict=True)]

    def made(at: Sequence[int], progress: Callable[[int], None]) -> Iterator[Scene]:
        x = starts(models[0], settings).to(models[0].potential.device)
        return scenes(kernels, x, settings.seed, at, progress)

    return Subject(
        titles=tuple(titles),
        steps=settings.steps,
        trained=models[0].config.steps,
        chains=settings.count,
        reach=_reach(models[0], settings.data),
        scenes=made,
        about={**metadata(models[0], settings), "models": labels, "kernel": kernel},
        models=tuple(models),
    )


def _check_shapes(names: Sequence[str], models: Sequence[Checkpoint]) -> None:
    shapes = ["×".join(map(str, (*model.config.shape[1:], model.config.channels))) for model in models]
    if len(set(shapes)) > 1:
        raise EBMError(
            f"{names[0]} is a model of {shapes[0]}, {names[1]} of {shapes[1]}: they cannot start from the same images",
            "give two models of one size",
        )


def _kernel(name: str, model: Checkpoint, given: dict[str, Any]) -> Kernel[Any]:
    """The kernel with the model's own step size, temperature and noise, where none are given."""
    config = model.config
    noise = given.get("noise", config.noise if name == "langevin" else None)
    step_size, temperature = given.get("step_size", config.step_size), given.get("temperature", config.temperature)
    return make_kernel(name, model, step_size, temperature, noise=noise)


def _title(label: str, model: Checkpoint, kernel: Kernel[Any], settings: SampleSettings) -> Title:
    """What a film says of a model: its name, its kernel's settings, and the data's energy under it."""
    words = [f"ε {kernel.step_size:g}"]
    if hasattr(kernel, "noise"):
        words.append(f"τ {kernel.noise:g}")
    if kernel.temperature != 1:
        words.append(f"T {kernel.temperature:g}")
    words.append(f"from {settings.record()['start']}, seed {settings.seed}")
    return Title(label, ", ".join(words), _data_energy(model, settings.data))


def _data_energy(model: Checkpoint, data: str | None, count: int = 256) -> tuple[float, float] | None:
    """Mean and standard deviation of the data's energy, with the noise it had in training; None without the data.

    Args:
        model: that gives the energy.
        data: the images, where the model's own are not in the package.
        count: how many images are taken.
    """
    try:
        x = starts(model, SampleSettings.of(model, start="data", count=count, data=data))
    except EBMError:
        if data is not None:
            raise
        return None
    z = Stream(0, Purpose.DATA_NOISE).normal(torch.arange(count), 0, model.config.shape)
    energy = model.potential.energy((x + model.config.data_noise * z).to(model.potential.device)).double()
    return float(energy.mean()), float(energy.std())


def _reach(model: Checkpoint, data: str | None) -> float:
    """How far from 0 the picture of 2-D points goes: a little further than the data does."""
    if not model.config.is_points:
        return 1.5
    try:
        points = starts(model, SampleSettings.of(model, start="data", count=1000, data=data))
    except EBMError:
        return 2.0
    return 1.25 * float(points.abs().max())


# A long run that was kept


def is_longrun(names: Sequence[str]) -> bool:
    """Whether one of these names is the folder of a long run."""
    return any((typed_path(name) / FACTS).is_file() for name in names)


def of_long_run(names: Sequence[str], count: int | None, **chosen: Any) -> Subject:
    """A long run as it was run, finished or not.

    Args:
        names: its folder alone.
        count: chains that are shown at most; None for as many as fill the frame.
        chosen: settings of chains, which have to be None here.

    Raises:
        UsageError: there are two names, or settings were chosen.
        EBMError: it has no images yet, or is damaged.
    """
    if len(names) > 1:
        raise UsageError("a long run is filmed alone", "give one folder, or two models")
    for field, value in chosen.items():
        if value is not None:
            raise UsageError(f"`{field}` is for a model: a long run is filmed as it was run", f"leave out `{field}`")
    kept, shown = read_kept(typed_path(names[0])), count or IMAGE_COUNT[1]

    def made(at: Sequence[int], progress: Callable[[int], None]) -> Iterator[Scene]:
        return kept_scenes(kept, at, shown, progress)

    about = {"made_by": f"ebm {__version__}", "longrun": kept.title.name, "count": shown}
    return Subject((kept.title,), kept.steps, kept.trained, shown, 1.5, made, about)


class Kept(NamedTuple):
    """A long run on the disk, as a film needs it."""

    run: LongRun
    title: Title
    steps: int
    """the last step that was made"""
    trained: int | None
    """L of the model's training, where the model's file is still there"""


def read_kept(folder: Path) -> Kept:
    """The long run in a folder.

    Raises:
        EBMError: it has no images yet, or is damaged.
    """
    run = LongRun.open(folder)
    facts, settings = run.facts, run.settings
    steps = max((record.step for record in run.records()), default=0)
    if not run.images():
        raise EBMError(
            f"the long run in {folder} has kept no images yet", f"go on with it: ebm longrun --resume {folder}"
        )
    start = settings.start if settings.start in ("data", "noise", "bank") else "files"
    about = f"{settings.kernel}, ε {facts['step_size']:.3g}, from {start}, seed {settings.seed}"
    title = Title(lookup.label(facts["model_name"]), about, _kept_data(run))
    return Kept(run, title, steps, _trained(facts["model"]))


def _trained(model: str) -> int | None:
    """L of training, from the settings in the model's file; None where it is not on this disk, or no model."""
    if model not in lookup.bundled() and not typed_path(model).exists():
        return None
    try:
        return settings_of(lookup.find(model)).steps
    except EBMError:  # the film goes without that mark
        return None


def _kept_data(run: LongRun) -> tuple[float, float] | None:
    """Mean and standard deviation of the data's energy; None for a long run that was not judged."""
    try:
        measured = run.result["measured"]
        return float(measured["energy_data"]["value"]), float(measured["energy_data_sd"])
    except (EBMError, KeyError, TypeError, ValueError):
        return None


def kept_scenes(kept: Kept, steps: Sequence[int], count: int, progress: Callable[[int], None]) -> Iterator[Scene]:
    """The newest images and energies of the first `count` chains at each of `steps`.

    Args:
        kept: the long run.
        steps: in increasing order.
        count: chains that are shown at most.
        progress: told the step of each scene.

    Raises:
        EBMError: a file of the long run is damaged.
    """
    images, records = kept.run.images(), kept.run.records()
    energy, ahead, panel = torch.zeros(1), next(records, None), None
    at = -1
    for target in steps:
        while ahead is not None and ahead.step <= target:
            energy = torch.tensor(ahead.energy[: kept.run.settings.chains][:count])
            ahead = next(records, None)
        newer = at
        while newer + 1 < len(images) and images[newer + 1][0] <= max(target, images[0][0]):
            newer += 1
        if newer != at or panel is None:
            at = newer
            panel = Panel(_read_images(images[at][1], count), energy)
        progress(target)
        yield Scene(target, (panel._replace(energy=energy),))


def _read_images(path: Path, count: int) -> Tensor:
    """The first images [n c h w] of a file; points get a height and a width of 1."""
    images = torch.from_numpy(media.read_images(path)[:count])
    return images[:, :, None, None] if images.dim() == 2 else images

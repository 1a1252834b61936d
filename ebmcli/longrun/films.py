"""Films of chains: which step each frame shows, and the chains at that step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ebmcli import media
from ebmcli.errors import DivergedError, EBMError, UsageError
from ebmcli.longrun import Folder
from ebmcli.longrun.folder import FACTS
from ebmcli.media.curve import Mark
from ebmcli.media.film import Sights, Stage, Title
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.models.lookup import label, load
from ebmcli.models.sampling import SampleSettings, starts
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import KERNELS, Kernel, Path, run
from ebmcli.storage.paths import typed_path

PIECE = 500
"""Steps made in one go, so that a long way between two frames can be interrupted and shows progress."""


class Panel(NamedTuple):
    """The chains of one model at one moment."""

    x: Tensor
    """[n c h w] on the CPU"""
    energy: Tensor
    """U [n] on the CPU"""
    acceptance: float | None = None
    """mean probability of acceptance since the last scene, of kernels with a test"""


class Scene(NamedTuple):
    """What a frame shows."""

    step: int
    panels: tuple[Panel, ...]


class Pace(NamedTuple):
    """How steps pass with time: both functions map [0, 1] to [0, 1] and are each other's inverse."""

    steps: Callable[[float, int], float]
    """share of the time, steps in all -> share of the steps"""
    time: Callable[[float, int], float]
    """share of the steps, steps in all -> share of the time"""


PACES: dict[str, Pace] = {
    "linear": Pace(lambda u, n: u, lambda s, n: s),
    "log": Pace(
        lambda u, n: ((n + 1) ** u - 1) / n if n else 0.0,
        lambda s, n: math.log1p(s * n) / math.log1p(n) if n else 0.0,
    ),
    # Slow at both ends: 3u² − 2u³ and its inverse.
    "ease": Pace(
        lambda u, n: u * u * (3 - 2 * u),
        lambda s, n: 0.5 - math.sin(math.asin(max(-1.0, min(1.0, 1 - 2 * s))) / 3),
    ),
}
"""`linear`: the same number of steps each second; `log`: the first steps slowly; `ease`: slow at both ends."""


def check_pace(pace: str) -> None:
    """Nothing, if there is such a pace.

    Raises:
        UsageError: there is none.
    """
    if pace not in PACES:
        raise UsageError(f"--pace {pace!r} is not known", f"use {', '.join(PACES)}")


def schedule(steps: int, frames: int, pace: str, rest: tuple[int, int] = (0, 0)) -> list[int]:
    """The step that each of `frames` ≥ 1 frames shows: from 0 to `steps`, never backwards.

    Args:
        steps: of the chains, ≥ 0.
        frames: in all.
        pace: a key of `PACES`.
        rest: how many more frames show the start, and how many the end; they are among `frames`.

    Raises:
        UsageError: unknown pace.
    """
    check_pace(pace)
    first, last = rest
    moving = max(1, frames - first - last)
    shares = [i / (moving - 1) if moving > 1 else 1.0 for i in range(moving)]
    way = [round(PACES[pace].steps(u, steps) * steps) for u in shares]
    return ([0] * first + way + [steps] * last)[-frames:]


def scenes(
    kernels: Sequence[Kernel[Any]],
    x: Tensor,
    seed: int,
    steps: Sequence[int],
    progress: Callable[[int], None] = lambda step: None,
) -> Iterator[Scene]:
    """Chains of each kernel from the same start, on the same noise; a scene for each of `steps`.

    Args:
        kernels: one a model.
        x: where all of them start [n c h w].
        seed: of the noise.
        steps: in increasing order; repeated ones give the same scene again.
        progress: told how many steps are made, of every kernel together.

    Raises:
        DivergedError: a chain left the finite numbers.
    """
    states = [k.init(x.to(_device(k.potential)), Stream(seed, Purpose.MCMC)) for k in kernels]
    panels = [Panel(s.x.cpu(), s.energy.cpu()) for s in states]
    for target in steps:
        for i, kernel in enumerate(kernels):
            accepted: list[Tensor] = []
            while states[i].step < target:
                path: Path[Any] = run(kernel, states[i], min(PIECE, target - states[i].step))
                states[i] = path.state
                if path.acceptance is not None:
                    accepted.append(path.acceptance.mean())
                progress(sum(s.step for s in states))
                panels[i] = Panel(path.state.x.cpu(), path.state.energy.cpu())
            if accepted:
                panels[i] = panels[i]._replace(acceptance=float(torch.stack(accepted).mean()))
            if not torch.isfinite(panels[i].x).all():
                raise DivergedError(
                    f"chains left the finite numbers within {target} steps of size {kernel.step_size:g}",
                    "take a smaller --step-size",
                )
        yield Scene(target, tuple(panels))


class Reel:
    """The frames of a film of scenes; remembers the last scene it has drawn.

    Args:
        scenes: in the order of their steps.
        titles: one a panel.
        steps: of the chains in all.
        pace: a key of `PACES`.
        size: width and height of a frame, px.
        trained: L of training, marked on the time axis.
        reach: of 2-D points, the largest coordinate that is shown.
    """

    def __init__(
        self,
        scenes: Iterable[Scene],
        titles: Sequence[Title],
        steps: int,
        pace: str,
        size: tuple[int, int],
        trained: int | None = None,
        reach: float = 1.5,
    ) -> None:
        self.scenes, self.steps, self.pace = scenes, steps, PACES[pace]
        self.stage = Stage(size, titles, steps, self._marks(trained), reach)
        self.last: Scene | None = None

    def __iter__(self) -> Iterator[Image.Image]:
        for scene in self.scenes:
            self.last = scene
            yield self.stage.frame(
                self._time(scene.step),
                scene.step,
                [Sights(p.x.numpy(), p.energy.numpy(), p.acceptance) for p in scene.panels],
            )

    def _time(self, step: int) -> float:
        return self.pace.time(step / self.steps, self.steps) if self.steps else 1.0

    def _marks(self, trained: int | None) -> list[Mark]:
        """The decades, or round numbers of steps, the number of steps in training, and the last."""
        ten = 10 ** max(0, math.floor(math.log10(max(1, self.steps))))
        even = [ten * i // 5 for i in range(1, 5 * self.steps // ten + 1)][:: max(1, 5 * self.steps // ten // 4)]
        decades = [10**i for i in range(len(str(self.steps)))]
        rounds = decades if self.pace is PACES["log"] else even
        marks = {s: Mark(self._time(s), f"{s:,}") for s in rounds if 0 < s < self.steps}
        if trained is not None and 0 < trained < self.steps:
            marks[trained] = Mark(self._time(trained), f"{trained:,} as trained", strong=True)
        return [*(marks[s] for s in sorted(marks)), Mark(1.0, f"{self.steps:,}")]


def make_kernel(
    name: str, model: Checkpoint, step_size: float | None, noise: float | None, temperature: float | None
) -> Kernel[Any]:
    """A kernel of `sampler.KERNELS` on a model, with the model's own settings where none are given.

    Raises:
        UsageError: unknown kernel, or a noise for one that has none to choose.
    """
    config = model.config
    if name not in KERNELS:
        raise UsageError(f"unknown kernel {name!r}", f"use {', '.join(KERNELS)}")
    if noise is not None and name != "langevin":
        raise UsageError(f"--noise {noise:g} is for kernel langevin, not {name}", "leave one of them out")
    own: dict[str, Any] = {"noise": config.noise if noise is None else noise} if name == "langevin" else {}
    return KERNELS[name](
        model.potential,
        config.step_size if step_size is None else step_size,
        temperature=config.temperature if temperature is None else temperature,
        **own,
    )


def title(
    name: str, model: Checkpoint, kernel: Kernel[Any], settings: SampleSettings, data: str | None = None
) -> Title:
    """What a film says of a model: its name, its kernel's settings, the data's energy under it."""
    words = [f"ε {kernel.step_size:g}"]
    if hasattr(kernel, "noise"):
        words.append(f"τ {kernel.noise:g}")
    if kernel.temperature != 1:
        words.append(f"T {kernel.temperature:g}")
    words.append(f"from {settings.record()['start']}, seed {settings.seed}")
    return Title(label(name), ", ".join(words), data_energy(model, data))


def data_energy(model: Checkpoint, data: str | None = None, count: int = 256) -> tuple[float, float] | None:
    """Mean and standard deviation of the data's energy, with the noise it had in training; None without the data.

    Args:
        data: the images, where the model's own are not in the package.
        count: how many of them.
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


def reach(models: Sequence[Checkpoint], data: str | None) -> float:
    """How far from 0 the picture of 2-D points goes: a little further than the data does."""
    if not models or models[0].config.shape != (2, 1, 1):
        return 1.5
    try:
        points = starts(models[0], SampleSettings.of(models[0], start="data", count=1000, data=data))
    except EBMError:
        return 2.0
    return 1.25 * float(points.abs().max())


def is_longrun(names: Sequence[str]) -> bool:
    """Whether one of these is the folder of a long run."""
    return any((typed_path(name) / FACTS).is_file() for name in names)


class Kept(NamedTuple):
    """A long run on the disk, as a film needs it."""

    folder: Folder
    title: Title
    steps: int
    """the last step that was made"""
    trained: int | None
    """L of the model's training, where the model is still there"""


def kept(path: FilePath) -> Kept:
    """The long run in a folder, finished or not.

    Raises:
        EBMError: it has no images yet, or is damaged.
    """
    folder = Folder.open(path)
    facts, settings = folder.facts, folder.settings
    images = folder.images()
    steps = max((record.step for record in folder.records()), default=0)
    if not images:
        raise EBMError(f"the long run in {path} has kept no images yet", f"go on with it: ebm longrun --resume {path}")
    start = settings.start if settings.start in ("data", "noise", "bank") else "files"
    about = f"{settings.kernel}, ε {facts.get('step_size', settings.step_size):.3g}, from {start}, seed {settings.seed}"
    try:
        trained: int | None = load(facts["model"]).config.steps
    except (EBMError, KeyError):
        trained = None
    return Kept(
        folder, Title(label(str(facts.get("model_name", path.name))), about, _kept_data(folder)), steps, trained
    )


def _kept_data(folder: Folder) -> tuple[float, float] | None:
    """Mean and standard deviation of the data's energy, of a long run that was judged."""
    try:
        measured = folder.result["measured"]
        return float(measured["energy_data"]["value"]), float(measured["energy_data_sd"])
    except (EBMError, KeyError, TypeError, ValueError):
        return None


def kept_scenes(run: Kept, steps: Sequence[int], count: int, progress: Callable[[int], None]) -> Iterator[Scene]:
    """Scenes of a long run at `steps`, in order: the newest images and energies at each, of the first `count` chains.

    Raises:
        EBMError: a file of it is damaged.
    """
    images, records = run.folder.images(), run.folder.records()
    energy, ahead, panel = torch.zeros(1), next(records, None), None
    at = -1
    for target in steps:
        while ahead is not None and ahead.step <= target:
            energy = torch.tensor(ahead.energy[: run.folder.settings.chains][:count])
            ahead = next(records, None)
        newer = at
        while newer + 1 < len(images) and images[newer + 1][0] <= max(target, images[0][0]):
            newer += 1
        if newer != at or panel is None:
            at = newer
            x = _kept_images(images[at][1], count)
            panel = Panel(x, energy)
        progress(target)
        yield Scene(target, (panel._replace(energy=energy),))


def _kept_images(path: FilePath, count: int) -> Tensor:
    images = torch.from_numpy(media.read_images(path)[:count])
    return images[:, :, None, None] if images.dim() == 2 else images


def _device(potential: Any) -> torch.device:
    parameters = getattr(potential, "parameters", None)
    first = next(parameters(), None) if parameters is not None else None
    return torch.device("cpu") if first is None else first.device

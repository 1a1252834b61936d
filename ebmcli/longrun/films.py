"""Films of chains: which step each frame shows, and what the chains are at that step.

`ebmcli.longrun.film_subjects` says what a film is of: chains of models, or a long run that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ebmcli.errors import DivergedError, UsageError
from ebmcli.media.curve import Mark
from ebmcli.media.film import Sights, Stage, Title
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Kernel, Path, run

PIECE_STEPS = 500
"""Most steps made in one go, so that a long way between two frames can be interrupted and shows progress."""


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


class Subject(NamedTuple):
    """What a film is of."""

    titles: tuple[Title, ...]
    """one for each panel"""
    steps: int
    """the last step of the chains"""
    trained: int | None
    """L of training, where it is known"""
    chains: int
    """how many each panel shows"""
    reach: float
    """largest coordinate of 2-D points that is shown"""
    scenes: Callable[[Sequence[int], Callable[[int], None]], Iterator[Scene]]
    """from the steps of the frames, and a function that is told the steps made, to a scene for each frame"""
    about: dict[str, Any]
    """what the film says of itself, as JSON can hold it"""
    models: tuple[Checkpoint, ...] = ()
    """the models whose chains are run; none for a long run that was kept"""


class Pace(NamedTuple):
    """How the steps of chains pass with time. Both functions map [0, 1] to [0, 1], and each is the other's inverse."""

    steps: Callable[[float, int], float]
    """from a share of the time and the number of steps to a share of the steps"""
    time: Callable[[float, int], float]
    """from a share of the steps and the number of steps to a share of the time"""


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
        raise UsageError(f"unknown `pace` {pace!r}", f"use {', '.join(PACES)}")


def schedule(steps: int, frames: int, pace: str, rest: tuple[int, int] = (0, 0)) -> list[int]:
    """The step that each of `frames` ≥ 1 frames shows: from 0 to `steps`, never backwards.

    Args:
        steps: that the chains make, ≥ 0.
        frames: of the whole film.
        pace: a key of `PACES`.
        rest: how many extra frames show the start, and how many the end; they count among `frames`.

    Raises:
        UsageError: there is no such pace.
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
    """Chains of each kernel from the same start and on the same noise; yields a scene for each of `steps`.

    Args:
        kernels: one for each model.
        x: states [n c h w] at which all of them start, on the device of their models.
        seed: of the noise.
        steps: in increasing order; a repeated step gives the same scene again.
        progress: told how many steps all kernels together have made.

    Raises:
        DivergedError: a chain left the finite numbers.
    """
    states = [k.init(x, Stream(seed, Purpose.MCMC)) for k in kernels]
    panels = [Panel(s.x.cpu(), s.energy.cpu()) for s in states]
    for target in steps:
        for i, kernel in enumerate(kernels):
            accepted: list[Tensor] = []
            while states[i].step < target:
                path: Path[Any] = run(kernel, states[i], min(PIECE_STEPS, target - states[i].step))
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
                    "take a smaller `step_size`",
                )
        yield Scene(target, tuple(panels))


class Reel:
    """The frames of a film; `last` is the scene that was drawn last.

    Args:
        scenes: in the order of their steps.
        titles: one for each panel.
        steps: that the chains make in all.
        pace: a key of `PACES`.
        size: width and height of a frame, px.
        trained: L of training, marked on the time axis.
        reach: largest coordinate of 2-D points that is shown.
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
        """Marks of the time axis: decades or round numbers of steps, the steps of training, and the last step."""
        ten = 10 ** max(0, math.floor(math.log10(max(1, self.steps))))
        even = [ten * i // 5 for i in range(1, 5 * self.steps // ten + 1)][:: max(1, 5 * self.steps // ten // 4)]
        decades = [10**i for i in range(len(str(self.steps)))]
        rounds = decades if self.pace is PACES["log"] else even
        marks = {s: Mark(self._time(s), f"{s:,}") for s in rounds if 0 < s < self.steps}
        if trained is not None and 0 < trained < self.steps:
            marks[trained] = Mark(self._time(trained), f"{trained:,} as trained", strong=True)
        return [*(marks[s] for s in sorted(marks)), Mark(1.0, f"{self.steps:,}")]

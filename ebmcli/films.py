"""Films of chains: which step each frame shows, and the chains at that step (floor 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli.chains import Purpose, Stream
from ebmcli.errors import DivergedError, EBMError
from ebmcli.sampler import Kernel, Path, run

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


def schedule(steps: int, frames: int, pace: str, rest: tuple[int, int] = (0, 0)) -> list[int]:
    """The step that each of `frames` ≥ 1 frames shows: from 0 to `steps`, never backwards.

    Args:
        steps: of the chains, ≥ 0.
        frames: in all.
        pace: a key of `PACES`.
        rest: how many more frames show the start, and how many the end; they are among `frames`.

    Raises:
        EBMError: unknown pace.
    """
    if pace not in PACES:
        raise EBMError(f"unknown pace {pace!r}", f"use {', '.join(PACES)}")
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
    states = [k.init(x.to(_device(k)), Stream(seed, Purpose.MCMC)) for k in kernels]
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


def _device(kernel: Kernel[Any]) -> torch.device:
    parameters = getattr(kernel.potential, "parameters", None)
    first = next(parameters(), None) if parameters is not None else None
    return torch.device("cpu") if first is None else first.device

"""Annealing over temperature (Kirkpatrick, Gelatt & Vecchi 1983), with any kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.sampler.kernel import Info, Kernel, S, Target, changed

if TYPE_CHECKING:
    from ebmcli.random.streams import Stream


def _linear(first: float, last: float, part: float) -> float:
    return first + (last - first) * part


def _geometric(first: float, last: float, part: float) -> float:
    return first * (last / first) ** part


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {"linear": _linear, "geometric": _geometric}
"""T between first and last, by the part of the way done in [0, 1]."""


@dataclass(frozen=True)
class Schedule:
    """Temperatures of the steps: `first` at step 0, `last` from step `steps` − 1 on.

    Args:
        first, last: T > 0.
        steps: over how many, ≥ 1; with 1 there is only `last`.
        kind: a key of `SCHEDULES`: `linear`, or `geometric` (a constant factor a step).

    Raises:
        EBMError: one of them is out of its range.
    """

    first: float
    last: float
    steps: int
    kind: str = "geometric"

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise EBMError(f"unknown schedule {self.kind!r}", f"use one of {', '.join(SCHEDULES)}")
        if not (self.first > 0 and self.last > 0 and self.steps >= 1):
            raise EBMError(
                f"a schedule from T = {self.first} to {self.last} in {self.steps} steps",
                "temperatures are above 0, steps 1 or more",
            )

    def __call__(self, step: int) -> float:
        """T of one step (counted from 0)."""
        if step >= self.steps - 1:
            return self.last
        return SCHEDULES[self.kind](self.first, self.last, max(step, 0) / (self.steps - 1))


class Annealed(Generic[S]):
    """`kernel` with T by the number of the step, which the state carries: pieces and resumed runs agree.

    Energies and gradients in states are U's, not divided by T, so they stay right as T changes. On a
    `Magnetised` target T divides the pull as well.

    Args:
        kernel: any kernel; its own temperature is not used.
        schedule: T of each step.
    """

    def __init__(self, kernel: Kernel[S], schedule: Callable[[int], float]) -> None:
        self.kernel = kernel
        self.schedule = schedule

    @property
    def potential(self) -> Target:
        """What is sampled from."""
        return self.kernel.potential

    @property
    def step_size(self) -> float:
        """ε of the kernel, pixel units."""
        return self.kernel.step_size

    @step_size.setter
    def step_size(self, value: float) -> None:
        self.kernel = changed(self.kernel, step_size=value)

    @property
    def temperature(self) -> float:
        """T of step 0."""
        return self.schedule(0)

    def init(self, x: Tensor, stream: Stream, chains: Tensor | None = None) -> S:
        """Chains that stand at x [n c h w]; `chains` int64 [n] names their streams (default 0 … n−1)."""
        return self.kernel.init(x, stream, chains)

    def step(self, state: S) -> tuple[S, Info]:
        """One step of every chain, at its temperature."""
        return changed(self.kernel, temperature=self.schedule(state.step)).step(state)

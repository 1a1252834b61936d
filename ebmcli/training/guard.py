"""The guard of learning: sees an explosion coming, and keeps states to go back to.

Learning with short chains is a feedback loop: a chain that overshoots climbs in energy, d < 0 then asks for a
steeper energy still, and within hundreds of updates everything is lost. By the time a number is infinite the
weights have been spoilt for long, so the guard keeps two states, and goes back to the older one.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ebmcli.errors import DivergedError
from ebmcli.recipe.sections import GuardSettings

MEMORY = 0.98
"""Decay per update of the running averages that a sudden change is seen against."""


LEAST_DIFFERENCE = 1.0
"""Running average of |d| that a sudden change is held against at least, energy units."""


class SeenOfPath(Protocol):
    """What the guard looks at of an update's chains."""

    @property
    def update(self) -> int:
        """Its number."""
        ...

    @property
    def displacement(self) -> float:
        """r, pixel units."""
        ...

    @property
    def burn_in_distance(self) -> float:
        """R, pixel units."""
        ...

    @property
    def largest_pixel(self) -> float:
        """max |x⁻|."""
        ...


class Seen(SeenOfPath, Protocol):
    """What the guard looks at of a whole update."""

    @property
    def energy_difference(self) -> float:
        """d."""
        ...


class Snapshot(NamedTuple):
    """A state to go back to."""

    update: int
    tensors: dict[str, Tensor]
    """weights, the optimiser's memory and the moving average, of the guard's own"""
    running: tuple[float, float, float]


class Guard:
    """Watches the records of learning.

    Args:
        steps: L.
        reach: length of what noise alone moves a chain in one step: τ·ε·√D, pixel units.
    """

    def __init__(self, settings: GuardSettings, steps: int, reach: float) -> None:
        self.settings = settings
        self.steps = steps
        self.reach = reach
        self.running = (0.0, 0.0, 0.0)
        """averages of |d|, r and max |x|"""
        self.watched = 0
        """updates that the averages have seen, from the start or the state gone back to"""
        self.failures = 0
        self.failed_at = 0
        self.kept: list[Snapshot] = []
        """at most two, the older first"""

    def check_path(self, record: SeenOfPath) -> None:
        """Nothing, if the chains of an update look sound; asked before the weights' gradient is computed.

        Raises:
            DivergedError: they do not.
        """
        factor = self.settings.factor
        # A path of L steps need not be longer than from its start to the data, but for what its noise has
        # to be balanced against (r = ε²√D/(2σ) with σ > ε/2).
        needed = record.burn_in_distance / self.steps + self.reach
        if record.displacement > factor * needed:
            raise self._error(
                record.update, f"displacement {record.displacement:.3g} a step, where {needed:.3g} is enough"
            )
        if self.watched < self.settings.every:
            return
        self._check_sudden(record.update, "displacement", record.displacement, self.running[1])
        self._check_sudden(record.update, "largest |pixel|", record.largest_pixel, self.running[2])

    def check_difference(self, update: int, difference: float) -> None:
        """Nothing, if the energy difference d of an update looks sound, whose chains have been checked.

        Raises:
            DivergedError: it does not.
        """
        if self.watched >= self.settings.every:
            # d scatters around 0, and its average is near its scatter; a quiet stretch must not make it a hair trigger.
            self._check_sudden(update, "|energy difference|", abs(difference), self.running[0], LEAST_DIFFERENCE)

    def _check_sudden(self, update: int, name: str, value: float, average: float, least: float = 0.0) -> None:
        if value > self.settings.factor * max(average, least):
            grown = f"{value / average:.3g} times what it was" if average else "where it was 0"
            raise self._error(update, f"{name} {value:.3g}, {grown}")

    def _error(self, update: int, what: str) -> DivergedError:
        return DivergedError(f"update {update} diverged: {what}")

    def saw(self, record: Seen) -> None:
        """A sound update."""
        now = (abs(record.energy_difference), record.displacement, record.largest_pixel)
        self.watched += 1
        # Early on a plain mean: an average that starts at 0 would call everything sudden.
        weight = max(1 - MEMORY, 1 / self.watched)
        self.running = tuple((1 - weight) * r + weight * x for r, x in zip(self.running, now, strict=True))  # type: ignore[assignment]
        if self.failures and record.update > self.failed_at + 10 * self.settings.cooldown:
            self.failures = 0

    def due(self, update: int) -> bool:
        """Whether the state after this update is to be kept."""
        return not self.kept or update % self.settings.every == 0

    def keep(self, update: int, tensors: dict[str, Tensor]) -> None:
        """Keep a copy of a state; the one before stays, for this one may be doomed already."""
        copy = {k: v.detach().clone() for k, v in tensors.items()}
        self.kept = [*self.kept[-1:], Snapshot(update, copy, self.running)]

    def back(self, update: int) -> Snapshot:
        """The state to go back to after update `update` failed; one more failure is counted."""
        self.failures += 1
        self.failed_at = update
        snapshot = self.kept[0]
        self.kept = [snapshot]
        self.running, self.watched = snapshot.running, 0 if not any(snapshot.running) else self.settings.every
        return snapshot

    @property
    def exhausted(self) -> bool:
        """Whether there were more failures than retries."""
        return self.failures > self.settings.retries

    def slowdown(self, update: int) -> float:
        """Factor on the learning rate of this update."""
        lowered = self.failures and update <= self.failed_at + self.settings.cooldown
        return self.settings.slowdown**self.failures if lowered else 1.0

    def foreign(self, x: Tensor) -> Tensor:
        """Which states [n c h w] no sound chain would be in [n], bool: they are to start anew."""
        largest = x.abs().flatten(1).amax(1)
        usual = self.running[2]
        return ~(largest <= (2 * usual if usual else math.inf))  # not >, so that nan is foreign

    def state(self) -> dict[str, Tensor]:
        """Everything that continues it."""
        numbers = (*self.running, self.watched, self.failures, self.failed_at)
        tensors = {"numbers": torch.tensor(numbers, dtype=torch.float64)}
        for i, s in enumerate(self.kept):
            tensors |= {f"{i}.{k}": v for k, v in s.tensors.items()}
            tensors[f"{i}"] = torch.tensor((s.update, *s.running), dtype=torch.float64)
        return tensors

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Go on with what `state` returned; with nothing (a run begun without a guard), from anew."""
        if "numbers" not in tensors:
            return
        numbers = tensors["numbers"].tolist()
        self.running = (numbers[0], numbers[1], numbers[2])
        self.watched, self.failures, self.failed_at = (int(n) for n in numbers[3:])
        self.kept = []
        for i in ("0", "1"):
            if i in tensors:
                update, *running = tensors[i].tolist()
                # Adam counts its steps on the CPU, wherever the weights are.
                own = {
                    k.removeprefix(f"{i}."): v.clone().to("cpu" if k.endswith(".step") else device)
                    for k, v in tensors.items()
                    if k.startswith(f"{i}.")
                }
                self.kept.append(Snapshot(int(update), own, (running[0], running[1], running[2])))

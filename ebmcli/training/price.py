"""What a training would cost on this machine, measured by a few of its updates."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ebmcli.recipe.sections import Recipe
from ebmcli.training.cost import largest_memory, long_runs
from ebmcli.training.session import Learning

BUDGET = 120.0
"""Seconds that timing may take; it ends after the update in which they are over."""
LINE_BYTES = 400
"""Bytes of a line of metrics, roughly."""


class Price(NamedTuple):
    """What a training would cost."""

    recipe: str
    seconds_per_update: float
    """median of the timed ones"""
    timed_updates: int
    hours: float
    """of all updates, without long runs"""
    long_runs: int
    long_run_hours: float
    """where no core is free for them"""
    memory_bytes: int | None
    """what this process has held at most; None where the system does not say"""
    disk_bytes: float
    """of checkpoints and metrics"""
    backend: str


def timed(learning: Learning, updates: int) -> Iterator[float]:
    """Make up to `updates` updates, which changes `learning`; the seconds of each."""
    began = time.monotonic()
    for record in learning.trainer.updates(updates):
        yield record.seconds
        if time.monotonic() - began > BUDGET:
            return


def price(learning: Learning, seconds: Sequence[float], with_long_runs: bool) -> Price:
    """The price of a whole training, from the seconds of a few of its updates.

    Args:
        learning: that made them.
        seconds: of each, one at least.
        with_long_runs: whether the recipe's long runs count.
    """
    recipe, trainer = learning.recipe, learning.trainer
    typical = sorted(seconds)[len(seconds) // 2]
    weights = sum(p.numel() for p in trainer.parameters) * 4
    state = sum(t.numel() * t.element_size() for t in trainer.state().values())
    metrics = LINE_BYTES * recipe.train.updates / recipe.log.metrics_every
    count, more = long_runs(recipe, typical) if with_long_runs else (0, 0.0)
    return Price(
        recipe=recipe.recipe.name,
        seconds_per_update=typical,
        timed_updates=len(seconds),
        hours=typical * recipe.train.updates / 3600,
        long_runs=count,
        long_run_hours=more,
        memory_bytes=largest_memory(),
        disk_bytes=(weights * 3 + state) * (recipe.log.keep_last + 1) + metrics,
        backend=learning.potential.backend.name,
    )


def in_words(recipe: Recipe, cost: Price) -> str:
    """One sentence."""
    memory = "unknown" if cost.memory_bytes is None else f"{cost.memory_bytes / 2**20:.0f} MiB"
    text = (
        f"{recipe.train.updates:,} updates of {recipe.mcmc.steps} steps on {recipe.train.negatives} chains: "
        f"{cost.seconds_per_update:.3g} s an update, {cost.hours:.2g} hours ({cost.timed_updates} updates timed); "
        f"memory {memory}, disk about {cost.disk_bytes / 2**20:.0f} MiB"
    )
    if not cost.long_runs:
        return text
    return (
        f"{text}; {cost.long_runs:,} long runs of {recipe.longrun.steps:,} steps, "
        f"{cost.long_run_hours:.2g} hours more where no core is free"
    )

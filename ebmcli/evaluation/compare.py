"""Several energies on the same noise: what short and long chains of each come to, and each under the others.

Every model is sampled as its own settings say (short), walked from the same images of the data on the same random
numbers (long), and judged. Then each is asked about the others: the energy it gives to their samples, and where its own
chains go when they start at them. Models of other images, or learned from other data, cannot be asked; `alike` sorts
them into comparisons of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import DivergedError, EBMError
from ebmcli.evaluation.distance import Compared, Reference
from ebmcli.evaluation.images import Saturation
from ebmcli.evaluation.measure import Outcome, baseline, outcome, short_samples
from ebmcli.evaluation.mixing import Estimate, mean_of
from ebmcli.evaluation.walk import Walk, WalkSettings, kernel_of
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import run

_CROSS = 1
"""Update number of the streams of chains that start at another model's samples."""


class Side(NamedTuple):
    """One kind of samples of one model."""

    x: Tensor
    """[n c h w] on the CPU"""
    gap: Estimate
    """(their energy − data's) in standard deviations of the data's energy, under the model itself"""
    distance: Compared
    saturation: Saturation


class Contestant(NamedTuple):
    """One model and what it came to."""

    name: str
    model: Checkpoint
    settings: WalkSettings
    short: Side
    long: Side | None
    """None where the chains diverged"""
    outcome: Outcome | None
    diverged: str
    """how, or empty"""
    seconds_a_step: float
    """of one step of all the chains of the long run, looking at them left out"""
    energy_data: tuple[float, float]
    """mean and standard deviation of the data's energy"""


class Crossing(NamedTuple):
    """Model A, asked about the samples of model B."""

    a: str
    b: str
    short: float
    """energy under A of B's short samples, as a gap to the data in standard deviations"""
    long: float
    """the same of B's long samples; nan where there are none"""
    went: Estimate | None
    """gap after A's own chains, begun at B's short samples; None where they diverged or were not made"""
    distance: Compared | None
    """of those chains' ends to the data"""
    x: Tensor | None
    """those ends [n c h w]"""


class Comparison(NamedTuple):
    """All of it."""

    contestants: list[Contestant]
    crossings: list[Crossing]
    reference: Reference
    data: str
    """what the samples are compared with"""
    steps: int
    cross_steps: int


def gap(energy: Tensor, data: tuple[float, float]) -> Estimate:
    """Energies [n] as a distance from the data's mean, in its standard deviations."""
    return mean_of((energy.double().cpu() - data[0]) / (data[1] or 1.0))


def contest(
    name: str,
    model: Checkpoint,
    reference: Reference,
    settings: WalkSettings,
    watch: Callable[[int], None] = lambda step: None,
) -> Contestant:
    """Short and long chains of one model, and its verdict.

    Args:
        name: to call it by.
        model: the model.
        reference: the data's side, the same for all.
        settings: of the long run.
        watch: told the steps made so far, of short and long run together.
    """
    try:
        x, energy = short_samples(model, settings)
    except DivergedError as error:
        error.message = f"{name}: {error.message}"
        raise
    watch(model.config.steps)
    base = baseline(model, reference, settings, (x, energy))
    moments = (float(base.energy.mean()), float(base.energy.std()))
    short = Side(x, gap(energy, moments), base.short, reference.saturation(x))
    walk, diverged = Walk(model, settings, reference), ""
    walk.warm_up()
    seconds = _seconds_a_step(walk)
    try:
        for record in walk.records():
            watch(model.config.steps + record.step)
    except DivergedError as error:
        diverged = error.message
    if diverged or walk.state is None:
        return Contestant(name, model, settings, short, None, None, diverged, seconds, moments)
    ends, energy = walk.state.x[: settings.chains].cpu(), walk.state.energy[: settings.chains]
    found = outcome(walk, base)
    long = Side(ends, gap(energy, moments), found.final, reference.saturation(ends))
    return Contestant(name, model, settings, short, long, found, "", seconds, moments)


def _seconds_a_step(walk: Walk) -> float:
    """The fastest of three short pieces that are thrown away."""
    state = walk.begin()
    run(walk.kernel, state, 2)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run(walk.kernel, state, 5)
        if state.x.device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / 5)
    return min(times)


def cross(a: Contestant, b: Contestant, reference: Reference, steps: int) -> Crossing:
    """What A says of B's samples, and where `steps` steps of A lead from B's short ones."""
    potential = a.model.potential
    device = potential.device
    short = gap(potential.energy(b.short.x.to(device)), a.energy_data).value
    long = float("nan") if b.long is None else gap(potential.energy(b.long.x.to(device)), a.energy_data).value
    nothing = Crossing(a.name, b.name, short, long, None, None, None)
    if steps < 1:
        return nothing
    kernel = kernel_of(a.model, a.settings)
    if a.outcome is not None:
        kernel.step_size = a.outcome.step_size  # type: ignore[misc]
    state = kernel.init(b.short.x.to(device), Stream(a.settings.seed, Purpose.MCMC, _CROSS))
    path = run(kernel, state, steps)
    ends = path.state.x.cpu()
    if not torch.isfinite(ends).all():
        return nothing
    return nothing._replace(went=gap(path.state.energy, a.energy_data), distance=reference.compare(ends), x=ends)


def compare(
    models: Sequence[tuple[str, Checkpoint]],
    reference: Reference,
    data: str,
    settings: Callable[[Checkpoint], WalkSettings],
    cross_steps: int,
    watch: Callable[[str, int], None] = lambda name, step: None,
) -> Comparison:
    """All models, and every one under every other.

    Args:
        models: names and models, one or more, of one shape.
        reference: the data's side.
        data: its name.
        settings: of each model's long run; the seed has to be the same.
        cross_steps: of A's chains from B's samples; 0 leaves them out.
        watch: told a model's name and the steps it has made.

    Raises:
        EBMError: they are not of one shape.
    """
    _check_shapes(models)
    contestants = []
    for name, model in models:

        def note(step: int, name: str = name) -> None:
            watch(name, step)

        contestants.append(contest(name, model, reference, settings(model), note))
    crossings = []
    for a in contestants:
        for b in contestants:
            if a is not b:
                crossings.append(cross(a, b, reference, cross_steps))
                watch(a.name, a.model.config.steps + a.settings.steps + cross_steps)
    return Comparison(contestants, crossings, reference, data, contestants[0].settings.steps, cross_steps)


def alike(models: Sequence[tuple[str, Checkpoint]], data: str | None = None) -> list[list[tuple[str, Checkpoint]]]:
    """Models sorted by what they can be compared on, in the order in which they came.

    Args:
        models: names and models.
        data: what all are compared with; left out, each is compared with its own.

    Returns: lists of models of one image size, number of channels and data.
    """
    groups: dict[tuple[object, ...], list[tuple[str, Checkpoint]]] = {}
    for name, model in models:
        groups.setdefault((model.config.shape, data or model.config.data), []).append((name, model))
    return list(groups.values())


def _check_shapes(models: Sequence[tuple[str, Checkpoint]]) -> None:
    shapes = [(name, "×".join(map(str, (*m.config.shape[1:], m.config.channels)))) for name, m in models]
    for name, shape in shapes[1:]:
        if shape != shapes[0][1]:
            raise EBMError(
                f"{shapes[0][0]} is a model of {shapes[0][1]}, {name} of {shape}: they have no images in common",
                "compare models of one size with one another; alike() sorts them",
            )

"""Long chains of a model, watched from step to step against the data.

    walk = Walk(model, WalkSettings.of(model, steps=20_000), reference)
    for record in walk.records():
        ...
    outcome = walk.outcome()

A walk holds everything in memory; `ebmcli.longrun` keeps one on the disk. What is measured, and when, depends on the
settings alone: a walk that goes on from a kept state makes the same records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli import data
from ebmcli.errors import DivergedError, EBMError, UsageError
from ebmcli.evaluation.distance import HALF, Compared, Reference
from ebmcli.evaluation.features import Features
from ebmcli.evaluation.kernels import has_momentum, is_tested, make_kernel
from ebmcli.evaluation.mixing import Estimate, mean_of, memory
from ebmcli.models import sampling
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.models.sampling import SampleSettings
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Kernel, Path, State, adapt, run
from ebmcli.storage.reading import parse_toml

TRACE_POINTS = 1000
"""Equally spaced steps at which every chain's energy is kept: enough for R-hat, and a megabyte at any length."""
WARMUP_STEPS = 400
"""Steps of the warm-up of a kernel with a Metropolis–Hastings test."""
WARMUP_CHAINS = 32
"""Chains that a warm-up runs at most."""
LEAST_IMAGES = 100
"""Images that a comparison needs. Those that chains start at are kept out of it only where as many are left."""
LARGEST_PIXEL = 1e4
"""A chain with a larger |pixel| does not come back: the step is too long."""
_WARMUP_STREAM = 1
"""Update number of the warm-up's streams; the chains' own are of update 0."""


@dataclass(frozen=True)
class WalkSettings:
    """Everything that the outcome of a walk depends on.

    Args:
        start: `data` (with the noise of training), `noise`, `bank`, or a path to images.
        against: where a second group of chains starts, whose energies have to meet those of the first; None for none.
        chains: in the first group, ≥ 2.
        others: in the second group.
        steps: ≥ 1.
        kernel: a key of `ebmcli.sampler.KERNELS`.
        adjust: whether hmc and underdamped have a Metropolis–Hastings test (mala always has, langevin never).
        step_size: ε, pixel units; with a warm-up, where it begins.
        warmup: steps in which ε is adapted before the first step; 0 keeps it.
        n_leapfrog: leapfrog steps of hmc and underdamped; None for the kernel's own number.
        persistence: share of the momentum kept between refreshes, in [0, 1), of hmc and underdamped; None for the
            kernel's own.
        temperature: T > 0.
        seed: of every random number.
        moments: how often images are kept and compared with the data, ≥ 2.
        spacing: how the moments lie over the steps: `log` or `linear`.
        compared: images of the data to compare with: half for the distance, half for the data's own distance.
        data: images to start at and to compare with, where the model's own are not in the package.
    """

    start: str
    steps: int
    step_size: float
    against: str | None = None
    chains: int = 64
    others: int = 0
    kernel: str = "langevin"
    adjust: bool = True
    warmup: int = 0
    n_leapfrog: int | None = None
    persistence: float | None = None
    temperature: float = 1.0
    seed: int = 0
    moments: int = 40
    spacing: str = "log"
    compared: int = 2 * HALF
    data: str | None = None

    @classmethod
    def of(cls, model: Checkpoint, **chosen: Any) -> WalkSettings:
        """The model's own settings, with what is `chosen` (not None) in their place.

        Chains start at the data, as many as 64 (500 points of a toy), with a quarter as many from the bank or from
        noise against them. A kernel with a test warms up unless a step size is chosen.

        Raises:
            UsageError: a model learned without noise does not say with which ε it can be walked.
        """
        config, chosen = model.config, {k: v for k, v in chosen.items() if v is not None}
        kernel = chosen.get("kernel", "langevin")
        tested = is_tested(kernel, chosen.get("adjust", True))
        if "step_size" not in chosen:
            chosen["step_size"] = _own_step_size(model)
            chosen.setdefault("warmup", WARMUP_STEPS if tested else 0)
        chosen.setdefault("start", "data")
        chosen.setdefault("chains", 500 if config.is_points else 64)
        if chosen["start"] == "data":
            chosen.setdefault("against", "noise" if model.bank is None else "bank")
        if chosen.get("against") == "none":
            chosen["against"] = None
        chosen.setdefault("others", max(4, chosen["chains"] // 4) if chosen.get("against") else 0)
        chosen.setdefault("temperature", config.temperature)
        chosen.setdefault("steps", 100_000)
        if chosen.get("warmup") and not tested:
            raise UsageError(
                f"a warm-up is for kernels with a Metropolis–Hastings test, and {kernel} accepts every step",
                "choose the `kernel` mala, or leave `warmup` out",
            )
        return cls(**chosen)


def _own_step_size(model: Checkpoint) -> float:
    """The step size of the recipe's long runs, or else of training."""
    try:
        own = float(parse_toml(model.recipe)["longrun"]["step_size"])
    except (ValueError, KeyError, TypeError):  # the recipe of a model from elsewhere may be missing, or be any text
        own = 0.0
    if 0 < own < math.inf:
        return own
    if not model.config.noise:
        raise UsageError(
            f"{model.config.name} was learned without noise, so its step size is none for long chains",
            "give one: `step_size` 0.01",
        )
    return model.config.step_size


class Moment(NamedTuple):
    """The first group's images at one step, beside the data's."""

    beyond: float
    """share of pixels beyond the data's range (`images.Saturation`)"""
    mean_abs: float
    """mean |x| over the data's"""
    distance: Compared
    """to the data"""


class Record(NamedTuple):
    """What was measured of the chains after one step."""

    step: int
    energy: list[float]
    """U of every chain, the first group's before the second's"""
    memory: Estimate
    """what the first group remembers of its start (`mixing.memory`)"""
    gradient: float
    """mean ‖∇U‖ since the last record"""
    displacement: float
    """r = (ε²/2)·mean ‖∇U‖/T, pixel units (§3.2)"""
    length: float
    """mean length of a step since the last record, pixel units"""
    acceptance: float | None
    """mean probability of acceptance since the last record, for kernels with a test"""
    largest: float
    """max |x|"""
    traced: bool
    """whether this is one of the equally spaced records that R-hat and drift are made of"""
    moment: Moment | None = None

    def line(self) -> dict[str, Any]:
        """This record as JSON can hold it; `parse` reads it back."""
        values = self._asdict()
        values["memory"] = list(self.memory)
        if self.moment is not None:
            values["moment"] = {**self.moment._asdict(), "distance": self.moment.distance._asdict()}
        return values

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Record:
        """The record that `line` wrote."""
        moment = values["moment"]
        if moment is not None:
            moment = Moment(moment["beyond"], moment["mean_abs"], Compared(**moment["distance"]))
        return cls(**{**values, "memory": Estimate(*values["memory"]), "moment": moment})


def reference_of(model: Checkpoint, settings: WalkSettings, features: Features | None = None) -> Reference:
    """The data of a model, where possible without the images that the chains of `settings` start at.

    Raises:
        EBMError: the data is not at hand; the hint says how to give it.
    """
    config, half = model.config, settings.compared // 2
    if config.data in data.TOYS and settings.data is None:
        generator = torch.Generator().manual_seed(settings.seed + 1)
        return Reference(data.load_toy(config.data).sample(2 * half, generator), config.data_noise, half=half)
    everything = SampleSettings("data", 0, settings.chains + 2 * half, settings.seed, data=settings.data)
    images = sampling.starts(model, everything)
    distinct = images[: _distinct(model, settings, len(images))]
    enough = len(distinct) - settings.chains >= LEAST_IMAGES
    skip = settings.chains if settings.start == "data" and enough else 0
    return Reference(distinct[skip:], config.data_noise, features, settings.seed, half)


def _distinct(model: Checkpoint, settings: WalkSettings, wanted: int) -> int:
    """How many of the wanted images are different ones: `sampling.starts` repeats images where there are too few."""
    c = model.config
    source = settings.data or data.at_hand(c.data)
    return min(wanted, len(data.load(source, image_size=c.image_size, channels=c.channels, crop=c.crop)))


def starts(model: Checkpoint, settings: WalkSettings) -> Tensor:
    """First states [chains + others c h w] of both groups, on the CPU.

    Raises:
        EBMError: as `sampling.starts`.
    """
    first = _starts(model, settings, settings.start, settings.chains, 0)
    if settings.against is None:
        return first
    return torch.cat([first, _starts(model, settings, settings.against, settings.others, settings.chains)])


def _starts(model: Checkpoint, settings: WalkSettings, start: str, count: int, number: int) -> Tensor:
    if model.config.is_points and start not in ("noise", "data", "bank"):
        raise EBMError(f"points cannot start from {start!r}", "`start` them at data, noise or bank")
    x = sampling.starts(model, SampleSettings(start, 0, count, settings.seed, data=settings.data))
    if start == "data" and model.config.data_noise:
        # The model learned images with their noise: those are what its density should hold.
        stream = Stream(settings.seed, Purpose.DATA_NOISE)
        x = x + model.config.data_noise * stream.normal(torch.arange(number, number + count), 0, model.config.shape)
    return x


def schedule(settings: WalkSettings) -> tuple[set[int], set[int]]:
    """Steps of the equally spaced trace, and of the moments; 0 and the last are in both."""
    steps, points = settings.steps, min(TRACE_POINTS, settings.steps)
    trace = {round(steps * i / points) for i in range(points + 1)}
    parts = [i / max(1, settings.moments - 1) for i in range(max(2, settings.moments))]
    spaced = [steps**p for p in parts] if settings.spacing == "log" else [steps * p for p in parts]
    return trace, {0, *(round(s) for s in spaced), steps}


def kernel_of(model: Checkpoint, settings: WalkSettings) -> Kernel[Any]:
    """The kernel of these settings, not yet adapted."""
    own = {"adjust": settings.adjust, "n_leapfrog": settings.n_leapfrog, "persistence": settings.persistence}
    own = own if has_momentum(settings.kernel) else {}
    return make_kernel(settings.kernel, model, settings.step_size, settings.temperature, **own)


class Walk:
    """Chains that run with `settings`, and the records of them.

    Args:
        model: from `ebmcli.load`.
        settings: of the walk.
        reference: the data's side, from `reference_of`; None watches energies and memory alone.
        start: first states, from `starts`; left out, made here.
        step_size: ε that an earlier warm-up of the same walk found; None for a new walk.

    Raises:
        EBMError: as `starts`.
    """

    def __init__(
        self,
        model: Checkpoint,
        settings: WalkSettings,
        reference: Reference | None,
        start: Tensor | None = None,
        step_size: float | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.reference = reference
        self.start = starts(model, settings) if start is None else start
        self.seen: list[Record] = []
        self.state: State | None = None
        """where the chains stand; None before the first record"""
        self.kernel = kernel_of(model, settings)
        self._fixed = step_size is not None or not settings.warmup
        if step_size is not None:
            self.kernel.step_size = step_size  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        """The device that the chains are computed on."""
        return self.model.potential.device

    def warm_up(self) -> float:
        """Adapt ε where the settings ask for it and it was not done, and return it. It stays the same from then on."""
        if not self._fixed:
            chains = torch.arange(min(WARMUP_CHAINS, self.settings.chains), device=self.device)
            stream = Stream(self.settings.seed, Purpose.MCMC, _WARMUP_STREAM)
            x = self.start[: len(chains)].to(self.device)
            self.kernel = adapt(self.kernel, x, stream, chains, steps=self.settings.warmup).kernel
            self._fixed = True
        return self.kernel.step_size

    def begin(self) -> State:
        """The chains at their starts, before the first step."""
        chains = torch.arange(len(self.start), device=self.device)
        stream = Stream(self.settings.seed, Purpose.MCMC)
        return self.kernel.init(self.start.to(self.device), stream, chains)

    def records(self) -> Iterator[Record]:
        """Go on to the last step; yields a record of each step that is measured, the start's first.

        `state` and `seen` belong to the record that was yielded last.

        Raises:
            DivergedError: a chain left the finite numbers; `state` is then the last sound one.
        """
        self.warm_up()
        trace, moments = schedule(self.settings)
        if self.state is None:
            yield self._keep(run(self.kernel, self.begin(), 0), True, True)
        assert self.state is not None
        for stop in sorted((trace | moments) - set(range(self.state.step + 1))):
            path: Path[Any] = run(self.kernel, self.state, stop - self.state.step)
            largest = float(path.state.x.abs().max())
            if not largest <= LARGEST_PIXEL or not bool(torch.isfinite(path.state.energy).all()):
                raise DivergedError(
                    f"chains left the finite numbers between steps {self.state.step} and {stop}",
                    f"ε is {self.kernel.step_size:g}; take a smaller `step_size`, or the `kernel` mala",
                )
            yield self._keep(path, stop in trace, stop in moments)

    def _keep(self, path: Path[Any], traced: bool, moment: bool) -> Record:
        state, first = path.state, self.settings.chains
        x = state.x.cpu()
        steps = len(path.energy) - 1
        gradient = float(path.gradient_magnitude.double().mean())
        record = Record(
            step=state.step,
            energy=[float(f"{v:.9g}") for v in state.energy.tolist()],  # float32, whole, and short in a file
            memory=mean_of(memory(x[:first], self.start[:first])),
            gradient=gradient,
            displacement=self.kernel.step_size**2 / 2 / self.settings.temperature * gradient,
            length=float(path.length.double().mean()) / steps if steps else 0.0,
            acceptance=None if path.acceptance is None else float(path.acceptance.double().mean()),
            largest=float(x.abs().max()),
            traced=traced,
            moment=self._look(x[:first]) if moment and self.reference is not None else None,
        )
        self.state = state
        self.seen.append(record)
        return record

    def _look(self, x: Tensor) -> Moment:
        assert self.reference is not None
        return Moment(*self.reference.saturation(x), self.reference.compare(x))

    @property
    def is_moment(self) -> bool:
        """Whether the newest record is of a step at which images are kept."""
        return bool(self.seen) and self.seen[-1].step in schedule(self.settings)[1]


def energies(records: list[Record]) -> tuple[Tensor, Tensor]:
    """Steps [k] and energies [chains k] of the equally spaced records."""
    traced = [r for r in records if r.traced]
    steps = torch.tensor([r.step for r in traced])
    return steps, torch.tensor([r.energy for r in traced], dtype=torch.float64).T


def spacing(steps: Tensor) -> float:
    """Steps between two traced records; nan for fewer than two."""
    return float(steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else math.nan

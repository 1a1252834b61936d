"""Samples of a checkpoint: where chains start, and the settings they take from the model."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli import data
from ebmcli._version import __version__
from ebmcli.errors import DivergedError, EBMError
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, Path, run
from ebmcli.sampler.starts import noise_start

PIECE = 25
"""Steps between two progress records."""


@dataclass(frozen=True)
class SampleSettings:
    """Everything that decides which samples come out; what is left out is the model's own.

    Args:
        start: `noise`, `data`, `bank`, or a path to images.
        steps: Langevin steps ≥ 0.
        count: chains.
        seed: of starts and steps.
        step_size: ε, pixel units.
        noise: τ.
        temperature: T.
        data: images for `start = data`, where the model's own are not in the package.
    """

    start: str
    steps: int
    count: int = 64
    seed: int = 0
    step_size: float = 0.01
    noise: float = 1.0
    temperature: float = 1.0
    data: str | None = None

    @classmethod
    def of(cls, model: Checkpoint, **chosen: Any) -> SampleSettings:
        """The model's own settings, with what is `chosen` (not None) in their place."""
        config = model.config
        own = {
            "start": "noise" if model.bank is None else "bank",
            "steps": config.steps,
            "step_size": config.step_size,
            "noise": config.noise,
            "temperature": config.temperature,
        }
        return cls(**{**own, **{k: v for k, v in chosen.items() if v is not None}})

    def record(self) -> dict[str, Any]:
        """What a picture's metadata says of these settings: no path, no time, no batch size."""
        values = asdict(self)
        values.pop("data")
        if values["start"] not in ("noise", "data", "bank"):
            values["start"] = "files"
        return values


class Progress(NamedTuple):
    """Chains of one batch after some more steps."""

    chains: Tensor
    """int64 [n]: which of the `count`"""
    step: int
    path: Path


def metadata(model: Checkpoint, settings: SampleSettings) -> dict[str, Any]:
    """What made a picture."""
    return {
        "made_by": f"ebm {__version__}",
        "model": model.config.name,
        "model_sha256": model.digest,
        **({"model_from": model.origin} if model.origin else {}),
        "updates": model.config.updates,
        "weights": model.config.weights,
        "energy_scale": model.config.energy_scale,
        "settings": settings.record(),
        **({"precision": precision} if (precision := model.potential.precision) != "float32" else {}),
    }


def starts(model: Checkpoint, settings: SampleSettings) -> Tensor:
    """Initial states [count c h w] on the CPU; each depends on the seed and its own number alone.

    Raises:
        EBMError: the model keeps no bank, or there are no such images.
    """
    config, n = model.config, settings.count
    chains = torch.arange(n)
    stream = Stream(settings.seed, Purpose.START)
    if settings.start == "noise":
        return noise_start(config.noise_init, stream, chains, config.shape, config.init_scale)
    if settings.start == "bank":
        if model.bank is None:
            raise EBMError(
                f"model {config.name} keeps no bank: it was not learned with persistent chains",
                "take `start` noise or data",
            )
        return _cycle(model.bank, n)
    if settings.start == "data" and config.data in data.TOYS and settings.data is None:
        return data.load_toy(config.data).sample(n, torch.Generator().manual_seed(settings.seed))
    source = settings.data or data.at_hand(config.data) if settings.start == "data" else settings.start
    try:
        crop = config.crop if settings.start == "data" else None
        images = data.load(source, image_size=config.image_size, channels=config.channels, crop=crop)
    except EBMError as error:
        if settings.start == "data" and settings.data is None:
            error.hint = f"give the images that {config.name} learned from as `data`"
        elif settings.start != "data" and not FilePath(source).exists():
            error.hint = "`start` takes noise, data, bank, or a path to images"
        raise
    # Files given by hand are taken in their order, a data set at random: its order may be by class.
    if settings.start != "data":
        return _cycle(images.images(slice(0, n)), n)
    index = Stream(settings.seed, Purpose.DATA).generator().permutation(len(images))[:n]
    return _cycle(images.images(index), n)


def _cycle(x: Tensor, n: int) -> Tensor:
    return x[torch.arange(n) % len(x)]


def batches(
    model: Checkpoint, settings: SampleSettings, batch_size: int, stops: Collection[int] = ()
) -> Iterator[Progress]:
    """Run all chains, `batch_size` at once; a record after the start (step 0) and every few steps.

    Args:
        stops: steps after which there must be a record.

    Raises:
        DivergedError: a chain left the finite numbers.
    """
    potential = model.potential
    device = potential.device
    kernel = Langevin(potential, settings.step_size, settings.noise, settings.temperature)
    x0 = starts(model, settings)
    stream = Stream(settings.seed, Purpose.MCMC)
    for chains in torch.arange(settings.count).split(batch_size):
        state = kernel.init(x0[chains].to(device), stream, chains.to(device))
        path = run(kernel, state, 0)
        yield Progress(chains, 0, path)
        ends = sorted({*range(PIECE, settings.steps, PIECE), *stops, settings.steps} - {0})
        for end in ends:
            path = run(kernel, path.state, end - path.state.step)
            yield Progress(chains, end, path)
        if not torch.isfinite(path.state.x).all():
            raise DivergedError(
                f"chains left the finite numbers within {settings.steps} steps",
                f"the model was trained with step size {model.config.step_size}, noise {model.config.noise}",
            )


def sample(model: Checkpoint, batch_size: int = 256, **chosen: Any) -> tuple[Tensor, Tensor]:
    """Samples [count c h w] and their energies U [count], on the CPU.

    Args:
        model: from `ebmcli.load`.
        batch_size: chains held at once; changes memory, not the result.
        chosen: of `SampleSettings` (start, steps, count, seed, …); the rest is the model's own.
    """
    settings = SampleSettings.of(model, **chosen)
    x, energy = torch.empty(settings.count, *model.config.shape), torch.empty(settings.count)
    for progress in batches(model, settings, batch_size):
        x[progress.chains] = progress.path.state.x.cpu()
        energy[progress.chains] = progress.path.state.energy.cpu()
    return x, energy

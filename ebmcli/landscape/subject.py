"""What is mapped: a model, or the true density of a toy, and where its long chains start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli import data
from ebmcli.data.bundled import at_hand, bundled
from ebmcli.data.decode import open_picture, read_picture
from ebmcli.errors import EBMError, UsageError
from ebmcli.landscape.truth import ToyEnergy
from ebmcli.models import lookup
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.models.sampling import SampleSettings, starts
from ebmcli.sampler import Target

TOY_STEP = 0.12
"""ε of a toy's true density, pixel units: that of its recipes' convergent learning is 0.125."""
ORIGINS = ("bank", "data", "noise")


class Subject(NamedTuple):
    """An energy with what a map needs to know of it."""

    name: str
    potential: Target
    model: Checkpoint | None
    """None: a toy's true density"""
    step_size: float
    device: torch.device

    @property
    def facts(self) -> dict[str, Any]:
        """What was mapped, for files made from it."""
        if self.model is None:
            return {"model": f"{self.name}: true density"}
        config = self.model.config
        return {
            "model": config.name,
            "model_sha256": self.model.digest,
            "updates": config.updates,
            "weights": config.weights,
            "energy_scale": config.energy_scale,
        }


def is_truth(name: str | None) -> bool:
    """Whether the true density of a toy is meant, and no model."""
    return name in data.TOYS and not lookup.is_model(str(name))


def open_subject(name: str | None, device: torch.device, **options: Any) -> Subject:
    """The model that `name` means, else the toy of that name.

    Args:
        options: as `ebmcli.models.lookup.load`.
    """
    if is_truth(name):
        return Subject(str(name), ToyEnergy(data.load_toy(str(name))), None, TOY_STEP, device)
    model = lookup.load(name, device=device, **options)
    return Subject(str(name or lookup.default()), model.potential, model, model.config.step_size, device)


def origin(subject: Subject, chosen: str | None, files: str | None = None) -> str:
    """Where chains start: `chosen`, else the bank and the data as far as they are at hand, else noise.

    Raises:
        UsageError: it is no combination of bank, data and noise.
    """
    if chosen is not None:
        if not set(chosen.split("+")) <= set(ORIGINS):
            raise UsageError(f"`start` {chosen!r} is not known", "use bank, data, noise, or several: bank+data")
        return chosen
    if subject.model is None:
        return "data"
    try:
        known = files is not None or at_hand(subject.model.config.data) in {*bundled(), *data.TOYS}
    except EBMError:  # the model names a path, which is not read: the other places are good enough to start from
        known = False
    found = ["bank"] * (subject.model.bank is not None) + ["data"] * known
    return "+".join(found) or "noise"


def first_states(subject: Subject, origin: str, count: int, seed: int, files: str | None = None) -> Tensor:
    """`count` first states [count c h w], in equal parts of all that `origin` names."""
    if subject.model is None:
        toy = data.load_toy(subject.name)
        return toy.sample(count, torch.Generator().manual_seed(seed)).to(subject.device)
    names = origin.split("+")
    parts: list[Tensor] = []
    for number, name in enumerate(names):
        share = (count - sum(len(part) for part in parts)) // (len(names) - number)
        if share:
            chosen = SampleSettings.of(subject.model, start=name, count=share, seed=seed, steps=0, data=files)
            parts.append(starts(subject.model, chosen))
    return torch.cat(parts).to(subject.device)


def picture(subject: Subject, path: Path) -> Tensor:
    """One image as the model takes it [c h w].

    Raises:
        UsageError: the model is of 2-D points.
        EBMError: it cannot be read.
    """
    if subject.model is None or subject.model.config.is_points:
        raise UsageError(f"{subject.name} is of points, not of pictures", "leave out `from`, `to` and `recall`")
    import numpy as np
    from PIL import Image

    config = subject.model.config
    try:
        with open_picture(read_picture(path)) as opened:
            image = opened.convert("L" if config.channels == 1 else "RGB")
    except FileNotFoundError:
        raise EBMError(f"no such picture: {path}", "check the path") from None
    except EBMError:
        raise
    except Exception:  # what damaged files make Pillow raise is not one class
        raise EBMError(f"{path} is not a picture that can be read", "give a PNG, JPEG, WebP or BMP file") from None
    size = (config.image_size, config.image_size)
    pixels = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX), dtype=np.float32)
    x = torch.from_numpy(pixels / 127.5 - 1)
    return (x[None] if x.dim() == 2 else x.permute(2, 0, 1)).contiguous().to(subject.device)

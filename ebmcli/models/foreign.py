"""Other people's energies: any importable nn.Module as a model of ours."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebmcli.consent import import_named
from ebmcli.errors import ConsentError, EBMError, UsageError
from ebmcli.models.checkpoint import Checkpoint, ModelConfig, versions
from ebmcli.networks import Shape
from ebmcli.potential import Potential

_SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Foreign:
    """What a module does not say of itself.

    Args:
        size: of the images, px; 1 for points.
        channels: of the images.
        sign: `energy` if low outputs are likely, `logp` if high ones are.
        scale: U = scale · output.
        step_size: ε, pixel units.
        noise: τ.
        steps: of a short run.
        data: what its samples are compared with.
        data_noise: that it learned its data with, pixel units.
    """

    size: int
    channels: int
    sign: Literal["energy", "logp"] = "energy"
    scale: float = 1.0
    step_size: float = 0.01
    noise: float = 1.0
    steps: int = 100
    data: str = ""
    data_noise: float = 0.0


class Negated(nn.Module):
    """−F."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[n c h w] -> [n]."""
        return -self.network(x)


def is_spec(name: str) -> bool:
    """Whether a name means code to import, package.module:factory; a file or folder of that name is meant first."""
    return _SPEC.fullmatch(name) is not None and not Path(name).exists()


def load(
    name: str,
    settings: Foreign,
    *,
    trusted: bool = False,
    device: torch.device | str = "cpu",
    backend: str = "auto",
) -> Checkpoint:
    """The module that `package.module:factory` makes, as a model to be sampled and judged.

    The factory is called with the shape (channels, size, size) if it takes an argument that has no default, else
    without any; it may also be an nn.Module itself.

    Args:
        name: of the code.
        settings: what the module does not say of itself.
        trusted: that the user has named this code, or has allowed it to be imported.
        device: of its weights.
        backend: as `Potential`'s.

    Raises:
        ConsentError: not `trusted`.
        UsageError: the name is of another form.
        EBMError: it cannot be imported, fails, or does not map n images to n numbers.
    """
    if not is_spec(name):
        raise UsageError(f"{name!r} names no code", "give package.module:factory")
    shape = (settings.channels, settings.size, settings.size)
    network = _made(name, shape, trusted).eval().requires_grad_(False).to(device)
    _check(name, network, shape, device)
    if settings.sign == "logp":
        network = Negated(network)
    config = ModelConfig(
        name=name,
        network=name,
        image_size=settings.size,
        channels=settings.channels,
        energy_scale=settings.scale,
        step_size=settings.step_size,
        noise=settings.noise,
        steps=settings.steps,
        init="uniform",
        data_noise=settings.data_noise,
        regime="non-convergent",
        updates=0,
        data=settings.data,
        versions=versions(),
    )
    potential = Potential(network, shape, settings.scale, backend=backend)
    return Checkpoint(potential.eval(), config, None, "", "")


def _made(name: str, shape: Shape, trusted: bool) -> nn.Module:
    hint = "is it in this folder, installed, or on PYTHONPATH?"
    try:
        found = import_named(name, trusted=trusted, refusal=f"{name} would import code, which is not done unasked")
    except ConsentError:
        raise
    except Exception as error:  # whatever the user's code does when it is imported
        raise EBMError(f"{name} cannot be imported: {_said(error)}", hint) from error
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise EBMError(f"{name} is {type(found).__name__}, expected a factory or an nn.Module", "name a function")
    try:
        made = found(shape) if _takes_shape(found) else found()
    except Exception as error:
        raise EBMError(
            f"{name} failed: {_said(error)}", "it is called with (channels, size, size), or nothing"
        ) from error
    if not isinstance(made, nn.Module):
        raise EBMError(f"{name} returned {type(made).__name__}, expected an nn.Module", "")
    return made


def _takes_shape(factory: Any) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)


def _check(name: str, network: nn.Module, shape: Shape, device: torch.device | str) -> None:
    """Two images give two finite numbers, with a gradient."""
    x = torch.zeros(2, *shape, device=device, requires_grad=True)
    expected = f"expected 2 numbers for 2 images of {shape[1]}×{shape[2]}×{shape[0]}"
    hint = "`size` and `channels` say what images it takes"
    try:
        with torch.enable_grad():
            out = network(x)
            if not isinstance(out, Tensor) or out.numel() != 2:
                got = f"a tensor {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
                raise EBMError(f"{name} returned {got}: {expected}", hint)
            (grad,) = torch.autograd.grad(out.sum(), x)
    except EBMError:
        raise
    except Exception as error:
        raise EBMError(f"{name} failed on its input: {_said(error)}; {expected}", hint) from error
    if not torch.isfinite(out).all() or not torch.isfinite(grad).all():
        raise EBMError(f"{name} is not finite at 0: {expected}", "is it built with its weights?")


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""Kernels by their names, on a model."""

from __future__ import annotations

from typing import Any

from ebmcli.errors import UsageError
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.sampler import KERNELS, Kernel

MOMENTUM = ("adjust", "n_leapfrog", "persistence")
SETTINGS: dict[str, tuple[str, ...]] = {
    "langevin": ("noise",),
    "mala": (),
    "hmc": MOMENTUM,
    "underdamped": MOMENTUM,
}
"""What can be chosen for each kernel besides its step size and temperature."""


def check_kernel(name: str) -> None:
    """Nothing, if there is a kernel of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in KERNELS:
        raise UsageError(f"unknown kernel {name!r}", f"use {', '.join(KERNELS)}")


def has_momentum(name: str) -> bool:
    """Whether a kernel moves its chains by leapfrog steps of a momentum."""
    return SETTINGS.get(name) == MOMENTUM


def is_tested(name: str, adjust: bool = True) -> bool:
    """Whether each step has to pass a Metropolis–Hastings test.

    Args:
        name: of the kernel.
        adjust: what was chosen for the kernels that leave the choice.
    """
    return name == "mala" or (has_momentum(name) and adjust)


def make_kernel(name: str, model: Checkpoint, step_size: float, temperature: float, **chosen: Any) -> Kernel[Any]:
    """A kernel on a model's energy.

    Args:
        name: a key of `sampler.KERNELS`.
        model: whose potential it follows.
        step_size: ε > 0, pixel units.
        temperature: T > 0.
        chosen: settings of `SETTINGS[name]`; None leaves the kernel's own.

    Raises:
        UsageError: there is no such kernel, or it has no such setting.
    """
    check_kernel(name)
    settings = {key: value for key, value in chosen.items() if value is not None}
    for key, value in settings.items():
        if key not in SETTINGS[name]:
            others = " and ".join(other for other, keys in SETTINGS.items() if key in keys)
            raise UsageError(f"`{key}` {value} is for kernel {others}, not for {name}", "leave one of them out")
    return KERNELS[name](model.potential, step_size, temperature=temperature, **settings)

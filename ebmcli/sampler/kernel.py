"""What every kernel is: a target, `init`, `step(state) -> state, info`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ebmcli.networks import Shape
    from ebmcli.random.streams import Stream


class Target(Protocol):
    """An energy to sample from: a `Potential`, a `Magnetised` one, or any object of this form."""

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of one state."""
        ...

    @property
    def temperature(self) -> float:
        """T: the density is exp(−U/T), unless a kernel is told another T."""
        ...

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U(x) [n] and ∂U/∂x [n c h w] of x [n c h w]."""
        ...


class State(Protocol):
    """Chains between two steps; a kernel may keep more than this (HMC its momentum)."""

    @property
    def x(self) -> Tensor:
        """Where the chains stand [n c h w], pixel units."""
        ...

    @property
    def energy(self) -> Tensor:
        """U(x) [n], not divided by T."""
        ...

    @property
    def grad(self) -> Tensor:
        """∂U/∂x [n c h w]."""
        ...

    @property
    def step(self) -> int:
        """How many steps were made."""
        ...

    @property
    def stream(self) -> Stream:
        """Whose random numbers these are."""
        ...

    @property
    def chains(self) -> Tensor:
        """int64 [n]: number of each chain in the stream."""
        ...


class Info(Protocol):
    """What one step did; kernels with a Metropolis–Hastings test tell more (`MetropolisInfo`)."""

    @property
    def displacement(self) -> Tensor:
        """(ε²/2)·‖∂U/∂x‖/T [n] of the state left, pixel units (r of §3.2)."""
        ...

    @property
    def length(self) -> Tensor:
        """‖x' − x‖ [n], pixel units; 0 where a proposal was refused."""
        ...


S = TypeVar("S", bound=State)


class Kernel(Protocol[S]):
    """A Markov kernel that moves n chains independently of each other.

    `step_size` is ε in pixel units, in one sense for all kernels: the gradient moves a chain by
    (ε²/2)·∂U/∂x/T, fresh noise by ε·z. Kernels are not changed in use; `changed` makes another one.
    """

    @property
    def potential(self) -> Target:
        """What is sampled from."""
        ...

    @property
    def step_size(self) -> float:
        """ε, pixel units."""
        ...

    @property
    def temperature(self) -> float:
        """T, by which the energy is divided."""
        ...

    def init(self, x: Tensor, stream: Stream, chains: Tensor | None = None) -> S:
        """Chains that stand at x [n c h w]; `chains` int64 [n] names their streams (default 0 … n−1)."""
        ...

    def step(self, state: S) -> tuple[S, Info]:
        """One step of every chain."""
        ...


K = TypeVar("K", bound=Kernel[Any])


def changed(kernel: K, **settings: float) -> K:
    """A copy of `kernel` with other settings (`step_size`, `temperature`, …); states serve both.

    Raises:
        AttributeError: the kernel has no setting of that name.
    """
    other = copy.copy(kernel)
    for name, value in settings.items():
        getattr(kernel, name)
        setattr(other, name, value)
    return other


def wide(x: Tensor) -> torch.dtype:
    """The type to sum in: float64, float32 where the device of `x` has no other."""
    return torch.float32 if x.device.type == "mps" else torch.float64

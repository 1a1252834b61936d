"""Langevin dynamics, Eq. 9 and Eq. 12."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ebmcli.engine.choose import Fused
    from ebmcli.random.streams import Stream
    from ebmcli.sampler.kernel import Target


class LangevinState(NamedTuple):
    """Chains between two steps.

    The energy and gradient of the present state are kept, so L steps cost L + 1 gradients and
    the magnitudes over all L + 1 states are there for nothing.
    """

    x: Tensor
    """[n c h w]"""
    energy: Tensor
    """U(x) [n]"""
    grad: Tensor
    """∂U/∂x [n c h w]"""
    step: int
    """how many steps were made"""
    stream: Stream
    chains: Tensor
    """int64 [n]: whose random numbers each chain uses"""


class LangevinInfo(NamedTuple):
    """What one step did, per chain."""

    displacement: Tensor
    """(ε²/2)·‖∂U/∂x‖/T [n] of the state left, pixel units (r of §3.2)"""
    length: Tensor
    """‖x' − x‖ [n], pixel units"""


class Langevin:
    """x' = x − (ε²/2)·∇U(x)/T + τ·ε·z (Eq. 9; with the langevin scale and the ε of training, Eq. 12).

    Args:
        potential: U.
        step_size: ε, pixel units, > 0.
        noise: τ: 1, or 0 for gradient descent.
        temperature: T > 0; left out, the potential's own.
    """

    def __init__(
        self,
        potential: Target,
        step_size: float,
        noise: float = 1.0,
        temperature: float | None = None,
    ) -> None:
        self.potential = potential
        self.step_size = step_size
        self.noise = noise
        self.temperature = potential.temperature if temperature is None else temperature

    @property
    def drift(self) -> float:
        """ε²/(2T): what the gradient is multiplied by."""
        return self.step_size**2 / 2 / self.temperature

    @property
    def fused(self) -> Fused | None:
        """Whole paths in one call, where the potential's backend has them."""
        backend = getattr(self.potential, "backend", None)
        return None if backend is None else backend.fused

    def init(self, x: Tensor, stream: Stream, chains: Tensor | None = None) -> LangevinState:
        """Chains that stand at x [n c h w]; `chains` int64 [n] names their streams (default 0 … n−1)."""
        if chains is None:
            chains = torch.arange(len(x), device=x.device)
        energy, grad = self.potential.energy_and_grad(x)
        return LangevinState(x, energy, grad, 0, stream, chains)

    def step(self, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        """One step of every chain."""
        change = state.grad * -self.drift
        displacement = change.flatten(1).norm(dim=1)
        if self.noise:
            z = state.stream.normal(state.chains, state.step, self.potential.shape)
            change.add_(z, alpha=self.noise * self.step_size)
        x = state.x + change
        energy, grad = self.potential.energy_and_grad(x)
        info = LangevinInfo(displacement, change.flatten(1).norm(dim=1))
        return state._replace(x=x, energy=energy, grad=grad, step=state.step + 1), info

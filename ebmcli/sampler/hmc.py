"""Hamiltonian Monte Carlo with full or partial refreshment of the momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ebmcli.engine.precision import require_float32
from ebmcli.errors import EBMError
from ebmcli.sampler import metropolis
from ebmcli.sampler.kernel import wide
from ebmcli.sampler.metropolis import MetropolisInfo

if TYPE_CHECKING:
    from ebmcli.random.streams import Stream
    from ebmcli.sampler.kernel import Target


class HMCState(NamedTuple):
    """Chains between two steps; energy and gradient of the present state are kept."""

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
    momentum: Tensor
    """p [n c h w] at the end of the last step, in units where it is N(0, 1); zeros before the first"""


class HMC:
    """Leapfrog paths of n steps on H = U(x)/T + ‖p‖²/2, and a test of the whole path (Neal 2011, §5.3).

    A step first renews the momentum, p ← α·p + √(1 − α²)·z (Horowitz 1991), then makes n leapfrog
    steps of ε at one gradient each, then accepts or refuses by ΔH. Where it refuses, p changes its
    sign, without which the law would not be invariant when α > 0. The mass is 1 at every T, which
    makes n = 1 with α = 0 MALA with the same ε, on the same noise.

    A path of half a period (n·ε = πσ√T in a direction of width σ) turns x into −x there and hardly
    changes |x|: where that happens in a slow direction, take another n (Neal 2011, §5.3.2.2).

    Args:
        potential: U.
        step_size: ε of one leapfrog step, pixel units, > 0.
        n_leapfrog: n ≥ 1; a path is n·ε long in the momenta's time.
        persistence: α in [0, 1): 0 draws new momenta, exp(−γ·n·ε) is a friction γ.
        adjust: False takes every proposal: exact only as ε → 0. The infos still tell ΔH, and with
            what probability a test would have accepted.
        temperature: T > 0; left out, the potential's own.

    Raises:
        EBMError: n_leapfrog or persistence is out of its range; the potential computes in less than float32.
    """

    def __init__(
        self,
        potential: Target,
        step_size: float,
        n_leapfrog: int = 10,
        persistence: float = 0.0,
        adjust: bool = True,
        temperature: float | None = None,
    ) -> None:
        if n_leapfrog < 1:
            raise EBMError(f"n_leapfrog is {n_leapfrog}, expected 1 or more", "1 is MALA")
        if not 0 <= persistence < 1:
            raise EBMError(f"persistence is {persistence}, expected 0 <= persistence < 1", "0 renews the momentum")
        if adjust:
            require_float32(potential, "a Metropolis test")
        self.potential = potential
        self.step_size = step_size
        self.n_leapfrog = n_leapfrog
        self.persistence = persistence
        self.adjust = adjust
        self.temperature = potential.temperature if temperature is None else temperature

    @property
    def drift(self) -> float:
        """ε²/(2T): what the gradient is multiplied by in one leapfrog step."""
        return self.step_size**2 / 2 / self.temperature

    def init(self, x: Tensor, stream: Stream, chains: Tensor | None = None) -> HMCState:
        """Chains that stand at x [n c h w]; `chains` int64 [n] names their streams (default 0 … n−1)."""
        if chains is None:
            chains = torch.arange(len(x), device=x.device)
        energy, grad = self.potential.energy_and_grad(x)
        return HMCState(x, energy, grad, 0, stream, chains, torch.zeros_like(x))

    def step(self, state: HMCState) -> tuple[HMCState, MetropolisInfo]:
        """One path and its test, for every chain."""
        eps, T = self.step_size, self.temperature
        start = self._refreshed(state)
        x, p, energy, grad = state.x, start, state.energy, state.grad
        gained = torch.zeros(len(x), dtype=wide(x), device=x.device)
        for _ in range(self.n_leapfrog):
            half = p - (eps / 2 / T) * grad
            x_new = x + eps * half
            energy, grad_new = self.potential.energy_and_grad(x_new)
            p = half - (eps / 2 / T) * grad_new
            gained = gained + metropolis.work(x, grad, x_new, grad_new)
            x, grad = x_new, grad_new

        error = metropolis.energy_error(state.energy, state.grad, energy, grad, gained, eps, T)
        acceptance, accepted = metropolis.decide(error, state.stream, state.chains, state.step)
        if not self.adjust:
            accepted = torch.ones_like(accepted)
        displacement = self.drift * state.grad.flatten(1).norm(dim=1)
        length = (x - state.x).flatten(1).norm(dim=1)
        info = MetropolisInfo(displacement, length.where(accepted, 0.0), acceptance, accepted, error)
        new = state._replace(
            x=metropolis.where(accepted, x, state.x),
            energy=metropolis.where(accepted, energy, state.energy),
            grad=metropolis.where(accepted, grad, state.grad),
            step=state.step + 1,
            momentum=metropolis.where(accepted, p, -start),
        )
        return new, info

    def _refreshed(self, state: HMCState) -> Tensor:
        """p [n c h w] for the path to come: before step 0 there is none to keep."""
        z = state.stream.normal(state.chains, state.step, self.potential.shape)
        if self.persistence == 0 or state.step == 0:
            return z
        return self.persistence * state.momentum + math.sqrt(1 - self.persistence**2) * z


def underdamped(
    potential: Target,
    step_size: float,
    persistence: float = 0.9,
    n_leapfrog: int = 1,
    adjust: bool = True,
    temperature: float | None = None,
) -> HMC:
    """Underdamped Langevin: one leapfrog step, then a partial refreshment (Horowitz 1991); as `HMC`.

    Momenta last for about 1/(1 − α) steps, and are turned round by each refusal: it pays where nearly
    all proposals are accepted.
    """
    return HMC(potential, step_size, n_leapfrog, persistence, adjust, temperature)

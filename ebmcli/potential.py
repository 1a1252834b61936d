"""The energy U(x; θ) = energy_scale · F(x; θ), and the one door to its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebmcli.engine.choose import Backend, choose
from ebmcli.networks import Shape


class EnergyAndGrad(NamedTuple):
    """Energies U [n] and their gradients ∂U/∂x [n c h w]."""

    energy: Tensor
    grad: Tensor


class Potential(nn.Module):
    """An energy-based model p(x) ∝ exp(−U(x)/T) (Eq. 1) with U = energy_scale · F.

    Low energy means likely, everywhere in this package.

    Args:
        network: F, one scalar an image: [n c h w] -> [n].
        shape: (channels, height, width) of one state.
        energy_scale: 2/ε² with the step size of *training* (Eq. 11), 1 (Eq. 2), or any positive
            number. It belongs to the model: a long run with another step size keeps it.
        temperature: T, by which kernels divide U unless told otherwise.
        backend: how gradients are computed: `auto`, or a name of `ebmcli.engine.choose.BACKENDS`.
        precision: of `energy` and `energy_and_grad`: float32, or on a CUDA device tf32 or bf16, which are faster and
            good enough for short chains only; kernels with a Metropolis test refuse them.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Shape,
        energy_scale: float = 1.0,
        temperature: float = 1.0,
        backend: str = "auto",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.energy_scale = energy_scale
        self.temperature = temperature
        self.requested_backend = backend
        self.precision = precision
        self._backend: Backend | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy chooses its own backend: this one reads the weights of the network it was made for.
        return {**self.__dict__, "_backend": None}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where chains run; the CPU for an energy without weights."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def backend(self) -> Backend:
        """What computes the gradients; chosen, and checked against plain autograd, at first use."""
        if self._backend is None or self._backend.device != self.device:
            self._backend = choose(self.network, self.shape, self.device, self.requested_backend, self.precision)
        return self._backend

    def forward(self, x: Tensor) -> Tensor:
        """U(x) [n] of x [n c h w], differentiable in x and in the weights."""
        return self.energy_scale * self.network(x).flatten()

    def energy(self, x: Tensor) -> Tensor:
        """U(x) [n] of x [n c h w], without a graph; in fixed blocks, as `energy_and_grad`."""
        return self.energy_scale * self.backend.energy(x)

    def energy_and_grad(self, x: Tensor) -> EnergyAndGrad:
        """U(x) [n] and ∂U/∂x [n c h w] of x [n c h w]: every sampler gets its gradient here.

        Chains are computed in blocks of one fixed size, so that a chain's numbers do not depend
        on how many others are in the batch.
        """
        value, grad = self.backend.energy_and_grad(x)
        return EnergyAndGrad(self.energy_scale * value, self.energy_scale * grad)

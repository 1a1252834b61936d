"""The magnetised energy of attraction–diffusion (Hill, Nijkamp & Zhu 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.sampler.kernel import wide

if TYPE_CHECKING:
    from ebmcli.networks import Shape
    from ebmcli.sampler.kernel import Target


class Magnetised:
    """V(x) = U(x)/T + α·‖x − x*‖₂: a pull of constant strength α towards x*, each chain its own.

    A target for any kernel. T is inside V already, so its own temperature is 1, and so is that of
    kernels made for it: exp(−V). With U flat, chains settle at a distance of about D/α from x*
    (D pixels: the distance is Gamma(D) with rate α).

    Args:
        potential: U; stays available as `potential`, and from a state's V by `raw_energy`.
        targets: x* [n c h w], one a chain in the order of the chains, or [1 c h w] for all.
        strength: α ≥ 0, in 1/pixel units: a number, or [n] on the chains' device.
        temperature: T > 0; left out, the potential's own.

    Raises:
        EBMError: the targets are not of the potential's shape, or do not fit the strengths.
    """

    temperature = 1.0

    def __init__(
        self, potential: Target, targets: Tensor, strength: float | Tensor, temperature: float | None = None
    ) -> None:
        if targets.dim() != 4 or tuple(targets.shape[1:]) != tuple(potential.shape):
            expected = " ".join(map(str, potential.shape))
            raise EBMError(f"targets are {list(targets.shape)}, expected [n {expected}]")
        self.potential = potential
        self.targets = targets
        self.strength = torch.as_tensor(strength, dtype=targets.dtype, device=targets.device)
        if self.strength.shape not in {(), (1,), (len(targets),)} and len(targets) != 1:
            raise EBMError(f"strengths are {list(self.strength.shape)}, expected one, or [{len(targets)}]")
        self.scale = potential.temperature if temperature is None else temperature

    @property
    def precision(self) -> str:
        """That of the potential."""
        return getattr(self.potential, "precision", "float32")

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of one state."""
        return self.potential.shape

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V(x) [n] and ∂V/∂x [n c h w] of x [n c h w]; at x = x* the pull is taken as 0."""
        energy, grad = self.potential.energy_and_grad(x)
        offset, distance = self._offset(x)
        # Where the distance is 0 so is the offset: any divisor does.
        pull = self.strength / distance.where(distance > 0, 1.0)
        value = (energy / self.scale + self.strength * distance).to(energy)
        return value, grad / self.scale + (pull.view(-1, 1, 1, 1) * offset).to(grad)

    def distance(self, x: Tensor) -> Tensor:
        """‖x − x*‖₂ [n], pixel units."""
        return self._offset(x)[1].to(x)

    def raw_energy(self, x: Tensor, value: Tensor) -> Tensor:
        """U(x) [n] out of V(x) [n], without another gradient; right to V's rounding, times T."""
        distance = self._offset(x)[1]
        return (self.scale * (value - self.strength * distance)).to(value)

    def _offset(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x − x* and its length, in float64 where there is one: squares of small numbers must not vanish."""
        if len(self.targets) not in (1, len(x)):
            raise EBMError(f"there are {len(self.targets)} targets for {len(x)} chains", "one a chain, or one for all")
        offset = (x - self.targets).to(wide(x))
        return offset, offset.flatten(1).norm(dim=1)

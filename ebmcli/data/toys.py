"""The two-dimensional toys: densities known exactly, and samplers that draw from exactly those densities.

`gmm`: eight Gaussians of standard deviation 0.15 on a circle of radius 1. `rings`: four rings of radius
1, 2, 3, 4 and radial standard deviation 0.15, of equal weight. Points are images of one pixel and two
channels, `[n 2 1 1]`, so that the networks, samplers and trainer see nothing special in them.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Toy(ABC):
    """A density on the plane with an exact sampler.

    Attributes:
        name: what recipes call it.
        extent: half the side of a square around the origin that holds all but 1e-8 of the mass.
    """

    name: str
    extent: float

    @abstractmethod
    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw `n` independent points `[n 2 1 1]`, float32, on the generator's device."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Log density `[n]` of points `[n 2]` or `[n 2 1 1]`, normalised, in the precision of `x`.

        Raises:
            EBMError: `x` has another shape.
        """

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density `[n 2]`, arguments as `log_density`."""

    def energy(self, x: Tensor) -> Tensor:
        """The true energy `[n]`: minus the log density, so that exp(-energy) integrates to 1."""
        return -self.log_density(x)


@dataclass(frozen=True)
class GaussianMixture(Toy):
    """Equal Gaussians evenly on a circle, the first at angle 0."""

    modes: int = 8
    radius: float = 1.0
    sd: float = 0.15

    def centres(self) -> Tensor:
        """Centres of the modes `[modes 2]`, float64."""
        import torch

        angle = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Choose a mode, add isotropic Gaussian noise: `[n 2 1 1]` float32."""
        import torch

        device = _device(generator)
        mode = torch.randint(self.modes, (n,), generator=generator, device=device)
        noise = torch.randn(n, 2, generator=generator, device=device, dtype=torch.float64)
        return _as_images(self.centres().to(device)[mode] + self.sd * noise)

    def log_density(self, x: Tensor) -> Tensor:
        """log of the mean of the Gaussians' densities, `[n]`."""
        import torch

        x = _as_points(x)
        distance2 = (x[:, None] - self.centres().to(x)).square().sum(dim=2)
        norm = math.log(self.modes * 2 * math.pi * self.sd**2)
        return torch.logsumexp(-distance2 / (2 * self.sd**2), dim=1) - norm

    def score(self, x: Tensor) -> Tensor:
        """Towards the mean of the centres, each weighted by how likely the point is its own, `[n 2]`."""
        import torch

        x = _as_points(x)
        centres = self.centres().to(x)
        offset = centres - x[:, None]
        own = torch.softmax(-offset.square().sum(dim=2) / (2 * self.sd**2), dim=1)
        return (own[:, :, None] * offset).sum(dim=1) / self.sd**2


@dataclass(frozen=True)
class Rings(Toy):
    """Concentric rings of equal weight with Gaussian radius and uniform angle.

    The sampler draws a signed radius s ~ N(R_k, sd²) and an angle θ, and returns s·(cos θ, sin θ). A negative
    s (probability 1.3e-11 with the defaults) is thus a point at distance |s| in the opposite direction, and
    the density of the distance is the folded normal. Divided by the circumference this is, exactly,

        p(x, y) = 1/K Σ_k [N(r; R_k, sd) + N(-r; R_k, sd)] / (2πr),   r = sqrt(x² + y²).

    It is integrable but grows like 1/r at r → 0; below r = 1e-12 the value at 1e-12 is returned, so that the
    energy and its gradient stay finite everywhere.
    """

    radii: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    sd: float = 0.15

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Choose a ring, then a signed radius and an angle: `[n 2 1 1]` float32."""
        import torch

        device = _device(generator)
        radii = torch.tensor(self.radii, dtype=torch.float64, device=device)
        ring = torch.randint(len(self.radii), (n,), generator=generator, device=device)
        noise = torch.randn(n, generator=generator, device=device, dtype=torch.float64)
        turn = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        radius, angle = radii[ring] + self.sd * noise, 2 * math.pi * turn
        return _as_images(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))

    def log_density(self, x: Tensor) -> Tensor:
        """log of the folded-normal mixture over the circumference, `[n]`."""
        import torch

        x = _as_points(x)
        r = x.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
        radii = torch.tensor(self.radii, dtype=x.dtype, device=x.device)
        signed = torch.cat([r - radii, r + radii], dim=1)  # N(-r; R, sd) = N(r; -R, sd)
        norm = math.log(len(self.radii) * math.sqrt(2 * math.pi) * self.sd * 2 * math.pi)
        return torch.logsumexp(-signed.square() / (2 * self.sd**2), dim=1) - r[:, 0].log() - norm

    def score(self, x: Tensor) -> Tensor:
        """Along the radius, `[n 2]`; 0 below r = 1e-12."""
        import torch

        x = _as_points(x)
        r = x.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
        radii = torch.tensor(self.radii, dtype=x.dtype, device=x.device)
        signed = torch.cat([r - radii, r + radii], dim=1)
        own = torch.softmax(-signed.square() / (2 * self.sd**2), dim=1)
        slope = -(own * signed).sum(dim=1, keepdim=True) / self.sd**2 - 1 / r
        return (slope / r).where(r > 1e-12, 0.0) * x


TOYS: dict[str, Toy] = {
    toy.name: toy for toy in (GaussianMixture(name="gmm", extent=2.0), Rings(name="rings", extent=5.0))
}


def load_toy(name: str) -> Toy:
    """The toy of that name.

    Raises:
        EBMError: no toy is called so; the hint names the nearest one and all there are.
    """
    if name in TOYS:
        return TOYS[name]
    near = difflib.get_close_matches(name, TOYS, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise EBMError(f"there is no toy called {name!r}", f"{guess}toys: {', '.join(TOYS)}")


def _device(generator: Generator | None) -> str:
    return "cpu" if generator is None else str(generator.device)


def _as_images(points: Tensor) -> Tensor:
    return points.float()[:, :, None, None]


def _as_points(x: Tensor) -> Tensor:
    """Points `[n 2]` from `[n 2]` or `[n 2 1 1]`."""
    if tuple(x.shape[1:]) not in {(2,), (2, 1, 1)}:
        raise EBMError(f"a toy's density takes points [n 2] or [n 2 1 1], received {list(x.shape)}")
    return x.flatten(1)

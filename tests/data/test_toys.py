"""The toys: densities that integrate to 1, and samplers that draw from exactly those densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ebmcli.data import TOYS, GaussianMixture, Rings, Toy, load_toy
from ebmcli.errors import EBMError


@pytest.fixture(params=list(TOYS))
def toy(request: pytest.FixtureRequest) -> Toy:
    return load_toy(request.param)


def _polar(toy: Toy, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    points = toy.sample(n, torch.Generator().manual_seed(3)).double().flatten(1)
    x, y = points[:, 0].numpy(), points[:, 1].numpy()
    return np.hypot(x, y), np.arctan2(y, x)


def _polar_density(toy: Toy, r: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """p(r cos θ, r sin θ)·r on the grid r × θ, which integrates to 1 over dr dθ."""
    x = torch.stack([r[:, None] * angle.cos(), r[:, None] * angle.sin()], dim=2)
    return toy.log_density(x.reshape(-1, 2)).exp().reshape(len(r), -1) * r[:, None]


def _midpoints(low: float, high: float, n: int) -> torch.Tensor:
    return low + (torch.arange(n, dtype=torch.float64) + 0.5) * ((high - low) / n)


def _radius_cdf(toy: Toy, r: np.ndarray) -> np.ndarray:
    grid, angle = _midpoints(0, toy.extent, 2000), _midpoints(0, 2 * math.pi, 128)
    mass = _polar_density(toy, grid, angle).mean(dim=1) * 2 * math.pi * (toy.extent / len(grid))
    edges = np.linspace(0, toy.extent, len(grid) + 1)
    return np.interp(r, edges, np.concatenate([[0.0], mass.cumsum(0).numpy()]))


def test_the_density_integrates_to_one_on_a_cartesian_grid(toy: Toy) -> None:
    n = 1000
    axis = _midpoints(-toy.extent, toy.extent, n)
    grid = torch.cartesian_prod(axis, axis)
    total = toy.log_density(grid).exp().sum() * (2 * toy.extent / n) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-4)


def test_the_extent_holds_the_mass(toy: Toy) -> None:
    r, angle = _midpoints(0, toy.extent, 4000), _midpoints(0, 2 * math.pi, 256)
    total = _polar_density(toy, r, angle).mean() * 2 * math.pi * toy.extent
    assert total.item() == pytest.approx(1.0, abs=1e-7)


def test_the_sampler_passes_kolmogorov_smirnov_on_the_radius(toy: Toy) -> None:
    radius, _ = _polar(toy)
    assert stats.kstest(radius, lambda r: _radius_cdf(toy, r)).pvalue > 0.01


def test_the_angle_of_the_rings_is_uniform() -> None:
    _, angle = _polar(load_toy("rings"))
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


def test_the_angle_of_the_gaussians_follows_the_density() -> None:
    toy = load_toy("gmm")
    _, angle = _polar(toy)
    grid = _midpoints(-math.pi, math.pi, 2000)
    mass = _polar_density(toy, _midpoints(0, toy.extent, 400), grid).mean(dim=0) * toy.extent
    cdf = np.concatenate([[0.0], (mass.cumsum(0) * 2 * math.pi / len(grid)).numpy()])
    edges = np.linspace(-math.pi, math.pi, len(grid) + 1)
    assert stats.kstest(angle, lambda a: np.interp(a, edges, cdf)).pvalue > 0.01


def test_a_wrong_density_fails_the_same_check() -> None:
    radius, _ = _polar(Rings(name="wider", extent=5.0, sd=0.2))
    assert stats.kstest(radius, lambda r: _radius_cdf(load_toy("rings"), r)).pvalue < 1e-4


def test_a_broad_ring_that_reaches_through_the_origin_is_still_normalised() -> None:
    """With sd near the radius a third of the signed radii are negative: the folded density counts them."""
    toy = Rings(name="broad", extent=9.0, radii=(0.5,), sd=1.0)
    r, angle = _midpoints(0, toy.extent, 4000), _midpoints(0, 2 * math.pi, 8)
    assert (_polar_density(toy, r, angle).mean() * 2 * math.pi * toy.extent).item() == pytest.approx(1, abs=1e-7)
    radius, _ = _polar(toy)
    assert stats.kstest(radius, stats.foldnorm(c=0.5).cdf).pvalue > 0.01


def test_shapes_types_and_repeatability(toy: Toy) -> None:
    first, again = (toy.sample(7, torch.Generator().manual_seed(0)) for _ in range(2))
    assert first.shape == (7, 2, 1, 1)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert toy.log_density(first).shape == (7,)
    assert toy.log_density(first.double()).dtype == torch.float64
    assert torch.equal(toy.energy(first), -toy.log_density(first.flatten(1)))


def test_the_energy_has_finite_gradients_everywhere(toy: Toy) -> None:
    x = torch.tensor([[0.0, 0.0], [1e-20, 0.0], [1.0, 0.0], [30.0, -30.0]], requires_grad=True)
    energy = toy.energy(x)
    [gradient] = torch.autograd.grad(energy.sum(), x)
    assert energy.isfinite().all()
    assert gradient.isfinite().all()


def test_the_gaussians_density_is_scipys() -> None:
    toy = load_toy("gmm")
    assert isinstance(toy, GaussianMixture)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.mean([stats.multivariate_normal(m, 0.15**2).pdf(x.numpy()) for m in toy.centres().numpy()], axis=0)
    np.testing.assert_allclose(toy.log_density(x).exp(), expected, rtol=1e-10)


def test_errors() -> None:
    with pytest.raises(EBMError, match="no toy called 'ring'") as unknown:
        load_toy("ring")
    assert unknown.value.hint == "did you mean rings? toys: gmm, rings"
    with pytest.raises(EBMError, match=r"\[n 2 1 1\], received \[4, 3\]"):
        load_toy("gmm").log_density(torch.zeros(4, 3))

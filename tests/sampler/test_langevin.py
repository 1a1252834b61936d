"""Langevin dynamics: its stationary law, its limits, and paths in one piece or many."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ebmcli.native import stack as native
from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, LangevinState, run, sample

needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())
BACKENDS = [pytest.param("native", marks=needs_kernel), "generic"]
SHAPE = (2, 8, 8)


class Quadratic(nn.Module):
    """F = ‖x‖²/2: with energy scale 1/σ² a Gaussian of sd σ."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().flatten(1).sum(1)


def gaussian(sd: float, temperature: float = 1.0) -> Potential:
    return Potential(Quadratic(), SHAPE, energy_scale=1 / sd**2, temperature=temperature)


def vanilla(backend: str, scale: float = 60.0) -> Potential:
    shape = (1, 16, 16)
    return Potential(build("vanilla", shape, seed=1, width=8), shape, scale, backend=backend)


def images(n: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n)) * 2 - 1


@pytest.mark.parametrize(
    ("sd", "step_size", "temperature"),
    [(1.0, 1.0, 1.0), (1.0, 0.5, 1.0), (0.5, 0.8, 1.0), (1.0, 1.0, 2.0), (0.5, 0.4, 0.25)],
)
def test_stationary_variance_is_that_of_the_discrete_chain(sd: float, step_size: float, temperature: float) -> None:
    """σ²T / (1 − ε²/(4σ²T)), which is what Eq. 9 leaves invariant on U = ‖x‖²/(2σ²) at temperature T."""
    potential = gaussian(sd)
    kernel = Langevin(potential, step_size, temperature=temperature)
    variance = sd**2 * temperature
    expected = variance / (1 - step_size**2 / (4 * variance))
    memory = 1 - step_size**2 / (2 * variance)  # correlation of neighbouring states
    state = kernel.init(torch.zeros(160, *SHAPE), Stream(0, Purpose.MCMC))
    burn_in = 5 + math.ceil(math.log(1e-4) / math.log(max(memory, 0.2)))
    state = run(kernel, state, burn_in).state
    assert potential.backend.name == "generic"
    seen, products = [], []
    for _ in range(8):
        before, state = state, run(kernel, state, burn_in // 2).state
        after, _ = kernel.step(state)
        seen.append(state.x.square().mean().item())
        products.append((state.x * after.x).mean().item())
        assert not torch.equal(before.x, state.x)
    # The pieces are nearly independent: the relative error of a variance from N numbers is √(2/N).
    error = expected * math.sqrt(2 / (8 * state.x.numel()))
    got = sum(seen) / len(seen)
    assert abs(got - expected) < 5 * error
    assert abs(got - variance) > 5 * error  # and that is not the exact law's
    assert abs(sum(products) / len(products) - memory * expected) < 6 * error


def test_the_potentials_own_temperature_is_the_default() -> None:
    """T of the potential unless the kernel is told another one."""
    potential = gaussian(1.0, temperature=3.0)
    assert Langevin(potential, 0.1).temperature == 3.0
    assert Langevin(potential, 0.1, temperature=0.5).drift == pytest.approx(0.01)


def test_without_noise_it_is_gradient_descent() -> None:
    """τ = 0: x_L = x_0 (1 − ε²/(2σ²T))^L exactly, on a straight line, and the energy falls."""
    sd, step_size, temperature, steps = 0.7, 0.3, 2.0, 20
    kernel = Langevin(gaussian(sd), step_size, noise=0.0, temperature=temperature)
    x = images(6, SHAPE)
    path = run(kernel, kernel.init(x, Stream(0, Purpose.MCMC)), steps)
    factor = (1 - step_size**2 / (2 * sd**2 * temperature)) ** torch.arange(steps + 1.0)
    torch.testing.assert_close(path.state.x, x * factor[-1], rtol=1e-4, atol=1e-6)
    norm = x.flatten(1).norm(dim=1)
    torch.testing.assert_close(path.gradient_magnitude, factor[:, None] * norm / sd**2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(path.energy, (factor[:, None] * norm) ** 2 / (2 * sd**2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(path.length, (1 - factor[-1]) * norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_equation_9(backend: str) -> None:
    """x − (ε²/2)∇U/T + τεz with the stream's z of that chain and step; the info says how far it went."""
    potential, stream = vanilla(backend), Stream(4, Purpose.MCMC, 17)
    kernel = Langevin(potential, step_size=0.05, noise=0.5, temperature=2.0)
    x, chains = images(5, potential.shape), torch.tensor([9, 0, 2**40, 3, 77])
    state = kernel.init(x, stream, chains)
    for step in range(3):
        z = stream.normal(chains, step, potential.shape)
        new, info = kernel.step(state)
        expected = state.x - 0.05**2 / 2 * state.grad / 2.0 + 0.5 * 0.05 * z
        torch.testing.assert_close(new.x, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(info.length, (new.x - state.x).flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)
        r = 0.05**2 / 2 / 2.0 * state.grad.flatten(1).norm(dim=1)
        torch.testing.assert_close(info.displacement, r, rtol=1e-5, atol=1e-8)
        state = new
    path = run(kernel, kernel.init(x, stream, chains), 3)
    assert potential.backend.name == backend
    torch.testing.assert_close(path.state.x, state.x, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(path.energy[-1], state.energy, rtol=1e-4, atol=1e-4)


def test_with_the_training_step_the_langevin_scale_cancels() -> None:
    """Eq. 12: x' = x − ∇F(x) + εz when U = (2/ε²)·F and the step is that ε."""
    epsilon, shape = 0.015, (1, 16, 16)
    network = build("vanilla", shape, seed=1, width=8)
    kernel = Langevin(Potential(network, shape, 2 / epsilon**2), epsilon)
    x, stream = images(3, shape), Stream(0, Purpose.MCMC)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(y).sum(), y)
    expected = x - slope + epsilon * stream.normal(torch.arange(3), 0, shape)
    torch.testing.assert_close(kernel.step(kernel.init(x, stream))[0].x, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_path_in_pieces_is_the_path_in_one(backend: str) -> None:
    """Bit for bit, whatever the pieces: noise belongs to the step's number."""
    potential = vanilla(backend)
    kernel, steps = Langevin(potential, step_size=0.05), 5
    start = kernel.init(images(20, potential.shape), Stream(1, Purpose.MCMC, 2))
    whole = run(kernel, start, steps)
    assert potential.backend.name == backend
    for every in (1, 2, 20):
        pieces = list(sample(kernel, start, steps, every))
        assert len(pieces) == -(-steps // every)
        end = pieces[-1].state
        assert end.step == whole.state.step == steps
        assert torch.equal(end.x, whole.state.x)
        assert torch.equal(end.energy, whole.state.energy)
        assert torch.equal(end.grad, whole.state.grad)
        energies = torch.cat([pieces[0].energy, *(p.energy[1:] for p in pieces[1:])])
        assert torch.equal(energies, whole.energy)
        torch.testing.assert_close(sum(p.length for p in pieces), whole.length)
    nothing = run(kernel, start, 0)
    assert torch.equal(nothing.state.x, start.x)
    assert torch.equal(nothing.energy[0], start.energy)
    assert not nothing.length.any()
    assert list(sample(kernel, start, 0)) == []


def test_a_path_of_l_steps_costs_l_plus_one_gradients() -> None:
    """The present state's energy and gradient are kept; r and v over the path come for nothing."""
    calls = 0

    class Counted(Quadratic):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x)

    potential = Potential(Counted(), SHAPE)
    kernel = Langevin(potential, 0.1)
    assert potential.backend.name == "generic"
    calls = 0
    state: LangevinState = kernel.init(images(4, SHAPE), Stream(0, Purpose.MCMC))
    run(kernel, state, 10)
    assert calls == 11

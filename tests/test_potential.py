"""The contract of energies, gradients and Langevin steps, over all networks and backends."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebmcli.native import stack as native
from ebmcli.networks import NETWORKS, NonLocalBlock, Shape, build, is_points
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run

needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())
CASES: dict[str, tuple[str, Shape, dict[str, Any]]] = {
    "toy": ("toy", (2, 1, 1), {"width": 32}),
    "vanilla 16": ("vanilla", (1, 16, 16), {"width": 8}),
    "vanilla 28": ("vanilla", (3, 28, 28), {"width": 8}),
    "vanilla space to depth": ("vanilla", (1, 16, 16), {"width": 8, "space_to_depth": True}),
    "nonlocal 16": ("nonlocal", (1, 16, 16), {"width": 8}),
    "nonlocal 32": ("nonlocal", (3, 32, 32), {"width": 4}),
}
RUNS = [
    pytest.param(case, backend, marks=needs_kernel if backend == "native" else ())
    for case in CASES
    for backend in ("native", "stack", "generic")
    if not (backend == "native" and case.startswith("nonlocal"))
]

SLOW = [("vanilla space to depth", "generic"), ("nonlocal 32", "generic")]
"""Much like a case that is tested; the stack has such a test of its own."""


def made(case: str) -> tuple[nn.Module, Shape]:
    name, shape, arguments = CASES[case]
    network = build(name, shape, seed=2, **arguments)
    if name == "nonlocal":  # new blocks are the identity: give them something to do
        for module in network.modules():
            if isinstance(module, NonLocalBlock):
                nn.init.normal_(module.W.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return network, shape


def images(n: int, shape: Shape, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_network_is_here() -> None:
    """A new network joins the contract."""
    assert {name for name, _, _ in CASES.values()} == set(NETWORKS)


@pytest.mark.parametrize(("case", "backend"), RUNS)
def test_contract(case: str, backend: str) -> None:
    """Shapes, types, finite values; one energy everywhere; gradients are autograd's in float64; states stay bound."""
    network, shape = made(case)
    scale, n = 50.0, 5
    potential = Potential(network, shape, scale, temperature=1.5, backend=backend)
    x = images(n, shape)
    energy, grad = potential.energy_and_grad(x)
    assert potential.backend.name == backend
    assert energy.shape == (n,)
    assert grad.shape == x.shape
    assert energy.dtype == grad.dtype == torch.float32
    assert not energy.requires_grad
    assert not grad.requires_grad
    assert grad.isfinite().all()

    torch.testing.assert_close(potential.energy(x), energy, rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(potential(x).detach(), energy, rtol=1e-5, atol=1e-5 * scale)
    exact = x.double().requires_grad_()
    exact_energy = scale * copy.deepcopy(network).double()(exact).flatten()
    (exact_grad,) = torch.autograd.grad(exact_energy.sum(), exact)
    torch.testing.assert_close(energy.double(), exact_energy.detach(), rtol=1e-4, atol=1e-5 * scale)
    assert (grad - exact_grad).norm() < 1e-4 * exact_grad.norm()

    sampler = Langevin(potential, step_size=0.02)
    assert sampler.temperature == 1.5
    state = sampler.init(x, Stream(0, Purpose.MCMC))
    assert torch.equal(state.energy, energy)
    assert torch.equal(state.grad, grad)
    new, info = sampler.step(state)
    assert state.step == 0
    assert new.step == 1
    assert new.x.shape == x.shape
    assert new.x.dtype == torch.float32
    assert torch.equal(state.chains, torch.arange(n))
    assert all(value.shape == (n,) and value.isfinite().all() for value in info)
    again = potential.energy_and_grad(new.x)
    assert torch.equal(new.energy, again.energy)
    assert torch.equal(new.grad, again.grad)
    path = run(sampler, state, 3)
    assert path.energy.shape == path.gradient_magnitude.shape == (4, n)
    assert path.state.step == 3
    assert torch.equal(path.energy[0], energy)
    assert torch.equal(path.energy[-1], path.state.energy)
    assert not path.state.x.requires_grad


@pytest.mark.parametrize(("case", "backend"), [r for r in RUNS if r.values[1] != "stack" and r.values not in SLOW])
def test_a_chain_does_not_depend_on_its_batch(case: str, backend: str, threads: None) -> None:
    """The same bits alone, among 3, 16, 33 or 64, in another place, with one thread or two; the input is untouched."""
    network, shape = made(case)
    potential = Potential(network, shape, 50.0, backend=backend)
    kernel, stream = Langevin(potential, step_size=0.05), Stream(3, Purpose.MCMC, 8)
    x, chains = images(64, shape), torch.arange(64) + 1000
    torch.set_num_threads(2)
    energy, grad = potential.energy_and_grad(x)
    plain = potential.energy(x)
    path = run(kernel, kernel.init(x, stream, chains), 1)
    assert potential.backend.name == backend
    for n, count in ((1, 1), (3, 2), (16, 1), (33, 2), (64, 1)):
        torch.set_num_threads(count)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(n))[:n]
        part = x[order].requires_grad_(n == 3)
        before = part.detach().clone()
        got = potential.energy_and_grad(part)
        assert torch.equal(got.energy, energy[order])
        assert torch.equal(got.grad, grad[order])
        assert torch.equal(potential.energy(part), plain[order])
        assert torch.equal(part, before)
        assert part.requires_grad == (n == 3)
        assert part.grad is None
        end = run(kernel, kernel.init(before, stream, chains[order]), 1)
        assert torch.equal(end.state.x, path.state.x[order])
        assert torch.equal(end.energy, path.energy[:, order])
        assert torch.equal(end.gradient_magnitude, path.gradient_magnitude[:, order])
        assert torch.equal(end.length, path.length[order])
        assert torch.equal(before, part)
        assert not before.requires_grad


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_kernel), "generic"])
def test_the_energy_is_the_scaled_network_and_the_weights_keep_their_gradients(backend: str) -> None:
    """U = s·F; sampling leaves .grad and requires_grad of the weights alone; forward is differentiable in both."""
    network, shape = made("vanilla 16")
    x = images(4, shape)
    one, other = (Potential(network, shape, s, backend=backend).energy_and_grad(x) for s in (1.0, 8.0))
    assert torch.equal(other.energy, 8 * one.energy)
    assert torch.equal(other.grad, 8 * one.grad)
    potential = Potential(network, shape, 8.0, backend=backend)
    potential.energy_and_grad(x)
    assert all(p.grad is None and p.requires_grad for p in potential.parameters())
    y = x.clone().requires_grad_()
    potential(y).sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(y.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in potential.parameters())
    with torch.no_grad():
        assert torch.equal(potential.energy_and_grad(x).grad, other.grad)


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_kernel), "generic"])
def test_memory_formats_are_the_callers_own(backend: str) -> None:
    """channels_last and strided images give the same bits as contiguous ones."""
    network, shape = made("vanilla 28")
    potential, x = Potential(network, shape, backend=backend), images(6, shape)
    expected = potential.energy_and_grad(x)
    for same in (x.to(memory_format=torch.channels_last), x.repeat_interleave(2, dim=3)[..., ::2]):
        got = potential.energy_and_grad(same)
        assert torch.equal(got.energy, expected.energy)
        assert torch.equal(got.grad, expected.grad)


def test_a_potential_knows_its_device_with_and_without_weights() -> None:
    """Chains run where the weights are; an energy without weights is on the CPU."""
    network, shape = made("toy")
    assert Potential(network.to("meta"), shape).device == torch.device("meta")
    assert Potential(nn.Flatten(), shape).device == torch.device("cpu")


def test_points_are_told_from_images_by_their_shape() -> None:
    """A state of one pixel is a point, with however many coordinates."""
    assert [shape for shape in ((2, 1, 1), (5, 1, 1), (1, 16, 16), (3, 1, 8)) if is_points(shape)] == [
        (2, 1, 1),
        (5, 1, 1),
    ]

"""What needs a CUDA device: recorded gradients and paths, their noise, precision, and no waiting within a path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ebmcli.engine import choose as engine
from ebmcli.engine.stack import Stack
from ebmcli.networks import NonLocal, NonLocalBlock, Shape, Toy, Vanilla
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
SETTINGS = {"step_size": 0.05, "scale": 1.0, "noise": 1.0, "temperature": 1.0, "key": 0xFEDCBA9876543210}


class Wave(nn.Module):
    """Known to the generic backend only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        """Σ sin(scale·x) [n]."""
        return torch.sin(self.scale * x).flatten(1).sum(1)


class Asking(Wave):
    """Cannot be recorded: it asks the device for a value."""

    def forward(self, x: Tensor) -> Tensor:
        """As `Wave`."""
        return super().forward(x) * (1 if self.scale.item() > 0 else 2)


CASES: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "toy": (lambda: Toy((2, 1, 1), leak=1.0), (2, 1, 1)),
    "vanilla": (lambda: Vanilla((3, 32, 32), 16, leak=1.0), (3, 32, 32)),
    "folded": (lambda: Vanilla((1, 28, 28), 8, leak=1.0, space_to_depth=True), (1, 28, 28)),
    "nonlocal": (lambda: NonLocal((1, 16, 16), 8, leak=0.2), (1, 16, 16)),
    "wave": (Wave, (1, 8, 8)),
}


def made(name: str) -> tuple[nn.Module, Shape]:
    torch.manual_seed(len(name))
    build, shape = CASES[name]
    network = build()
    for module in network.modules():
        if isinstance(module, NonLocalBlock):
            nn.init.normal_(module.W.weight, std=0.5)
    return network.to(CUDA), shape


def images(n: int, shape: Shape) -> Tensor:
    return (torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)) * 0.7).to(CUDA)


def off(backend: engine.Backend, network: nn.Module, shape: Shape) -> float:
    return engine.disagreement(backend, network, shape, CUDA)


@pytest.fixture
def tf32() -> Iterator[None]:
    """TF32 wherever torch would use it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = kept


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["graph", "stack", "generic"])
def test_gradients_are_those_of_float64_with_tf32_allowed_outside(name: str, backend: str, tf32: None) -> None:
    network, shape = made(name)
    if backend == "stack" and name == "wave":
        pytest.skip("not a network of the stack")
    chosen = engine.choose(network, shape, CUDA, backend)
    assert chosen.name == backend
    assert chosen.note == ""
    assert off(chosen, network, shape) < 1e-5


def test_the_graph_is_chosen() -> None:
    for name in CASES:
        assert engine.choose(*made(name), CUDA).name == "graph"


def test_a_network_that_cannot_be_recorded_runs_without_a_graph() -> None:
    chosen = engine.choose(Asking().to(CUDA), (1, 8, 8), CUDA)
    assert chosen.name == "generic"
    assert "graph failed" in chosen.note
    assert engine.choose(*made("toy"), CUDA).name == "graph"  # the device is sound after the failure


@pytest.mark.parametrize("name", ["toy", "vanilla", "folded"])
def test_a_recorded_path_is_that_of_the_cpu(name: str) -> None:
    """Sixty steps of both graphs, of more chains than a block: the noise of each replay is the right one."""
    network, shape = made(name)
    n = 1100 if name == "toy" else 130
    x, chains = images(n, shape), torch.arange(n) + 2**40
    backend = engine.choose(network, shape, CUDA, "graph")
    assert backend.fused is not None
    path = backend.fused(x, steps=60, chains=chains.to(CUDA), step0=5, **SETTINGS)
    cpu = Stack(copy.deepcopy(network).cpu(), shape, torch.device("cpu"))
    expected = cpu.langevin(x.cpu(), steps=60, chains=chains, step0=5, **SETTINGS)
    for got, want in zip(path, expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)
    other = backend.fused(x, steps=60, chains=chains.to(CUDA), step0=5, **{**SETTINGS, "key": 1})
    assert (other.x - path.x).abs().mean() > 0.01


@pytest.mark.parametrize("name", ["toy", "vanilla", "nonlocal"])
def test_the_same_bits_again_and_in_any_batch(name: str) -> None:
    network, shape = made(name)
    x, chains = images(300, shape), torch.arange(300, device=CUDA)
    backend = engine.choose(network, shape, CUDA, "graph")
    assert backend.fused is not None
    whole = backend.fused(x, steps=27, chains=chains, **SETTINGS)
    for n in (300, 1, 33, 129):
        part = backend.fused(x[-n:], steps=27, chains=chains[-n:], **SETTINGS)
        assert torch.equal(part.x, whole.x[-n:])
        assert torch.equal(part.energy, whole.energy[:, -n:])


def test_weights_are_followed() -> None:
    """In place, by a fused optimiser, and where they moved."""
    network, shape = made("vanilla")
    x = images(8, shape)
    backend = engine.choose(network, shape, CUDA, "graph")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert off(backend, network, shape) < 1e-5
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
    network(x).sum().backward()
    optimizer.step()
    assert off(backend, network, shape) < 1e-5
    for parameter in network.parameters():
        parameter.data = 0.9 * parameter.data
    assert off(backend, network, shape) < 1e-5


@pytest.mark.parametrize("name", ["toy", "vanilla"])
def test_nothing_waits_for_the_device_within_a_path(name: str) -> None:
    network, shape = made(name)
    potential = Potential(network, shape)
    kernel, x = Langevin(potential, 0.05), images(20, shape)
    state = run(kernel, kernel.init(x, Stream(0, Purpose.MCMC)), 26).state
    torch.cuda.set_sync_debug_mode("error")
    try:
        path = run(kernel, state, 51)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert path.state.step == 77
    assert torch.isfinite(path.energy).all()


def test_memory_is_flat() -> None:
    network, shape = made("vanilla")
    backend = engine.choose(network, shape, CUDA, "graph")
    assert backend.fused is not None
    x, chains = images(100, shape), torch.arange(100, device=CUDA)
    backend.fused(x, steps=26, chains=chains, **SETTINGS)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        backend.fused(x, steps=26, chains=chains, **SETTINGS)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before

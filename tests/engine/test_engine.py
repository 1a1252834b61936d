"""The choice of a backend, its check against autograd, and that it follows the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebmcli.engine import choose as engine
from ebmcli.errors import EBMError
from ebmcli.native import stack as native
from ebmcli.networks import Shape, build
from ebmcli.potential import Potential

CPU = torch.device("cpu")
needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())
BACKENDS = [pytest.param("native", marks=needs_kernel), "stack", "generic"]
SHAPE = (1, 16, 16)


def vanilla(seed: int = 0) -> nn.Module:
    return build("vanilla", SHAPE, seed=seed, width=8)


def images(n: int, shape: Shape = SHAPE) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n)) * 2 - 1


@needs_kernel
@pytest.mark.parametrize(
    ("name", "shape", "backend"),
    [
        ("toy", (2, 1, 1), "native"),
        ("vanilla", (1, 16, 16), "native"),
        ("vanilla", (3, 28, 28), "native"),
    ],
)
def test_the_fastest_backend_that_fits_is_chosen(name: str, shape: Shape, backend: str) -> None:
    """The compiled kernel for plain stacks, with nothing to note; without autograd, nonlocal too."""
    chosen = engine.choose(build(name, shape, width=8), shape, CPU)
    assert chosen.name == backend
    assert chosen.note == ""
    assert chosen.fused is not None
    assert engine.choose(build("nonlocal", SHAPE, width=8), SHAPE, CPU).name in ("native", "stack")


class Own(nn.Module):
    """A network of nobody's kind."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sin().sum(1)


def test_anything_else_runs_by_autograd() -> None:
    """A network that no backend knows, and one in float64, in its own precision."""
    potential, x = Potential(Own(), SHAPE, 2.0), images(3)
    torch.testing.assert_close(potential.energy_and_grad(x).grad, 2 * x.cos())
    assert potential.backend.name == "generic"
    wide = Potential(vanilla().double(), SHAPE)
    energy, grad = wide.energy_and_grad(x.double())
    assert wide.backend.name == "generic"
    assert energy.dtype == grad.dtype == torch.float64


def test_a_network_that_works_in_place_leaves_the_images_alone() -> None:
    """Where it runs without a graph; with one, torch refuses it."""
    network = nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Flatten(), nn.Linear(256, 1))
    backend, x = engine.Generic(network, SHAPE, CPU), images(40)
    before = x.clone()
    backend.energy(x)
    assert torch.equal(x, before)


@needs_kernel
def test_a_kink_within_rounding_does_not_reject_a_right_backend() -> None:
    """With seed 0 a pre-activation of one image falls on its kink: a gradient is 8% off, and both are right."""
    network = vanilla(seed=0)
    x = torch.rand(7, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = x.double().requires_grad_()
    (reference,) = torch.autograd.grad(copy.deepcopy(network).double()(exact).sum(), exact)
    grad = engine.Native(network, SHAPE, CPU).energy_and_grad(x)[1]
    each = (grad - reference).abs().flatten(1).amax(1) / reference.abs().max()
    assert each.median() < 1e-5
    for seed in range(12):
        chosen = engine.choose(vanilla(seed), SHAPE, CPU)
        assert chosen.name == "native", chosen.note


def off_by(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> type[engine.Generic]:
    """A backend whose answers are changed."""

    class Wrong(engine.Generic):
        name = "wrong"

        def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return change(*super().energy_and_grad(x))

    return Wrong


def border(energy: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    grad[:, :, 0, 0] *= 1.01
    return energy, grad


WRONG = {
    "gradient": off_by(lambda energy, grad: (energy, grad * 1.001)),
    "one pixel of the gradient": off_by(border),
    "energy": off_by(lambda energy, grad: (energy * 1.01, grad)),
    "not a number": off_by(lambda energy, grad: (energy, grad * float("nan"))),
    "order of images": off_by(lambda energy, grad: (energy, grad.flip(0))),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_backend_is_not_used(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found out when it is built; the generic one runs and says why; forced, it is an error."""
    backends = {"wrong": (lambda *_: True, WRONG[what]), "generic": engine.BACKENDS["generic"]}
    monkeypatch.setattr(engine, "BACKENDS", backends)
    potential = Potential(vanilla(), SHAPE)
    x = images(3)
    energy = potential.energy_and_grad(x).energy
    assert potential.backend.name == "generic"
    assert "backend wrong was" in potential.backend.note
    assert "off plain autograd" in potential.backend.note
    torch.testing.assert_close(energy, potential(x).detach())
    with pytest.raises(EBMError, match=r"backend wrong was .* off plain autograd") as raised:
        engine.choose(vanilla(), SHAPE, CPU, "wrong")
    assert raised.value.hint


def test_what_cannot_run_is_an_error_when_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown, unfit, and not available: each says so, with a hint."""
    with pytest.raises(EBMError, match="unknown backend 'quick'") as raised:
        engine.choose(Own(), SHAPE, CPU, "quick")
    assert "generic" in raised.value.hint
    if native.available():
        with pytest.raises(EBMError, match=r"backend 'native' cannot run: .*Own") as raised:
            engine.choose(Own(), SHAPE, CPU, "native")
        assert raised.value.hint
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "why_not", lambda: "no C++ compiler found")
    with pytest.raises(EBMError, match="cannot run: no C\\+\\+ compiler found"):
        engine.choose(vanilla(), SHAPE, CPU, "native")
    assert engine.choose(vanilla(), SHAPE, CPU).name == "stack"


def adam(network: nn.Module, fused: bool) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, fused=fused)
    network(images(4)).sum().backward()
    optimizer.step()


CHANGES: dict[str, Callable[[Any], object]] = {
    "in place": lambda n: [p.detach().mul_(1.1) for p in n.parameters()],
    "one bias": lambda n: n.f[2].bias.detach().add_(0.05),
    "through .data": lambda n: n.f[0].weight.data.mul_(1.5),
    "new .data": lambda n: setattr(n.f[0].weight, "data", n.f[0].weight.data * 1.5),
    "load_state_dict": lambda n: n.load_state_dict(vanilla(9).state_dict()),
    "Adam": lambda n: adam(n, fused=False),
    "fused Adam": lambda n: adam(n, fused=True),
    "numpy": lambda n: n.f[0].weight.detach().numpy().__imul__(1.5),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_follows_the_weights(backend: str, how: str) -> None:
    """However they are changed, the next gradient is that of the new weights."""
    network = vanilla(1)
    potential = Potential(network, SHAPE, 3.0, backend=backend)
    x = images(4)
    before = potential.energy_and_grad(x)
    assert potential.backend.name == backend
    CHANGES[how](network)
    after = potential.energy_and_grad(x)
    fresh = Potential(copy.deepcopy(network), SHAPE, 3.0, backend=backend).energy_and_grad(x)
    assert not torch.equal(before.energy, after.energy)
    assert torch.equal(after.energy, fresh.energy)
    assert torch.equal(after.grad, fresh.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_has_a_backend_of_its_own(backend: str) -> None:
    """deepcopy of a potential in use: its gradients are those of its own weights from then on."""
    potential, x = Potential(vanilla(1), SHAPE, backend=backend), images(3)
    energy = potential.energy(x)
    twin = copy.deepcopy(potential)
    assert torch.equal(twin.energy(x), energy)
    assert twin.backend.name == backend
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(2)
    assert not torch.equal(twin.energy(x), energy)
    assert torch.equal(potential.energy(x), energy)

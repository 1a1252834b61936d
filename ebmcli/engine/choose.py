"""Backends behind `Potential.energy_and_grad`: who computes F and ∂F/∂x, and how.

A backend computes chains in blocks of one fixed size (the last one padded): rounding inside a
convolution depends on how many images it gets, and a chain must not depend on its neighbours.
Each backend is checked against plain autograd in float64 when it is built; on a mismatch the
generic one runs instead, and `Backend.note` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ebmcli.engine.cuda_graph import Graph
from ebmcli.engine.precision import TOLERANCE, check, computing
from ebmcli.engine.stack import Stack
from ebmcli.errors import EBMError
from ebmcli.native import stack as native
from ebmcli.networks import Shape, is_points

Fused = Callable[..., native.PathResult]


class Backend(Protocol):
    """Computes F [n] and ∂F/∂x [n c h w]; follows in-place changes of the network's weights."""

    name: str
    spreads: bool
    """Whether it spreads chains over the CPU's threads itself, rather than leave each operation to torch's."""
    note: str
    device: torch.device
    fused: Fused | None
    """Whole Langevin paths in one call, where the backend has them (arguments as `NativeStack.langevin`)."""

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n]."""
        ...

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        ...


class Generic:
    """Any nn.Module, by autograd over the input alone, in channels_last (1.4 to 1.7 times here)."""

    name = "generic"
    spreads = False

    def __init__(self, network: nn.Module, shape: Shape, device: torch.device, precision: str = "float32") -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shape = shape
        self.device = device
        self.precision = precision
        self.note = ""
        self.fused: Fused | None = None
        # A convolution on a GPU wants more images at once; the size is part of the numbers.
        self.block = (128 if is_points(shape) else 32) if device.type == "cpu" else 256

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n], no graph."""
        with computing(self.device, self.precision), torch.no_grad():
            return torch.cat([self.network(b).flatten().to(b.dtype) for b in self._blocks(x)])[: len(x)]

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        values, grads = [], []
        with computing(self.device, self.precision), torch.enable_grad():
            for block in self._blocks(x):
                block.requires_grad_(True)
                value = self.network(block).flatten().to(block.dtype)
                (grad,) = torch.autograd.grad(value.sum(), block)
                values.append(value.detach())
                grads.append(grad)
        n = len(x)
        return torch.cat(values)[:n], torch.cat(grads)[:n].contiguous()

    def _blocks(self, x: Tensor) -> list[Tensor]:
        blocks = list(x.detach().split(self.block))
        missing = self.block - len(blocks[-1])
        if missing:
            padding = blocks[-1].new_zeros(missing, *blocks[-1].shape[1:])
            blocks[-1] = torch.cat([blocks[-1], padding])
        # Copies: a network may work in place, and the caller's images must stay as they are.
        return [b.clone(memory_format=torch.channels_last) for b in blocks]


class Native:
    """Sequences of convolution, linear layer and LeakyReLU, by the compiled kernel (one lane a chain)."""

    name = "native"
    spreads = True

    def __init__(self, network: nn.Module, shape: Shape, device: torch.device, precision: str = "float32") -> None:
        self.stack = native.NativeStack(network, shape)
        self.device = device
        self.note = ""
        self.fused: Fused | None = self.stack.langevin

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n]."""
        return self.energy_and_grad(x)[0]

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        return self.stack.energy_and_grad(x)


def _native_fits(network: nn.Module, shape: Shape, device: torch.device, precision: str) -> bool:
    if device.type != "cpu" or precision != "float32" or not native.available():
        return False
    parameters = list(network.parameters())
    return all(p.dtype == torch.float32 for p in parameters) and native.NativeStack.supports(network, shape)


def _stack_fits(network: nn.Module, shape: Shape, device: torch.device, precision: str) -> bool:
    # Its gradients are not of the operations that autocast knows.
    return precision != "bf16" and Stack.supports(network, shape)


def _graph(network: nn.Module, shape: Shape, device: torch.device, precision: str) -> Graph:
    inner = Stack if _stack_fits(network, shape, device, precision) else Generic
    return Graph(inner(network, shape, device, precision), network, shape, device, precision)


BACKENDS: dict[str, tuple[Callable[[nn.Module, Shape, torch.device, str], bool], Callable[..., Backend]]] = {
    "graph": (lambda network, shape, device, precision: device.type == "cuda", _graph),
    "native": (_native_fits, Native),
    "stack": (_stack_fits, Stack),
    "generic": (lambda network, shape, device, precision: True, Generic),
}
"""Fastest first: each with the test of whether it fits a network, and its class."""


def choose(
    network: nn.Module, shape: Shape, device: torch.device, name: str = "auto", precision: str = "float32"
) -> Backend:
    """The fastest backend that fits and agrees with plain autograd, or the one called `name`.

    Raises:
        EBMError: `name` is unknown, or forced where it does not fit or does not agree; the device has no such
            precision.
    """
    check(precision, device)
    if name != "auto" and name not in BACKENDS:
        raise EBMError(f"unknown backend {name!r}", f"use auto, {', '.join(BACKENDS)}")
    note = ""
    for key, (fits, make) in BACKENDS.items():
        if name not in ("auto", key):
            continue
        if not fits(network, shape, device, precision):
            if name == key:
                why = native.why_not() if name == "native" else ""
                why = why or f"it does not compute {type(network).__name__} on {device.type}"
                raise EBMError(f"backend {name!r} cannot run: {why}", "use `backend` auto")
            continue
        try:
            backend = make(network, shape, device, precision)
            error = 0.0 if key == "generic" else disagreement(backend, network, shape, device)
        except RuntimeError as problem:  # a network that cannot be recorded, an operation this device lacks
            if key == "generic":
                raise
            note = f"backend {key} failed and is not used: {' '.join(str(problem).split())[:200]}"
        else:
            if error <= TOLERANCE[precision]:
                backend.note = note
                return backend
            note = f"backend {key} was {error:.1e} off plain autograd and is not used"
        if name == key:
            raise EBMError(note, "use `backend` auto")
    raise AssertionError("generic fits everything")


def disagreement(backend: Backend, network: nn.Module, shape: Shape, device: torch.device) -> float:
    """Largest error of `backend`'s energies and gradients, relative to the largest there is.

    The reference is plain autograd, in float64 where the device has it. Rounding alone may push a
    pre-activation over the kink of its LeakyReLU, which changes the gradient of a few pixels of one
    image by percents: so for each pixel the median over some images counts, which such accidents do
    not move, and a wrong backend does.
    """
    wide = torch.float64 if device.type != "mps" else torch.float32
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(7, *shape, generator=generator) * 2 - 1).to(device)
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    energy, grad = backend.energy_and_grad(x.to(dtype))
    twin = _twin(network).to(wide)
    y = x.to(wide).requires_grad_(True)
    with torch.enable_grad():
        value = twin(y).flatten()
        (reference,) = torch.autograd.grad(value.sum(), y)
    scale = reference.abs().max().clamp_min(1e-30)
    off = (grad - reference).abs().median(dim=0).values.max() / scale
    # Near an energy of 0, what a step through the image changes is the scale.
    off_energy = (energy - value.detach()).abs().median() / (value.detach().abs().max() + scale)
    return float(torch.maximum(off, off_energy))


def _twin(network: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(network).requires_grad_(False)

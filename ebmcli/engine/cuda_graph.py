"""Gradients and Langevin steps recorded once and replayed as CUDA graphs.

Small networks on a GPU wait for the launches of their kernels. A graph launches all of k steps at once: it reads
states, chain numbers, key, step number and step size from fixed tensors, which are filled before each replay. The noise
is a function of (key, chain, step), so a replay with another step number draws other numbers, the right ones, and
nothing is asked back from the device within a path.

Weights are read where they lie: changes in place are followed, and weights that moved are recorded anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ebmcli.engine import fused_steps as path
from ebmcli.engine.precision import computing
from ebmcli.native.stack import PathResult, Start
from ebmcli.networks import Shape

LONG = 25
"""Steps of the longer graph; what is left of a path is made with graphs of one step."""


class Inner(Protocol):
    """A backend whose kernels are recorded."""

    block: int

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n]."""
        ...

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        ...


class _Recorded(NamedTuple):
    replay: Callable[[], Any]
    out: Any
    """Tensors that hold the results after a replay, until the next one."""


class Graph:
    """Blocks of `inner.block` chains by CUDA graphs; on another device the same operations without recording.

    Args:
        inner: what computes a gradient; its kernels are recorded.
        network: whose weights `inner` reads.
        shape: (c, h, w) of a state.
        device: CUDA, except in tests.
        precision: as `inner`'s.

    Raises:
        RuntimeError: the network does something that cannot be recorded.
    """

    name = "graph"
    spreads = False

    def __init__(
        self, inner: Inner, network: nn.Module, shape: Shape, device: torch.device, precision: str = "float32"
    ) -> None:
        self.network = network
        self.shape = shape
        self.device = device
        self.precision = precision
        self.note = ""
        self.fused: Callable[..., PathResult] | None = self.langevin
        self._inner = inner
        self._graphs: dict[tuple[int, bool], _Recorded] = {}
        self._recorded_for: list[int] = []
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        n = inner.block

        def number(dtype: torch.dtype) -> Tensor:
            return torch.zeros((), dtype=dtype, device=device)

        self._x, self._grad = (torch.zeros(n, *shape, device=device) for _ in range(2))
        self._energy = torch.zeros(n, device=device)
        self._chains = torch.zeros(n, dtype=torch.int64, device=device)
        self._key, self._step = number(torch.int64), number(torch.int64)
        self._scale, self._drift, self._sigma = (number(torch.float32) for _ in range(3))

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n]; not recorded, since no sampler calls it in a loop."""
        return self._inner.energy(x)

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        energy, grad = x.new_empty(len(x)), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        with computing(self.device, self.precision), torch.no_grad():
            self._scale.fill_(1.0)
            for first in range(0, len(x), len(self._x)):
                here = slice(first, first + len(self._x))
                self._start(x[here])
                count = len(x[here])
                energy[here], grad[here] = self._energy[:count], self._grad[:count]
        return energy, grad

    def langevin(
        self,
        x: Tensor,
        *,
        steps: int,
        step_size: float,
        scale: float,
        noise: float,
        temperature: float,
        key: int,
        chains: Tensor,
        step0: int = 0,
        start: Start | None = None,
    ) -> PathResult:
        """`steps` Langevin steps; arguments and result as `NativeStack.langevin`."""
        n = len(x)
        end, grad = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        energy, norms = x.new_empty(steps + 1, n), x.new_empty(steps + 1, n)
        length = x.new_zeros(n)
        with computing(self.device, self.precision), torch.no_grad():
            self._scale.fill_(scale)
            self._drift.fill_(0.5 * step_size**2 / temperature)
            self._sigma.fill_(noise * step_size)
            self._key.fill_((key & (2**64 - 1)) - (2**64 if key & 2**63 else 0))  # the same bits, signed
            for first in range(0, n, len(self._x)):
                here = slice(first, first + len(self._x))
                count = len(x[here])
                self._chains[:count] = chains[here]
                self._step.fill_(step0)
                self._start(x[here], None if start is None else (start[0][here], start[1][here]))
                energy[0, here], norms[0, here] = self._energy[:count], path.norm(self._grad)[:count]
                done = 0
                while done < steps:
                    piece = LONG if steps - done >= LONG else 1
                    made = self._replay(piece, bool(noise))
                    rows = slice(done + 1, done + 1 + piece)
                    energy[rows, here], norms[rows, here] = made.energy[:, :count], made.grad_norm[:, :count]
                    for step in made.length:
                        length[here] += step[:count]
                    done += piece
                end[here], grad[here] = self._x[:count], self._grad[:count]
        return PathResult(end, energy, norms, length, grad)

    # --- what is recorded ---------------------------------------------------------------------------------------------

    def _start(self, x: Tensor, known: Start | None = None) -> None:
        """Put chains into the fixed tensors, zeros after them, and their energy and gradient beside them."""
        self._x[: len(x)] = x
        self._x[len(x) :] = 0
        if known is None:
            self._replay(0, False)
            return
        for place, value in zip((self._energy, self._grad), known, strict=True):
            place[: len(x)] = value
            place[len(x) :] = 0

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U [n] and ∂U/∂x."""
        energy, grad = self._inner.energy_and_grad(x)
        return energy * self._scale, grad * self._scale

    def _first(self) -> None:
        energy, grad = self._gradient(self._x)
        self._energy.copy_(energy)
        self._grad.copy_(grad)

    def _advance(self, count: int, noise: bool) -> path.Steps:
        """`count` steps from the fixed tensors, which then hold where the chains stand."""
        z = None
        if noise:
            z = path.draw(self._key, self._chains, self._step, count, self.shape)
        made = path.advance(
            self._gradient,
            path.Point(self._x, self._energy, self._grad),
            count,
            self._drift,
            self._sigma,
            None if z is None else lambda first, many: z[first : first + many],
        )
        for place, value in zip((self._x, self._energy, self._grad), made.point, strict=True):
            place.copy_(value)
        self._step.add_(count)
        return made

    def _replay(self, count: int, noise: bool) -> Any:
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        present = [self.network.training, *(tensor.data_ptr() for tensor in tensors)]
        if present != self._recorded_for:
            self._graphs.clear()
            self._recorded_for = present
        key = (count, noise)
        if key not in self._graphs:
            body = (lambda: self._advance(count, noise)) if count else self._first
            self._graphs[key] = self._record(body)
        recorded = self._graphs[key]
        out = recorded.replay()
        return out if recorded.out is None else recorded.out

    def _record(self, body: Callable[[], Any]) -> _Recorded:
        if self.device.type != "cuda":
            return _Recorded(body, None)
        before = [t.clone() for t in (self._x, self._energy, self._grad, self._step)]
        # A few runs first, so that libraries choose their algorithms and reserve their memory outside the recording.
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                body()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            out = body()
        for place, value in zip((self._x, self._energy, self._grad, self._step), before, strict=True):
            place.copy_(value)
        return _Recorded(graph.replay, out)

"""Gradients of known networks in torch, without autograd and without a compiler.

How chains are divided. On a CPU a chain's numbers are those that a grain, a block of few chains, gives on one thread.
Larger blocks cost less a chain and nearly always give the same bits; each size of block is compared with that, bit for
bit, before its results are used, and if it fails grains are used. Each thread computes whole blocks: no layer
waits for the slower thread, and the bits cannot depend on the number of threads. Elsewhere the block is fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebmcli.engine import fused_steps as path
from ebmcli.engine.layers import Kept, Layer, read
from ebmcli.engine.points import Points, are_dense
from ebmcli.engine.precision import computing
from ebmcli.native.stack import PathResult, Start
from ebmcli.native.threads import Crew, alone
from ebmcli.networks import Shape, is_points

GRAINS = 4, 8
"""Chains of the smallest block on a CPU: the first size whose larger blocks give the same bits, or the last."""

_MOST, _MOST_POINTS = 64, 512  # chains of a block: images (their feature maps should stay in cache), and 1×1 states
_COMPARED = 24  # chains of the block by which a grain is chosen
_FIXED, _FIXED_POINTS = 128, 1024  # the same on other devices, where few launches count


class Piece(NamedTuple):
    """Chains first … first + many − 1, computed in a block of `size` ≥ many."""

    first: int
    many: int
    size: int


_crew = Crew("ebm-stack")


def _spread(work: Callable[[Piece], None], pieces: list[Piece], threads: int) -> None:
    """`work` on all pieces under inference mode, on `threads` threads that use no further ones."""
    queue = iter(pieces)  # next() of a list's iterator holds the interpreter's lock: each piece is taken once

    def loop() -> None:
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # of this thread alone; the caller's number is put back when all is done
        with torch.inference_mode():
            for piece in queue:
                work(piece)

    others = [_crew.submit(loop) for _ in range(_crew.ready(min(threads, len(pieces)) - 1))]
    try:
        loop()
    finally:
        for other in others:
            other.result()


class Stack:
    """Sequences of Conv2d, Linear, LeakyReLU, Flatten and a first PixelUnshuffle(2), and `NonLocal`.

    Weights are read from the network at each call.

    Raises:
        ValueError: the network is of another kind.
    """

    name = "stack"
    spreads = True

    @staticmethod
    def supports(network: nn.Module, shape: Shape) -> bool:
        """Whether the network is of the kind above."""
        try:
            read(network, shape)
        except ValueError:
            return False
        return True

    def __init__(self, network: nn.Module, shape: Shape, device: torch.device, precision: str = "float32") -> None:
        self.shape = shape
        self.device = device
        self.precision = precision
        self.note = ""
        self.fused: Callable[..., PathResult] | None = self.langevin
        self._layers: list[Layer] = read(network, shape)
        self._point = is_points(shape)
        self._joinable: dict[tuple[int, int], bool] = {}  # (grain, size of block) that were compared
        self.block = _FIXED_POINTS if self._point else _FIXED
        """Chains of a block on devices other than the CPU."""

    def energy(self, x: Tensor) -> Tensor:
        """F(x) [n]."""
        out = x.new_empty(len(x))

        def work(piece: Piece, packed: list[Kept]) -> None:
            value = self._forward(self._padded(x, piece), packed)[-1][0]
            out[piece.first : piece.first + piece.many] = value.view(-1)[: piece.many]

        self._run(x, work)
        return out

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) [n] and ∂F/∂x [n c h w]."""
        # Made outside inference mode: what is handed out must work with autograd.
        energy, grad = x.new_empty(len(x)), torch.empty(x.shape, dtype=x.dtype, device=x.device)

        def work(piece: Piece, packed: list[Kept]) -> None:
            here = slice(piece.first, piece.first + piece.many)
            value, slope = self._gradient(self._padded(x, piece), packed)
            energy[here], grad[here] = value[: piece.many], slope[: piece.many]

        self._run(x, work)
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
        """`steps` Langevin steps; arguments and result as `NativeStack.langevin`.

        A block makes its whole path on one thread.
        """
        n = len(x)
        # Of no dimension: torch is slow to take a Python number, for a toy by as much as the product itself.
        drift, factor = (x.new_tensor(number) for number in (0.5 * step_size**2 / temperature, scale))
        sigma = noise * step_size
        dense = self._layers if are_dense(self._layers) else None
        shape = self.shape[:1] if dense else self.shape
        end, grad = (torch.empty(n, *shape, dtype=x.dtype, device=x.device) for _ in range(2))
        energy, norms = x.new_empty(steps + 1, n), x.new_empty(steps + 1, n)
        length = x.new_zeros(n)

        def work(piece: Piece, packed: list[Kept]) -> None:
            count = piece.many
            here = slice(piece.first, piece.first + count)
            ids = self._padded(chains, piece)
            points = Points(dense, packed, piece.size) if dense else None

            def slope(y: Tensor) -> tuple[Tensor, Tensor]:
                if points is not None:
                    value, g = points(y)
                    return value * factor, g * factor
                # Not .contiguous(): with one channel that leaves the strides, by which torch picks the slow layout.
                value, g = self._gradient(y.clone(memory_format=torch.channels_last), packed)
                return value * factor, g.contiguous().mul_(factor)

            def draw(begin: int, many: int) -> Tensor:
                return path.draw(key, ids, step0 + begin, many, self.shape).view(many, -1, *shape)

            def own(rows: Tensor) -> Tensor:
                block = self._padded(rows, piece).contiguous()
                return block.flatten(1) if dense and block.dim() > 1 else block

            first = own(x)
            known = map(own, start) if start else slope(first)
            point = path.Point(first, *known)
            energy[0, here], norms[0, here] = point.energy[:count], path.norm(point.grad)[:count]
            if steps:
                made = path.advance(slope, point, steps, drift, sigma, draw if noise else None)
                point = made.point
                energy[1:, here], norms[1:, here] = made.energy[:, :count], made.grad_norm[:, :count]
                # One after the other: a sum's own order would depend on how many chains there are.
                length[here] = made.length.cumsum(0)[-1, :count]
            end[here], grad[here] = point.x[:count], point.grad[:count]

        self._run(x, work)
        return PathResult(end.view(x.shape), energy, norms, length, grad.view(x.shape))

    # --- one block ----------------------------------------------------------------------------------------------------

    def _pack(self) -> list[Kept]:
        return [layer.pack() for layer in self._layers]

    def _padded(self, x: Tensor, piece: Piece) -> Tensor:
        """The piece's rows of x, and zeros up to its size; images in channels_last."""
        layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        block = torch.empty(piece.size, *x.shape[1:], dtype=x.dtype, device=x.device, memory_format=layout)
        block[: piece.many] = x[piece.first : piece.first + piece.many]
        block[piece.many :] = 0
        return block

    def _forward(self, x: Tensor, packed: list[Kept]) -> list[Kept]:
        kept: list[Kept] = [(x,)]
        for layer, weights in zip(self._layers, packed, strict=True):
            kept.append(layer.forward(kept[-1][0], weights))
        return kept

    def _gradient(self, x: Tensor, packed: list[Kept]) -> tuple[Tensor, Tensor]:
        """F [n] and ∂F/∂x of one block."""
        kept = self._forward(x, packed)
        value = kept[-1][0]
        g = torch.ones_like(value)
        for index in reversed(range(len(packed))):
            g = self._layers[index].backward(g, kept[index][0], kept.pop(), packed[index])
        return value.view(-1), g

    # --- all blocks ---------------------------------------------------------------------------------------------------

    def _run(self, x: Tensor, work: Callable[[Piece, list[Kept]], None]) -> None:
        with computing(self.device, self.precision), torch.inference_mode():
            packed = self._pack()
            if self.device.type != "cpu":
                for first in range(0, len(x), self.block):
                    work(Piece(first, min(self.block, len(x) - first), self.block), packed)
                return
            with alone() as threads:
                _spread(lambda piece: work(piece, packed), self._pieces(len(x), threads, packed), threads)

    def _pieces(self, n: int, threads: int, packed: list[Kept]) -> list[Piece]:
        """Blocks of nearly equal size, as many for each thread; all of them grains where that matters."""
        grain = next((one for one in GRAINS if self._joins(one, _COMPARED, packed)), GRAINS[-1])
        grains = -(-n // grain)
        count = -(-grains * grain // (_MOST_POINTS if self._point else _MOST))
        if threads > 1 and (count > 1 or not self._point):  # one block of toys costs less than waking a thread
            count = min(grains, -(-count // threads) * threads)
        ends = [grains * k // count for k in range(count + 1)]
        sizes = [grain * (b - a) for a, b in itertools.pairwise(ends)]
        if not all(self._joins(grain, size, packed) for size in set(sizes)):
            sizes = [grain] * grains
        firsts = itertools.accumulate(sizes, initial=0)
        return [Piece(first, min(size, n - first), size) for first, size in zip(firsts, sizes, strict=False)]

    def _joins(self, grain: int, size: int, packed: list[Kept]) -> bool:
        """Whether a block of this size gives the bits of grains; computed once."""
        if size == grain:
            return True
        if (grain, size) not in self._joinable:
            x = torch.rand(size, *self.shape, generator=torch.Generator().manual_seed(size)) * 2 - 1
            x = x.clone(memory_format=torch.channels_last)
            small = [self._gradient(block, packed) for block in x.split(grain)]
            pairs = zip(self._gradient(x, packed), map(torch.cat, zip(*small, strict=True)), strict=True)
            self._joinable[grain, size] = all(torch.equal(a, b) for a, b in pairs)
        return self._joinable[grain, size]

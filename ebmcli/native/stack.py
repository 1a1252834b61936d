"""Plain convolution stacks by a compiled CPU kernel: energy, gradient, whole Langevin paths.

`kernel.cpp` has the algorithm, `build` builds it. Chains are computed sixteen at a time (or eight, in a second build
for what is left over), one in each SIMD lane, and lanes never meet: a chain's numbers are the same bits for any batch
size, place in the batch and number of threads, on one kind of CPU and one compiler.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Event
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebmcli.native.build import BLOCKS, LANES, NARROW, available, libraries, why_not
from ebmcli.native.plain import PlainLayer, parse
from ebmcli.native.shares import wrap
from ebmcli.native.threads import Crew, alone, count

__all__ = ["NativeStack", "PathResult", "Start", "available", "normal", "why_not", "words"]

_WORTH_A_THREAD = 5e5  # multiplications: below that, handing a block to a thread costs more than computing it


class PathResult(NamedTuple):
    """What a Langevin path leaves, for n chains: `x` [n c h w] the last states; `energy` [steps+1 n] U, and
    `grad_norm` [steps+1 n] the Euclidean norm of dU/dx, at every state, first and last included; `path_length` [n]
    the sum of the lengths of the steps, in pixel units; `grad` [n c h w] dU/dx at the last states."""

    x: Tensor
    energy: Tensor
    grad_norm: Tensor
    path_length: Tensor
    grad: Tensor


Start = tuple[Tensor, Tensor]
"""U [n] and dU/dx [n c h w] of the states that a path begins with."""


def normal(key: int, chains: Tensor, step: int, size: int) -> Tensor:
    """Standard normal numbers that belong to (key, chain, step, element): [n size] float32.

    Args:
        key: 64-bit key of the stream.
        chains: numbers of the chains, int64 [n].
        step: number of the Langevin step.
        size: elements a chain, c·h·w in that order.
    """
    ids = _chain_numbers(chains)
    out = torch.empty(len(ids), size)
    libraries().wide.ebm_normal(key & (2**64 - 1), len(ids), ids.data_ptr(), step, size, out.data_ptr())
    return out


def words(key: int, chains: Tensor, step: int, size: int) -> Tensor:
    """The 32-bit words that `normal` is made of, held in int64 [n size]; arguments as there."""
    ids = _chain_numbers(chains)
    out = torch.empty(len(ids), size, dtype=torch.int32)
    libraries().wide.ebm_words(key & (2**64 - 1), len(ids), ids.data_ptr(), step, size, out.data_ptr())
    return out.long() & 0xFFFFFFFF


def _chain_numbers(chains: Tensor) -> Tensor:
    if chains.dtype != torch.int64 or chains.dim() != 1:
        raise ValueError(f"chains: expected int64 [n], received {chains.dtype} {list(chains.shape)}")
    return chains.cpu().contiguous()


def _wait(others: list[Future[None]]) -> None:
    """Until all have ended, after an interrupt too: nobody may be in the workspaces when the next call begins."""
    try:
        wait(others)
    except BaseException:
        wait(others)
        raise


class _Piece(NamedTuple):
    """Chains first … first + many − 1, for the build with `lanes`."""

    first: int
    many: int
    lanes: int

    @property
    def cost(self) -> float:
        """Time, in that of a block of sixteen lanes: one of eight has as many operations, on less memory."""
        return -(-self.many // LANES) if self.lanes == LANES else 0.8


class _Compiled:
    """A network in one of the two builds: its tables, weights and workspaces."""

    def __init__(self, library: ctypes.CDLL, numbers: Tensor, leaks: Tensor, unshuffle: int) -> None:
        self.library = library
        self.net: int = library.ebm_create(len(leaks), numbers.data_ptr(), leaks.data_ptr(), unshuffle)
        self._packed: list[list[Tensor]] = [[] for _ in leaks]
        self._work: list[Tensor] = []  # zeroed once, then the kernel's own; one a thread

    def __del__(self) -> None:
        self.library.ebm_free(self.net)

    def workspace(self, thread: int) -> int:
        """Its address, on a 64-byte boundary."""
        return -(-self._work[thread].data_ptr() // 64) * 64

    def prepare(self, layers: list[PlainLayer], threads: int) -> None:
        """Pack the weights that changed since the last call, and have a workspace for each thread.

        Contents are compared, not versions: fused optimisers and writes through `.data` change a tensor
        without counting it.
        """
        floats = self.library.ebm_floats(self.net)
        while len(self._work) < threads:
            self._work.append(torch.zeros(floats + LANES))
        for index, layer in enumerate(layers):
            module, packed = layer.module, self._packed[index]
            now = [p.detach() for p in (module.weight, module.bias) if p is not None]
            if len(packed) == len(now) and all(map(torch.equal, packed, now)):
                continue
            self._packed[index] = kept = [p.clone(memory_format=torch.contiguous_format) for p in now]
            self.library.ebm_pack(self.net, index, kept[0].data_ptr(), kept[1].data_ptr() if len(kept) > 1 else None)


class NativeStack:
    """Energy and input gradient of a plain stack of convolutions, computed by the compiled kernel.

    Args:
        network: `nn.Sequential` (nested ones too), or a module whose forward pass is its only child, `f`, of
            Conv2d, Linear, LeakyReLU, ReLU, Flatten, and a first PixelUnshuffle(2); one scalar an image.
        shape: (c, h, w) of an image.

    The weights are read from the network at each call, and packed anew when their values have changed. One object
    serves one caller at a time; inside a call the chains go over as many threads as torch may use.

    Raises:
        ValueError: the network is not of that kind.
        RuntimeError: `available()` is False.
    """

    @staticmethod
    def supports(network: nn.Module, shape: tuple[int, int, int]) -> bool:
        """Whether the network is of the kind above (not whether the kernel is available)."""
        try:
            parse(network, shape)
        except ValueError:
            return False
        return True

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        self._layers, unshuffle = parse(network, shape)
        self.shape = tuple(shape)
        numbers = torch.tensor([layer.numbers for layer in self._layers], dtype=torch.int64)
        leaks = torch.tensor([layer.leak for layer in self._layers], dtype=torch.float32)
        wide, narrow = (_Compiled(library, numbers, leaks, unshuffle) for library in libraries())
        self._compiled = {LANES: wide, NARROW: narrow}
        self._crew = Crew("ebm-native")
        self._cost = 2 * LANES * sum(layer.multiplications for layer in self._layers)

    def __reduce__(self) -> str:
        raise TypeError("a NativeStack cannot be copied or pickled: make another one from the network")

    def _checked(self, x: Tensor) -> Tensor:
        right = x.dtype == torch.float32 and x.device.type == "cpu"
        if not right or x.dim() != 4 or x.shape[1:] != self.shape or not len(x):
            raise ValueError(
                f"expected float32 [n {' '.join(map(str, self.shape))}] on the CPU, n >= 1, "
                f"received {x.dtype} {list(x.shape)} on {x.device}"
            )
        return x.detach().contiguous()

    def _pieces(self, n: int, threads: int) -> list[_Piece]:
        """Large pieces, as many for each thread, and what is left over after those of the first.

        They are in a build of sixteen lanes but for the last eight, and for all where each thread gets eight at most.
        """
        eights = -(-n // NARROW)
        if eights <= threads:
            sizes = [NARROW] * eights
        else:
            blocks, rest = divmod(eights // 2, threads)
            groups = -(-blocks // BLOCKS)
            own = [LANES * (blocks * (k + 1) // groups - blocks * k // groups) for k in range(groups)]
            sizes = own + [LANES] * rest + [NARROW] * (eights % 2) + own * (threads - 1)
        pieces, first = [], 0
        for size in sizes:
            pieces.append(_Piece(first, min(size, n - first), NARROW if size == NARROW else LANES))
            first += size
        return pieces

    def _spread(self, n: int, steps: int, work: Callable[[_Piece, int, int, int, int], None]) -> None:
        """Call `work(piece, net, workspace, first, last)` for all n chains, over the threads: steps first … last − 1.

        A piece may be shared by two threads, one of which does its first steps and the other, later, the rest.
        """
        threads = 1 if self._cost * (steps + 1) < _WORTH_A_THREAD else min(count(), -(-n // NARROW))
        threads = 1 + self._crew.ready(threads - 1)
        pieces = self._pieces(n, threads)
        for lanes in {piece.lanes for piece in pieces}:
            self._compiled[lanes].prepare(self._layers, threads)
        begun = [Event() for _ in pieces]
        units = max(1, steps)
        shares = [iter(share) for share in wrap([piece.cost for piece in pieces], threads)]

        def loop(thread: int) -> None:
            for part in shares[thread]:
                piece = pieces[part.job]
                first, last = round(part.begin * units), round(part.end * units)
                if first == last:
                    continue
                if first:
                    begun[part.job].wait()
                compiled = self._compiled[piece.lanes]
                try:
                    work(piece, compiled.net, compiled.workspace(thread), first, min(last, steps))
                finally:
                    begun[part.job].set()

        if len(shares) == 1:
            loop(0)
            return
        others: list[Future[None]] = []
        try:
            for thread in range(1, len(shares)):
                others.append(self._crew.submit(loop, thread))
            loop(0)
        except BaseException:  # an interrupt, or a thread that is not had: the others leave what they have not begun
            for share in shares:
                for part in share:
                    begun[part.job].set()
            raise
        finally:
            _wait(others)
        for other in others:
            other.result()

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F [n] and dF/dx [n c h w] of images x [n c h w], float32 in any memory format."""
        x = self._checked(x)
        ids = torch.zeros(len(x), dtype=torch.int64)
        _, energy, _, _, grad = self._path(x, None, None, ids, 0, 1.0, 0.0, 0.0, 0, 0)
        return energy[0], grad

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
        """`steps` Langevin steps (Eq. 9 on U = scale·F): x' = x − (ε²/2)/T·∇U(x) + τ·ε·z.

        Args:
            x: first states [n c h w]; left as they are.
            steps: L >= 0.
            step_size: ε, pixel units.
            scale: s of U = s·F.
            noise: τ.
            temperature: T.
            key: 64-bit key of the noise: step l of a chain adds `normal(key, chains, step0 + l, c·h·w)`.
            chains: numbers of the chains, int64 [n].
            step0: number of the first step.
            start: U and ∇U at x, if they are known: a gradient less.
        """
        x, ids = self._checked(x), _chain_numbers(chains)
        if len(ids) != len(x) or steps < 0:
            raise ValueError(f"expected {len(x)} chains and steps >= 0, received {len(ids)} and {steps}")
        drift = 0.5 * step_size**2 / temperature
        end, key = torch.empty_like(x), key & (2**64 - 1)
        return self._path(x, end, start, ids, steps, scale, drift, noise * step_size, key, step0)

    def _path(
        self, x: Tensor, end: Tensor | None, start: Start | None, ids: Tensor, steps: int, *numbers: float
    ) -> PathResult:
        """`end` receives the last states, None where they are x; numbers: scale, drift, sigma, key, step0."""
        n, size = len(x), x[0].numel()
        grad, length = torch.empty_like(x), torch.zeros(n)
        energy, norm = torch.empty(2, steps + 1, n)
        slope = None
        if start is not None:
            energy[0], slope = start[0], self._checked(start[1])

        def at(tensor: Tensor | None, item: int) -> int | None:
            return None if tensor is None else tensor.data_ptr() + item * tensor.element_size()

        def work(piece: _Piece, net: int, workspace: int, begin: int, stop: int) -> None:
            first, count, lanes = piece
            known = slope if begin == 0 else grad
            images = [at(tensor, first * size) for tensor in (x if begin == 0 else end, known, end, grad)]
            values = [at(tensor, begin * n + first) for tensor in (energy, norm)]
            scale, drift, sigma, key, step0 = numbers
            self._compiled[lanes].library.ebm_path(
                net, workspace, count, *images, *values, at(length, first), n, stop - begin,
                scale, drift, sigma, key, at(ids, first), step0 + begin,
            )  # fmt: skip

        with alone():
            self._spread(n, steps, work)
        return PathResult(x if end is None else end, energy, norm, length, grad)

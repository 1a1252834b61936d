"""A compiled CPU kernel for plain convolution stacks: energy, gradient, whole Langevin paths (floor 1).

`native.cpp` beside this file is compiled at first use with the C++ compiler of the machine (`CXX`, else `g++`,
`c++`, `clang++`) into a cache folder (`EBM_CACHE`, else `XDG_CACHE_HOME/ebmcli`, else `~/.cache/ebmcli`) and
loaded with ctypes. Without a compiler `available()` is False and `why_not()` says why; `EBM_NATIVE=0` turns the
kernel off.

Chains are computed sixteen at a time, one in each SIMD lane, and lanes never meet: a chain's numbers are the same
bits for any batch size, place in the batch and number of threads, on one kind of CPU and one compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LANES = 16
"""Chains in a block: the lanes of one vector."""

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC", "-shared")
_TUNINGS = (("-march=native",), ("-mcpu=native",), ())  # x86 and newer ARM compilers; older ARM; others
_WORTH_A_THREAD = 5e5  # multiplications: below that, handing a block to a thread costs more than computing it


class PathResult(NamedTuple):
    """What a Langevin path leaves, for n chains: `x` [n c h w] the last states; `energy` [steps+1 n] F, and
    `grad_norm` [steps+1 n] the Euclidean norm of dF/dx, at every state, first and last included; `path_length` [n]
    the sum of the lengths of the steps, in pixel units; `grad` [n c h w] dF/dx at the last states."""

    x: Tensor
    energy: Tensor
    grad_norm: Tensor
    path_length: Tensor
    grad: Tensor


# --- the library ---


def _cache_folder() -> Path:
    if named := os.environ.get("EBM_CACHE"):
        return Path(named).expanduser()
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named).expanduser() / "ebmcli"
    return Path.home() / ".cache" / "ebmcli"


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    candidates = [named] if named else ["g++", "c++", "clang++"]
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _processor() -> str:
    """What `-march=native` depends on: the CPU's model and features."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        found = {line.partition(":")[0].strip(): line for line in lines if line.startswith(wanted)}
        if found:
            return "\n".join(found[key] for key in sorted(found))
    return f"{platform.machine()} {platform.processor()}"


def _run(command: list[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.SubprocessError) as problem:
        return False, str(problem)
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr


def _build() -> Path:
    """Path of the shared library, compiled if the cache does not hold it. Raises OSError with one line."""
    compiler = _compiler()
    if compiler is None:
        named = os.environ.get("CXX")
        raise OSError(f"no C++ compiler: {f'CXX={named}' if named else 'g++, c++, clang++'} not found")
    ok, version = _run([compiler, "--version"])
    if not ok:
        raise OSError(f"{compiler} does not run")
    source = _SOURCE.read_bytes()
    parts = [source, version.encode(), repr((_FLAGS, _TUNINGS)).encode(), _processor().encode()]
    name = "native-" + hashlib.sha256(b"\0".join(parts)).hexdigest()[:20] + ".so"
    folder = _cache_folder()
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".so", prefix=".native-", dir=folder)
    os.close(handle)
    message = ""
    try:
        for tuning in _TUNINGS:
            ok, output = _run([compiler, *_FLAGS, *tuning, str(_SOURCE), "-o", temporary])
            if ok:
                os.replace(temporary, target)  # whole or not at all, whoever else compiles at the same time
                return target
            message = message or output
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    raise OSError(f"{compiler} failed: {next((line for line in lines if 'error' in line), lines[-1])}")


_POINTER, _INT, _WORD, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ebm_create": (_POINTER, [_INT, _POINTER, _POINTER, _INT]),
    "ebm_free": (None, [_POINTER]),
    "ebm_floats": (_INT, [_POINTER]),
    "ebm_pack": (None, [_POINTER, _INT, _POINTER, _POINTER]),
    "ebm_path": (
        None,
        [_POINTER, _POINTER, _INT, *[_POINTER] * 6, _INT, _INT, _FLOAT, _FLOAT, _WORD, _POINTER, _INT],
    ),
    "ebm_normal": (None, [_WORD, _INT, _POINTER, _INT, _INT, _POINTER]),
    "ebm_philox": (None, [_WORD, _POINTER, _POINTER]),
}
_loading = threading.Lock()


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why there is none."""
    if os.environ.get("EBM_NATIVE", "") == "0":
        return None, "turned off by EBM_NATIVE=0"
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, RuntimeError) as problem:  # RuntimeError: no home folder
        return None, " ".join(str(problem).split())
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library, ""


def available() -> bool:
    """Whether the kernel can be used here; compiles it when it is asked for the first time (seconds)."""
    with _loading:
        return _load()[0] is not None


def why_not() -> str:
    """One line that says why `available()` is False; empty when it is True."""
    with _loading:
        return _load()[1]


def _library() -> ctypes.CDLL:
    with _loading:
        library, why = _load()
    if library is None:
        raise RuntimeError(f"the compiled kernel is not available: {why}")
    return library


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
    _library().ebm_normal(key & (2**64 - 1), len(ids), ids.data_ptr(), step, size, out.data_ptr())
    return out


def _chain_numbers(chains: Tensor) -> Tensor:
    if chains.dtype != torch.int64 or chains.dim() != 1:
        raise ValueError(f"chains: expected int64 [n], received {chains.dtype} {list(chains.shape)}")
    return chains.cpu().contiguous()


# --- networks ---


class _Layer(NamedTuple):
    module: nn.Conv2d | nn.Linear
    numbers: tuple[int, ...]  # in, out, kernel y x, stride y x, padding y x, input height and width
    leak: float


def _flat(network: nn.Module) -> list[nn.Module]:
    """The modules in the order of the forward pass. Raises ValueError where that order is not known."""
    if network._forward_hooks or network._forward_pre_hooks:
        raise ValueError("a module with forward hooks")
    if type(network) is nn.Sequential:
        return [module for child in network for module in _flat(child)]
    children = dict(network.named_children())
    if children.keys() == {"f"} and isinstance(children["f"], nn.Sequential):
        return _flat(children["f"])
    if children:
        raise ValueError(f"{type(network).__name__} is not a plain sequence")
    return [network]


def _parse(network: nn.Module, shape: tuple[int, int, int]) -> tuple[list[_Layer], int]:
    """The layers and the factor of the first space-to-depth (1: none). ValueError: unsupported."""
    c, h, w = shape
    flat, unshuffle = 0, 1  # flat: elements a chain after Flatten, 0 before it
    layers: list[_Layer] = []
    activated = True
    for place, module in enumerate(_flat(network)):
        kind = type(module)
        if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                raise ValueError("a convolution with a padding that is not a number of zeros")
            if module.groups != 1 or module.dilation != (1, 1):
                raise ValueError("a convolution with groups or dilation")
            if flat or module.in_channels != c:
                raise ValueError(f"a convolution of {module.in_channels} channels gets {flat or c}")
            (ky, kx), (sy, sx) = module.kernel_size, module.stride
            py, px = (int(p) for p in module.padding)
            if h + 2 * py < ky or w + 2 * px < kx:
                raise ValueError(f"a {ky}x{kx} convolution gets an image of {h}x{w}")
            layers.append(_Layer(module, (c, module.out_channels, ky, kx, sy, sx, py, px, h, w), 1.0))
            c, h, w = module.out_channels, (h + 2 * py - ky) // sy + 1, (w + 2 * px - kx) // sx + 1
            activated = False
        elif isinstance(module, nn.Linear) and kind is nn.Linear:
            if flat != module.in_features:
                raise ValueError(f"a linear layer of {module.in_features} inputs gets {flat or 'an image'}")
            layers.append(_Layer(module, (c, module.out_features, h, w, 1, 1, 0, 0, h, w), 1.0))
            c, h, w, flat = module.out_features, 1, 1, module.out_features
            activated = False
        elif isinstance(module, nn.LeakyReLU) or kind is nn.ReLU:
            leak = float(getattr(module, "negative_slope", 0.0))
            if activated or leak < 0:
                raise ValueError("an activation that does not follow a layer, or has a negative leak")
            layers[-1] = layers[-1]._replace(leak=leak)
            activated = True
        elif isinstance(module, nn.PixelUnshuffle):
            if place != 0 or module.downscale_factor != 2 or h % 2 or w % 2:
                raise ValueError("a PixelUnshuffle that is not the first module, or not by 2")
            c, h, w, unshuffle = 4 * c, h // 2, w // 2, 2
        elif isinstance(module, nn.Flatten):
            if module.start_dim != 1 or module.end_dim not in (-1, 1 if flat else 3):
                raise ValueError("a Flatten that keeps dimensions")
            flat = c * h * w
        elif kind is not nn.Identity:
            raise ValueError(f"{kind.__name__} is not supported")
    if not layers or (c, h, w) != (1, 1, 1):
        raise ValueError(f"the output of an image is [{c} {h} {w}], not one scalar")
    for layer in layers:
        for parameter in layer.module.parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise ValueError(f"a parameter is {parameter.dtype} on {parameter.device}, not float32 on cpu")
    return layers, unshuffle


_unique = itertools.count(-1, -1)


class NativeStack:
    """Energy and input gradient of a plain stack of convolutions, computed by the compiled kernel.

    Args:
        network: `nn.Sequential` (nested ones too), or a module whose forward pass is its only child, `f`, of
            Conv2d, Linear, LeakyReLU, ReLU, Flatten, and a first PixelUnshuffle(2); one scalar an image.
        shape: (c, h, w) of an image.

    The weights are read from the network at each call, and packed anew when their values have changed. One object
    serves one caller at a time; inside a call the blocks of sixteen chains go over `torch.get_num_threads()` threads.

    Raises:
        ValueError: the network is not of that kind.
        RuntimeError: `available()` is False.
    """

    @staticmethod
    def supports(network: nn.Module, shape: tuple[int, int, int]) -> bool:
        """Whether the network is of the kind above (not whether the kernel is available)."""
        try:
            _parse(network, shape)
        except ValueError:
            return False
        return True

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        self._net: int | None = None
        self._layers, unshuffle = _parse(network, shape)
        self.shape = tuple(shape)
        self._lib = _library()
        numbers = torch.tensor([layer.numbers for layer in self._layers], dtype=torch.int64)
        leaks = torch.tensor([layer.leak for layer in self._layers], dtype=torch.float32)
        self._net = self._lib.ebm_create(len(leaks), numbers.data_ptr(), leaks.data_ptr(), unshuffle)
        self._packed: list[list[Tensor]] = [[] for _ in self._layers]
        self._work: list[Tensor] = []  # zeroed once, then the kernel's own; one a thread
        self._pool: ThreadPoolExecutor | None = None
        self._cost = 2 * LANES * sum(layer.module.weight.numel() * self._pixels(layer) for layer in self._layers)

    def __del__(self) -> None:
        if getattr(self, "_net", None) is not None:
            self._lib.ebm_free(self._net)
            self._net = None

    def __reduce__(self) -> str:
        raise TypeError("a NativeStack cannot be copied or pickled: make another one from the network")

    @staticmethod
    def _pixels(layer: _Layer) -> int:
        _, _, ky, kx, sy, sx, py, px, h, w = layer.numbers
        return ((h + 2 * py - ky) // sy + 1) * ((w + 2 * px - kx) // sx + 1)

    def _refresh(self) -> None:
        """Pack the weights that changed since the last call.

        Contents are compared, not versions: fused optimisers and writes through `.data` change a tensor
        without counting it.
        """
        for index, layer in enumerate(self._layers):
            module, packed = layer.module, self._packed[index]
            now = [p.detach() for p in (module.weight, module.bias) if p is not None]
            if len(packed) == len(now) and all(map(torch.equal, packed, now)):
                continue
            self._packed[index] = kept = [p.clone(memory_format=torch.contiguous_format) for p in now]
            self._lib.ebm_pack(self._net, index, kept[0].data_ptr(), kept[1].data_ptr() if len(kept) > 1 else None)

    def _checked(self, x: Tensor) -> Tensor:
        right = x.dtype == torch.float32 and x.device.type == "cpu"
        if not right or x.dim() != 4 or x.shape[1:] != self.shape or not len(x):
            raise ValueError(
                f"expected float32 [n {' '.join(map(str, self.shape))}] on the CPU, n >= 1, "
                f"received {x.dtype} {list(x.shape)} on {x.device}"
            )
        return x.detach().contiguous()

    def _blocks(self, n: int, work: Callable[[int, int, int], None], cost: float) -> None:
        """Call `work(first chain, count, workspace address)` for each block, over the threads."""
        count = -(-n // LANES)
        threads = 1 if cost < _WORTH_A_THREAD else min(torch.get_num_threads(), count)
        floats = self._lib.ebm_floats(self._net)
        while len(self._work) < threads:
            self._work.append(torch.zeros(floats + LANES))  # room to start on a 64-byte boundary
        blocks = iter(range(count))  # shared: each block is taken once

        def loop(thread: int) -> None:
            address = -(-self._work[thread].data_ptr() // 64) * 64
            for block in blocks:
                work(block * LANES, min(LANES, n - block * LANES), address)

        if threads == 1:
            loop(0)
            return
        if self._pool is None or self._pool._max_workers < threads - 1:
            self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="ebm-native")
        others = [self._pool.submit(loop, thread) for thread in range(1, threads)]
        try:
            loop(0)
        finally:  # after an interrupt too, nobody may still be in the workspaces
            for _ in blocks:
                pass
            for other in others:
                other.result()

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F [n] and dF/dx [n c h w] of images x [n c h w], float32 in any memory format."""
        x = self._checked(x)
        _, energy, _, _, grad = self._path(x, None, torch.zeros(len(x), dtype=torch.int64), 0, 0.0, 0.0, 0, 0)
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
    ) -> PathResult:
        """`steps` Langevin steps (Eq. 9 on U = scale·F): x' = x − (ε²/2)·scale/T·∇F(x) + τ·ε·z.

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
        """
        x, ids = self._checked(x), _chain_numbers(chains)
        if len(ids) != len(x) or steps < 0:
            raise ValueError(f"expected {len(x)} chains and steps >= 0, received {len(ids)} and {steps}")
        drift = 0.5 * step_size**2 * scale / temperature
        end, key = torch.empty_like(x), key & (2**64 - 1)
        return self._path(x, end, ids, steps, drift, noise * step_size, key, step0)

    def _path(self, x: Tensor, end: Tensor | None, ids: Tensor, steps: int, *numbers: float) -> PathResult:
        """`end` receives the last states, None where they are x; numbers: drift, sigma, key, step0."""
        self._refresh()
        n, size = len(x), x[0].numel()
        grad, length = torch.empty_like(x), torch.zeros(n)
        energy, norm = torch.empty(2, steps + 1, n)

        def at(tensor: Tensor | None, item: int) -> int | None:
            return None if tensor is None else tensor.data_ptr() + item * tensor.element_size()

        def work(first: int, count: int, workspace: int) -> None:
            images = [at(tensor, first * size) for tensor in (x, end, grad)]
            values = [at(tensor, first) for tensor in (energy, norm, length)]
            drift, sigma, key, step0 = numbers
            self._lib.ebm_path(
                self._net, workspace, count, *images, *values, n, steps, drift, sigma, key, at(ids, first), step0
            )

        self._blocks(n, work, self._cost * (steps + 1))
        return PathResult(x if end is None else end, energy, norm, length, grad)

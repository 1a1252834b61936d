"""The compiled kernel against autograd in float64, its repeatability, its noise, and life without a compiler."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ebmcli.native import stack as native
from ebmcli.native.build import libraries
from ebmcli.native.shares import wrap
from ebmcli.native.stack import NativeStack, normal

ROOT = Path(__file__).resolve().parents[2]
needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())


def vanilla(channels: int, width: int, size: int, leak: float = 0.05) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1), nn.LeakyReLU(leak)]
    while size >= 6:
        modules += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(leak, inplace=True)]
        size, width = size // 2, 2 * width
    return nn.Sequential(*modules, nn.Conv2d(width, 1, size))


def toy(leak: float = 0.05) -> nn.Sequential:
    widths = [2, 32, 64, 64, 64]
    pairs = [(nn.Conv2d(a, b, 1), nn.LeakyReLU(leak)) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[module for pair in pairs for module in pair], nn.Conv2d(64, 1, 1))


def linear_tail() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 12, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(12 * 64, 21), nn.LeakyReLU(0.2), nn.Linear(21, 1),
    )  # fmt: skip


def space_to_depth() -> nn.Sequential:
    return nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, 16, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(16, 24, 4, 2, 1),
        nn.LeakyReLU(0.1), nn.Conv2d(24, 1, 4),
    )  # fmt: skip


def uneven() -> nn.Sequential:
    """Odd sizes, strides that skip pixels, kernels that are not square, no bias, activation at the end."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 7, (5, 2), (3, 2), (2, 0), bias=False), nn.ReLU()),
        nn.Identity(),
        nn.Conv2d(7, 11, 1, 3), nn.LeakyReLU(0.3), nn.Conv2d(11, 5, 3, 1, 2), nn.LeakyReLU(1.0),
        nn.Conv2d(5, 3, (4, 4), 2, 1), nn.Flatten(), nn.Linear(12, 1), nn.LeakyReLU(0.5),
    )  # fmt: skip


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = vanilla(1, 8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x).flatten()


CASES = {
    "16x16x1 w8": (lambda: vanilla(1, 8, 16), (1, 16, 16)),
    "16x16x3 w32": (lambda: vanilla(3, 32, 16, 0.2), (3, 16, 16)),
    "28x28x1 w8": (lambda: vanilla(1, 8, 28), (1, 28, 28)),
    "28x28x1 w24": (lambda: vanilla(1, 24, 28), (1, 28, 28)),
    "32x32x3 w16": (lambda: vanilla(3, 16, 32), (3, 32, 32)),
    "32x32x3 w32": (lambda: vanilla(3, 32, 32), (3, 32, 32)),
    "32x32x1 leak 1": (lambda: vanilla(1, 16, 32, 1.0), (1, 32, 32)),
    "64x64x3 w8": (lambda: vanilla(3, 8, 64), (3, 64, 64)),
    "toy": (toy, (2, 1, 1)),
    "linear tail": (linear_tail, (3, 16, 16)),
    "space to depth": (space_to_depth, (3, 16, 16)),
    "uneven": (uneven, (2, 17, 14)),
    "named": (Named, (1, 16, 16)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(sum(name.encode()))
    build, shape = CASES[name]
    return build(), shape


def images(n: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)) * 0.7


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_energy_and_gradient_are_those_of_float64_autograd(name: str) -> None:
    network, shape = made(name)
    x = images(19, shape)
    energy, grad = NativeStack(network, shape).energy_and_grad(x.to(memory_format=torch.channels_last))
    exact = x.double().requires_grad_()
    exact_energy = copy.deepcopy(network).double()(exact).flatten()
    (exact_grad,) = torch.autograd.grad(exact_energy.sum(), exact)
    assert energy.shape == (19,)
    assert grad.shape == x.shape
    assert distance(energy, exact_energy) < 1e-5
    # A pre-activation within rounding of 0 may fall on the other side of its kink: that is rare, so nearly all
    # chains are held to 1e-5, and every one where there is no kink.
    difference = (grad.double() - exact_grad).flatten(1).norm(dim=1)
    each = (difference / exact_grad.flatten(1).norm(dim=1)).sort().values
    assert (each < 1e-5).sum() >= 17
    assert each[-1] < (1e-5 if "leak 1" in name else 3e-2)


@needs_kernel
@pytest.mark.parametrize("name", ["16x16x3 w32", "28x28x1 w8", "toy", "uneven"])
def test_a_chain_has_the_same_bits_in_any_batch_place_and_thread(name: str, threads) -> None:
    network, shape = made(name)
    stack, x = NativeStack(network, shape), images(64, shape)
    chains = torch.arange(64) + 2**40
    settings = {"steps": 3, "step_size": 0.05, "scale": 1.0, "noise": 1.0, "temperature": 1.0, "key": 7}
    threads(1)
    whole = stack.langevin(x, chains=chains, **settings)
    single = stack.energy_and_grad(x)
    for count in (1, 2):
        threads(count)
        for n in (1, 3, 16, 17, 64):
            order = torch.randperm(64, generator=torch.Generator().manual_seed(n))[:n]
            part = stack.langevin(x[order], chains=chains[order], **settings)
            for got, expected, axis in zip(part, whole, (0, 1, 1, 0, 0), strict=True):
                assert torch.equal(got, expected.index_select(axis, order))
            for got, expected in zip(stack.energy_and_grad(x[order]), single, strict=True):
                assert torch.equal(got, expected[order])


@needs_kernel
@pytest.mark.parametrize("name", ["16x16x1 w8", "32x32x1 leak 1", "toy", "space to depth"])
def test_a_path_is_a_loop_of_energy_and_grad_and_normal(name: str) -> None:
    network, shape = made(name)
    stack, x, n, steps = NativeStack(network, shape), images(37, shape), 37, 12
    key, chains, size = 2**63 + 12345, torch.arange(37) * 3 - 5, x[0].numel()
    epsilon, scale, tau, temperature = 0.03, 40.0, 0.8, 1.7
    path = stack.langevin(
        x, steps=steps, step_size=epsilon, scale=scale, noise=tau, temperature=temperature,
        key=key, chains=chains, step0=9,
    )  # fmt: skip
    state, length = x.clone(), torch.zeros(n)
    energies, norms = [], []
    for step in range(steps + 1):
        energy, grad = (scale * value for value in stack.energy_and_grad(state))
        energies.append(energy)
        norms.append(grad.flatten(1).norm(dim=1))
        if step < steps:
            z = normal(key, chains, 9 + step, size).view_as(state)
            new = state - (0.5 * epsilon**2 / temperature) * grad + tau * epsilon * z
            length += (new - state).flatten(1).norm(dim=1)
            state = new
    assert path.energy.shape == path.grad_norm.shape == (steps + 1, n)
    assert torch.equal(x, images(37, shape))
    for got, expected in [
        (path.x, state), (path.energy, torch.stack(energies)), (path.grad_norm, torch.stack(norms)),
        (path.path_length, length), (path.grad, grad),
    ]:  # fmt: skip
        error = (got - expected).abs().flatten() / expected.abs().mean()
        assert error.quantile(0.9) < 1e-5
        if "leak 1" in name:
            assert error.max() < 1e-4


@needs_kernel
@pytest.mark.parametrize("name", ["16x16x1 w8", "28x28x1 w24", "toy", "uneven"])
def test_a_known_gradient_saves_one_and_leaves_the_same_bits(name: str) -> None:
    network, shape = made(name)
    stack, x = NativeStack(network, shape), images(21, shape)
    settings = {"step_size": 0.05, "scale": 30.0, "noise": 1.0, "temperature": 1.0, "key": 4}
    whole = stack.langevin(x, steps=6, chains=torch.arange(21), **settings)
    first = stack.langevin(x, steps=2, chains=torch.arange(21), **settings)
    start = (first.energy[-1], first.grad)
    second = stack.langevin(first.x, steps=4, chains=torch.arange(21), step0=2, start=start, **settings)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(torch.cat([first.energy, second.energy[1:]]), whole.energy)
    assert torch.equal(torch.cat([first.grad_norm, second.grad_norm[1:]]), whole.grad_norm)
    assert torch.equal(second.grad, whole.grad)
    # That the gradient is taken as given, not computed: another one is followed.
    other = stack.langevin(first.x, steps=1, chains=torch.arange(21), start=(start[0], 2 * start[1]), **settings)
    assert torch.equal(other.grad_norm[0], 2 * second.grad_norm[0])


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_sixteen_lanes_eight_lanes_and_joined_blocks_give_the_same_bits(name: str, threads) -> None:
    network, shape = made(name)
    stack, x = NativeStack(network, shape), images(48, shape)
    settings = {"steps": 1, "step_size": 0.05, "scale": 30.0, "noise": 1.0, "temperature": 1.0, "key": 4}
    threads(1)
    assert [piece[1:] for piece in stack._pieces(48, 1)] == [(48, 16)]
    assert [piece[1:] for piece in stack._pieces(16, 1)] == [(16, 16)]
    assert [piece[1:] for piece in stack._pieces(8, 1)] == [(8, 8)]
    joined = stack.langevin(x, chains=torch.arange(48), **settings)
    for size in (16, 8):
        part = stack.langevin(x[:size], chains=torch.arange(size), **settings)
        for got, expected in zip(part, joined, strict=True):
            chains = expected[:, :size] if expected.dim() == 2 else expected[:size]
            assert torch.equal(got, chains)


@needs_kernel
def test_every_chain_is_in_one_piece_of_a_build_that_it_fits() -> None:
    network, shape = made("toy")
    stack = NativeStack(network, shape)
    for n in [1, 7, 8, 9, 16, 17, 31, 50, 64, 100, 127, 1000]:
        for threads in (1, 2, 3, 16):
            pieces = stack._pieces(n, min(threads, -(-n // 8)))
            assert [piece.first for piece in pieces] == [sum(p.many for p in pieces[:k]) for k in range(len(pieces))]
            assert sum(piece.many for piece in pieces) == n
            assert all(piece.many <= (48 if piece.lanes == 16 else 8) for piece in pieces)
            # In blocks: no more than an even share and what one block may add.
            time = max(sum(piece.cost for piece in pieces) / threads, max(piece.cost for piece in pieces))
            assert time <= -(-n // 8) / threads / 2 + 1


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("costs", [[1.0], [3, 0.8, 3], [1, 1, 1], [0.8] * 13, [3, 1, 1, 0.8, 3, 3], [5, 1, 1]])
def test_wrapped_jobs_end_together_and_never_overlap_themselves(costs: list[float], threads: int) -> None:
    shares = wrap(costs, threads)
    assert len(shares) <= threads
    whole = max(sum(costs) / threads, *costs)
    times: dict[int, list[tuple[float, float, float, float]]] = {}
    for share in shares:
        now = 0.0
        for part in share:
            end = now + costs[part.job] * (part.end - part.begin)
            times.setdefault(part.job, []).append((part.begin, part.end, now, end))
            now = end
        assert now <= whole * (1 + 1e-9)
    for job in range(len(costs)):
        parts = sorted(times[job])
        assert parts[0][0] == 0
        assert parts[-1][1] == 1
        for (_, end, _, done), (begin, _, now, _) in itertools.pairwise(parts):
            assert begin == end
            assert done <= now + 1e-9


@needs_kernel
@pytest.mark.parametrize(("n", "steps"), [(20, 1), (20, 5), (48, 7), (100, 4), (100, 0)])
def test_a_piece_that_two_threads_share_has_the_same_bits(n: int, steps: int, threads) -> None:
    network, shape = made("28x28x1 w24")
    stack, x = NativeStack(network, shape), images(n, shape)
    settings = {"steps": steps, "step_size": 0.05, "scale": 30.0, "noise": 1.0, "temperature": 1.0, "key": 4}
    threads(1)
    alone = stack.langevin(x, chains=torch.arange(n), **settings)
    for count in (2, 3):
        threads(count)
        shared = stack.langevin(x, chains=torch.arange(n), **settings)
        assert all(torch.equal(a, b) for a, b in zip(shared, alone, strict=True))


@needs_kernel
def test_a_thread_that_cannot_be_had_stops_the_others(threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes out, nobody waits for a part that will not come, and the next call is as good as any."""
    network, shape = made("28x28x1 w8")
    stack, x, ids = NativeStack(network, shape), images(80, shape), torch.arange(80)
    settings = {"steps": 3, "step_size": 0.05, "scale": 30.0, "noise": 1.0, "temperature": 1.0, "key": 4}
    threads(3)
    expected = stack.langevin(x, chains=ids, **settings)
    submit, asked = stack._crew.submit, []

    def only_one(*words: object) -> object:
        asked.append(words)
        if len(asked) == 2:
            raise RuntimeError("can't start new thread")
        return submit(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(stack._crew, "submit", only_one)
    with pytest.raises(RuntimeError, match="new thread"):
        stack.langevin(x, chains=ids, **settings)
    again = stack.langevin(x, chains=ids, **settings)
    assert all(map(torch.equal, again, expected))


@needs_kernel
def test_without_noise_or_steps() -> None:
    network, shape = made("16x16x1 w8")
    stack, x = NativeStack(network, shape), images(5, shape)
    settings = {"step_size": 1.0, "scale": 1.0, "temperature": 1.0, "key": 0, "chains": torch.arange(5)}
    none = stack.langevin(x, steps=0, noise=1.0, **settings)
    energy, grad = stack.energy_and_grad(x)
    assert torch.equal(none.x, x)
    assert torch.equal(none.energy, energy[None])
    assert torch.equal(none.grad, grad)
    assert not none.path_length.any()
    one = stack.langevin(x, steps=1, noise=0.0, **settings)
    assert distance(one.x, x - 0.5 * grad) < 1e-7
    assert distance(one.path_length, 0.5 * one.grad_norm[0]) < 1e-6


@needs_kernel
def test_weights_changed_in_place_or_replaced_are_followed() -> None:
    network, shape = made("28x28x1 w8")
    stack, x = NativeStack(network, shape), images(4, shape)
    seen = [stack.energy_and_grad(x)[1]]
    with torch.no_grad():
        network[2].weight.mul_(1.5)
    seen.append(stack.energy_and_grad(x)[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    network(x).sum().backward()
    optimizer.step()
    seen.append(stack.energy_and_grad(x)[1])
    network[0].bias.data = torch.randn(8)
    seen.append(stack.energy_and_grad(x)[1])
    network.load_state_dict(vanilla(1, 8, 28).state_dict())
    seen.append(stack.energy_and_grad(x)[1])
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))
    assert torch.equal(seen[-1], NativeStack(network, shape).energy_and_grad(x)[1])


def test_what_is_not_a_plain_stack_is_refused() -> None:
    refused = [
        nn.Sequential(nn.Conv2d(1, 2, 4)),  # two outputs
        nn.Sequential(nn.Conv2d(1, 1, 3)),  # an image of outputs
        nn.Sequential(nn.Conv2d(1, 2, 4), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 4), nn.LeakyReLU(-0.1), nn.Conv2d(2, 1, 1)),
        nn.Sequential(nn.Conv2d(1, 1, 2, dilation=3)),
        nn.Sequential(nn.Linear(16, 1)),  # without a Flatten
        nn.Sequential(nn.LeakyReLU(0.1), nn.Conv2d(1, 1, 4)),
        nn.Sequential(nn.Conv2d(1, 1, 4)).double(),
        nn.ModuleDict({"g": nn.Sequential(nn.Conv2d(1, 1, 4))}),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 1, 4))),
    ]
    assert not any(NativeStack.supports(network, (1, 4, 4)) for network in refused)
    assert NativeStack.supports(nn.Sequential(nn.Conv2d(1, 1, 4)), (1, 4, 4))
    with pytest.raises(ValueError, match="BatchNorm2d"):
        NativeStack(refused[2], (1, 4, 4))


@needs_kernel
def test_wrong_inputs_say_what_was_expected() -> None:
    network, shape = made("toy")
    stack = NativeStack(network, shape)
    with pytest.raises(ValueError, match=r"float32 \[n 2 1 1\].*float64 \[3, 2, 1, 1\]"):
        stack.energy_and_grad(torch.zeros(3, 2, 1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="int64"):
        normal(0, torch.zeros(3), 0, 4)


# --- noise ---


def philox(counter: list[int], key: int) -> list[int]:
    """Philox-4x32-10 in plain Python."""
    c, k, mask = list(counter), [key & 0xFFFFFFFF, key >> 32], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & mask, a >> 32 ^ c[3] ^ k[1], a & mask]
        k = [k[0] + 0x9E3779B9 & mask, k[1] + 0xBB67AE85 & mask]
    return c


@needs_kernel
def test_philox_gives_the_published_words() -> None:
    def kernel(counter: list[int], key: int) -> list[int]:
        words, out = np.array(counter, dtype=np.uint32), np.zeros(4, dtype=np.uint32)
        libraries().wide.ebm_philox(key, words.ctypes.data, out.ctypes.data)
        return out.tolist()

    assert kernel([0] * 4, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert kernel([0xFFFFFFFF] * 4, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    random = np.random.default_rng(0)
    for _ in range(20):
        counter, key = random.integers(0, 2**32, 4).tolist(), int(random.integers(0, 2**63))
        assert kernel(counter, key) == philox(counter, key)


@needs_kernel
def test_normals_are_box_muller_of_philox() -> None:
    key, chains, step = 0x123456789ABCDEF, [0, 1, 2**33 + 5, -7], 2**31 + 3
    got = normal(key, torch.tensor(chains), step, 10).double().numpy()
    for row, chain in zip(got, chains, strict=True):
        bits = chain & (2**64 - 1)
        counters = [[group, step, bits & 0xFFFFFFFF, bits >> 32] for group in range(3)]
        words = np.array([philox(counter, key) for counter in counters], dtype=float).reshape(-1, 2)
        radius, angle = np.sqrt(-2 * np.log((words[:, 0] + 0.5) / 2**32)), 2 * np.pi * words[:, 1] / 2**32
        exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:10]
        assert np.abs(row - exact).max() < 2e-6


@needs_kernel
def test_normals_are_normal_and_independent() -> None:
    chains, size = torch.arange(4000), 256
    z = normal(99, chains, 5, size)
    n = z.numel()
    flat = z.flatten().double().numpy()
    for power, expected, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((flat**power).mean() - expected) < 4.5 * (spread / n) ** 0.5
    assert stats.kstest(flat[: 10**6], "norm").pvalue > 1e-3
    others = {
        "step": normal(99, chains, 6, size),
        "key": normal(100, chains, 5, size),
        "high key": normal(99 + 2**32, chains, 5, size),
        "chain": normal(99, chains + 1, 5, size).roll(1, 1),
        "high chain": normal(99, chains + 2**32, 5, size),
        "element": z.roll(1, 1),
        "next chain": z.roll(1, 0),
    }
    for other in others.values():
        for power in (1, 2):
            a, b = z.double() ** power, other.double() ** power
            correlation = ((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())
            assert abs(float(correlation)) < 4.5 / n**0.5
    assert torch.equal(normal(99, chains + 1, 5, size)[:-1], z[1:])
    assert torch.equal(normal(99, chains[:3], 5, 255), z[:3, :255])


@needs_kernel
def test_the_tails_are_there() -> None:
    z = torch.cat([normal(3, torch.arange(10_000), step, 400).flatten() for step in range(3)])  # 1.2e7 draws
    assert z.max() > 4.5
    assert z.min() < -4.5
    expected = len(z) * 2 * stats.norm.sf(4.0)
    assert abs(int((z.abs() > 4).sum()) - expected) < 5 * expected**0.5


# --- building ---

REPORT = "from ebmcli.native import stack as native; print(native.available(), native.why_not())"


def report(tmp_path: Path, code: str = REPORT, **changes: str) -> str:
    environment = {**os.environ, "EBM_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT), **changes}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    said = report(tmp_path, CXX="/nonexistent", PATH="")
    assert said.startswith("False no C++ compiler: CXX=/nonexistent")
    assert said.count("\n") == 1


def test_a_compiler_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    said = report(tmp_path, CXX=shutil.which("false") or "/bin/false")
    assert said.startswith("False ")
    assert said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["native.lock"]


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    assert report(tmp_path, EBM_NATIVE="0") == "False turned off by EBM_NATIVE=0\n"


@needs_kernel
def test_the_library_is_built_once_and_leaves_two_files_with_their_digests(tmp_path: Path) -> None:
    assert report(tmp_path, EBM_NATIVE="1") == "True \n"
    built = sorted(tmp_path.iterdir())
    stamps = [file.stat().st_mtime_ns for file in built]
    assert [file.suffix for file in built] == [".sha256", ".so", ".sha256", ".so", ".lock"]
    assert report(tmp_path) == "True \n"
    assert sorted(tmp_path.iterdir()) == built
    assert [file.stat().st_mtime_ns for file in built] == stamps


@needs_kernel
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++ and LD_PRELOAD")
def test_the_kernel_is_clean_under_the_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    compiler = tmp_path / "sanitizing"
    compiler.write_text('#!/bin/sh\nexec g++ -g -fsanitize=address,undefined -fno-sanitize-recover=all "$@"\n')
    compiler.chmod(0o755)
    names = ["libasan.so", "libubsan.so"]
    found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    code = """
import sys, torch
sys.path.insert(0, "tests")
from test_native import CASES, NativeStack, images, made, native, normal
for name in CASES:
    network, shape = made(name)
    stack, settings = NativeStack(network, shape), dict(step_size=0.1, scale=1.0, noise=1.0, temperature=1.0, key=1)
    for n in (1, 16, 19, 41):
        stack.energy_and_grad(images(n, shape))
        stack.langevin(images(n, shape), steps=2, chains=torch.arange(n), **settings)
normal(1, torch.arange(17), 0, 7)
print("clean", native.why_not())
"""
    preload = {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0", "CXX": str(compiler)}
    environment = {**os.environ, "EBM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), **preload}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "clean \n", done.stderr

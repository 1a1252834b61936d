"""The torch backends: gradients against float64, the same bits in any batch, live weights, paths, and the choice."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import resource
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ebmcli import networks
from ebmcli.engine import choose as engine
from ebmcli.engine import fused_steps as steps
from ebmcli.engine import precision
from ebmcli.engine.cuda_graph import Graph
from ebmcli.engine.points import Points, are_dense
from ebmcli.engine.stack import GRAINS, Stack
from ebmcli.networks import NonLocal, NonLocalBlock, Shape, Toy, Vanilla
from ebmcli.potential import Potential
from ebmcli.random import philox
from ebmcli.sampler import HMC, MALA, Langevin, Magnetised

CPU = torch.device("cpu")


def mixed() -> nn.Sequential:
    """Linear layers after a Flatten, an activation at the end, a layer without bias."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(8, 12, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 64, 21), nn.LeakyReLU(0.2), nn.Linear(21, 1), nn.LeakyReLU(0.5),
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "toy": (lambda: Toy((2, 1, 1)), (2, 1, 1)),
    "toy leak 1": (lambda: Toy((2, 1, 1), 16, leak=1.0), (2, 1, 1)),
    "mixed": (mixed, (3, 16, 16)),
    "nonlocal 16": (lambda: NonLocal((1, 16, 16), 8), (1, 16, 16)),
    "nonlocal 28": (lambda: NonLocal((1, 28, 28), 8, leak=0.2), (1, 28, 28)),
    "nonlocal 32": (lambda: NonLocal((3, 32, 32), 16), (3, 32, 32)),
}
for size, channels, width, leak, folded in (
    (16, 1, 8, 0.05, False), (16, 3, 16, 0.2, True), (16, 1, 16, 1.0, False), (28, 1, 8, 0.2, False),
    (28, 3, 16, 0.05, True), (32, 3, 16, 0.05, False), (32, 1, 8, 1.0, True), (64, 3, 8, 0.05, False),
):  # fmt: skip
    CASES[f"vanilla {size}×{size}×{channels} w{width} leak {leak}{' folded' * folded}"] = (
        lambda a=((channels, size, size), width, leak, folded): Vanilla(*a), (channels, size, size),
    )  # fmt: skip
SAME_BITS = ["toy", "mixed", "nonlocal 28", "vanilla 16×16×1 w8 leak 0.05", "vanilla 28×28×3 w16 leak 0.05 folded",
             "vanilla 32×32×3 w16 leak 0.05"]  # fmt: skip
SETTINGS = {"step_size": 0.05, "scale": 1.0, "noise": 1.0, "temperature": 1.0, "key": 0xFEDCBA9876543210}


def made(name: str) -> tuple[nn.Module, Shape]:
    torch.manual_seed(len(name))
    build, shape = CASES[name]
    network = build()
    for module in network.modules():
        if isinstance(module, NonLocalBlock):  # zero in a new network, which would hide the attention
            nn.init.normal_(module.W.weight, std=0.5)
            nn.init.normal_(module.W.bias)
    return network, shape


def stack_of(name: str) -> tuple[Stack, nn.Module, Shape]:
    network, shape = made(name)
    return Stack(network, shape, CPU), network, shape


def images(n: int, shape: Shape) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)) * 0.7


def exact(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 autograd."""
    y = x.double().requires_grad_()
    energy = copy.deepcopy(network).double()(y).flatten()
    (grad,) = torch.autograd.grad(energy.sum(), y)
    return energy.detach(), grad


def assert_exact(got: tuple[Tensor, Tensor], network: nn.Module, x: Tensor, outside: int = 2) -> None:
    """Within 1e-5; but a pre-activation within rounding of 0 may be on the other side of its kink in a few chains."""
    energy, grad = exact(network, x)
    assert (got[0] - energy).norm() < 1e-5 * energy.norm()
    each = (got[1] - grad).flatten(1).norm(dim=1) / grad.flatten(1).norm(dim=1)
    assert (each > 1e-5).sum() <= outside
    assert each.max() < 5e-2


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_energy_and_gradient_are_those_of_float64_autograd(name: str) -> None:
    """Random networks of every kind; `energy` gives the same bits; the caller's images stay as they were."""
    stack, network, shape = stack_of(name)
    x = images(19, shape)
    before = x.clone()
    energy, grad = stack.energy_and_grad(x)
    assert_exact((energy, grad), network, x, outside=0 if "leak 1.0" in name else 2)
    assert torch.equal(stack.energy(x), energy)
    assert torch.equal(x, before)
    assert grad.is_contiguous()
    assert not any(made.is_inference() or made.requires_grad for made in (energy, grad))
    assert engine.disagreement(stack, network, shape, CPU) < 1e-5


@pytest.mark.parametrize("name", SAME_BITS)
def test_a_chain_has_the_same_bits_in_any_batch_and_on_any_threads(name: str, threads) -> None:
    """Gradients and whole paths; 1 to 64 chains, in another order, in another layout, one or two threads."""
    stack, _, shape = stack_of(name)
    x, chains = images(64, shape), torch.arange(64) + 2**40
    threads(1)
    single, whole = stack.energy_and_grad(x), stack.langevin(x, steps=3, chains=chains, **SETTINGS)
    for count in (1, 2):
        threads(count)
        for n in (1, 3, 32, 33, 64):
            order = torch.randperm(64, generator=torch.Generator().manual_seed(n))[:n]
            part = x[order].to(memory_format=torch.channels_last)
            for got, expected in zip(stack.energy_and_grad(part), single, strict=True):
                assert torch.equal(got, expected[order])
            path = stack.langevin(part, steps=3, chains=chains[order], **SETTINGS)
            for got, expected, axis in zip(path, whole, (0, 1, 1, 0, 0), strict=True):
                assert torch.equal(got, expected.index_select(axis, order))
            assert torch.get_num_threads() == count


def test_blocks_that_give_other_bits_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of block whose bits differ is found out before its results are used."""
    stack, _, shape = stack_of("toy")
    x = images(40, shape)
    expected = stack.energy_and_grad(x)
    own, sizes = stack._gradient, []

    def other(block: Tensor, packed: list) -> tuple[Tensor, Tensor]:
        sizes.append(len(block))
        energy, grad = own(block, packed)
        return energy + (1e-7 if len(block) > GRAINS[-1] else 0), grad

    stack._joinable = {}
    monkeypatch.setattr(stack, "_gradient", other)
    assert all(map(torch.equal, stack.energy_and_grad(x), expected))
    assert sizes[-5:] == [GRAINS[-1]] * 5


@pytest.mark.parametrize("name", ["toy", "mixed", "nonlocal 16"])
def test_weights_are_followed(name: str) -> None:
    """Changes in place, another state, a fused optimiser, tensors that move; never a stale copy."""
    stack, network, shape = stack_of(name)
    x = images(9, shape)
    assert_exact(stack.energy_and_grad(x), network, x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert_exact(stack.energy_and_grad(x), network, x)
    network.load_state_dict({k: v + 0.01 * torch.randn_like(v) for k, v in network.state_dict().items()})
    assert_exact(stack.energy_and_grad(x), network, x)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
    before = stack.energy(x)
    network(x).sum().backward()
    optimizer.step()
    assert not torch.equal(stack.energy(x), before)
    assert_exact(stack.energy_and_grad(x), network, x)
    for parameter in network.parameters():
        parameter.data = 0.9 * parameter.data
    assert_exact(stack.energy_and_grad(x), network, x)
    network.to(memory_format=torch.channels_last)
    assert_exact(stack.energy_and_grad(x), network, x)


def plain_path(backend: engine.Backend, x: Tensor, count: int) -> Tensor:
    """`count` steps of Eq. 9 by hand with SETTINGS."""
    chains = torch.arange(len(x))
    for step in range(count):
        z = philox.normal(SETTINGS["key"], chains, step, x[0].numel()).view_as(x)
        x = x - 0.5 * SETTINGS["step_size"] ** 2 * backend.energy_and_grad(x)[1] + SETTINGS["step_size"] * z
    return x


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("toy leak 1", "stack"),
        ("toy leak 1", "graph"),
        ("vanilla 16×16×1 w16 leak 1.0", "stack"),
        ("vanilla 28×28×3 w16 leak 0.05 folded", "stack"),
        ("nonlocal 16", "graph"),
    ],
)
def test_a_path_is_that_of_the_generic_backend(name: str, kind: str) -> None:
    """Twenty steps: to 1e-5 without kinks; with them in the median, and nearly everywhere to 1e-3."""
    network, shape = made(name)
    x, count = images(11, shape), 20
    stack = Stack(network, shape, CPU)
    stack.block = 8
    backend: engine.Backend = stack if kind == "stack" else Graph(stack, network, shape, CPU)
    assert backend.fused is not None
    path = backend.fused(x, steps=count, chains=torch.arange(11), **SETTINGS)
    expected = plain_path(engine.Generic(copy.deepcopy(network), shape, CPU), x, count)
    off = (path.x - expected).abs().flatten() / expected.abs().max()
    if "leak 1" in name:
        assert off.max() < 1e-5
    else:
        assert torch.quantile(off, 0.5) < 1e-5
        assert torch.quantile(off, 0.99) < 1e-3
    energy, grad = backend.energy_and_grad(path.x)
    torch.testing.assert_close(path.energy[-1], energy)
    torch.testing.assert_close(path.grad, grad)
    torch.testing.assert_close(path.grad_norm[-1], grad.flatten(1).norm(dim=1))
    torch.testing.assert_close(path.energy[0], backend.energy(x))
    assert path.energy.shape == path.grad_norm.shape == (count + 1, 11)
    one = [backend.fused(x, steps=k, chains=torch.arange(11), **SETTINGS) for k in (0, 1)]
    assert torch.equal(one[0].x, x)
    assert not one[0].path_length.any()
    torch.testing.assert_close(one[1].path_length, (one[1].x - x).flatten(1).norm(dim=1))


def test_a_path_in_pieces_is_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are numbered from `step0`; how many are recorded, or drawn, at once changes nothing."""
    network, shape = made("toy")
    x, chains = images(70, shape), torch.arange(70)
    for backend in (Stack(network, shape, CPU), Graph(Stack(network, shape, CPU), network, shape, CPU)):
        whole = backend.langevin(x, steps=30, chains=chains, **SETTINGS)
        half = backend.langevin(x, steps=13, chains=chains, **SETTINGS)
        rest = backend.langevin(half.x, steps=17, chains=chains, step0=13, **SETTINGS)
        assert torch.equal(rest.x, whole.x)
        assert torch.equal(torch.cat([half.energy, rest.energy[1:]]), whole.energy)
        monkeypatch.setattr(steps, "_AT_ONCE", 300)
        assert torch.equal(backend.langevin(x, steps=30, chains=chains, **SETTINGS).x, whole.x)
        monkeypatch.undo()
        still = backend.langevin(x, steps=3, chains=chains, **{**SETTINGS, "noise": 0.0})
        torch.testing.assert_close(still.x, x - sum(_drift(backend, x, 3)))


def _drift(backend: engine.Backend, x: Tensor, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        change = 0.5 * SETTINGS["step_size"] ** 2 * backend.energy_and_grad(x)[1]
        x = x - change
        yield change


def test_noise_does_not_ask_whether_its_key_and_step_are_numbers_or_tensors() -> None:
    """What a CUDA graph holds gives the bits of plain numbers, in any batch; several steps are one after the other."""
    chains, shape = torch.arange(50) * 2**33 - 7, (3, 5, 2)
    for key in (5, 0xFEDCBA9876543210):
        signed = torch.tensor(key - 2**64 if key >= 2**63 else key)
        words = philox.bits(key, chains, 9, 30)
        assert torch.equal(philox.bits(signed, chains, torch.tensor(9), 30), words)
        drawn = steps.draw(signed, chains, torch.tensor(9), 3, shape)
        for k in range(3):
            assert torch.equal(drawn[k].flatten(1), philox.normal_torch(key, chains, 9 + k, 30))
        assert torch.equal(steps.draw(signed, chains[7:8], torch.tensor(9), 3, shape), drawn[:, 7:8])
        torch.testing.assert_close(steps.draw(key, chains, 9, 3, shape), drawn, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["toy", "nonlocal 16", "vanilla 16×16×1 w8 leak 0.05"])
def test_recorded_steps_ask_the_device_for_nothing(name: str) -> None:
    """Tensors without values, which raise where a number is asked for, go through whole steps: no waiting on a GPU."""
    stack, _, shape = stack_of(name)
    packed = [tuple(weight.detach() for weight in layer) for layer in stack._pack()]

    def slope(x: Tensor) -> tuple[Tensor, Tensor]:
        return stack._gradient(x.clone(memory_format=torch.channels_last), packed)

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        key, step, drift, sigma = torch.tensor(5), torch.tensor(3), torch.tensor(0.1), torch.tensor(0.2)
        x = torch.randn(8, *shape)
        z = steps.draw(key, torch.arange(8), step, 2, shape)
        start = steps.Point(x, *slope(x))
        after = steps.advance(slope, start, 2, drift, sigma, lambda first, many: z[first : first + many])
        assert after.point.x.shape == x.shape
        assert after.energy.shape == (2, 8)
        with pytest.raises(DataDependentOutputException):
            torch.arange(8)[3].item()


def test_memory_is_flat() -> None:
    """Two hundred gradients and paths leave nothing behind, neither objects nor pages."""
    stack, _, shape = stack_of("vanilla 16×16×1 w8 leak 0.05")
    x = images(9, shape)

    def work(times: int) -> None:
        for _ in range(times):
            stack.energy_and_grad(x)
            stack.langevin(x, steps=1, chains=torch.arange(9), **SETTINGS)
        gc.collect()

    work(20)
    tracemalloc.start()
    work(5)
    objects, pages = tracemalloc.get_traced_memory()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(200)
    assert tracemalloc.get_traced_memory()[0] - objects < 50_000
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1.02 * pages


def test_autocast_of_the_caller_does_not_reach_the_gradient() -> None:
    """bfloat16 outside, float32 inside."""
    network, shape = made("vanilla 16×16×1 w8 leak 0.05")
    x = images(8, shape)
    for backend in (Stack(network, shape, CPU), engine.Generic(copy.deepcopy(network), shape, CPU)):
        expected = backend.energy_and_grad(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = backend.energy_and_grad(x)
        assert all(map(torch.equal, got, expected))


def test_the_precision_of_the_caller_is_put_back() -> None:
    """TF32 on outside, off inside, on again, whichever way torch keeps it; on an exception too."""
    switches = precision._switches()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        with contextlib.suppress(ZeroDivisionError), precision.computing(torch.device("cuda")):
            assert [getattr(place, name) for place, name, _ in switches] == [value for *_, value in switches]
            raise ZeroDivisionError
        assert matmul.allow_tf32
        assert cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = kept


@pytest.mark.parametrize("leak", [1.0, 0.05])
@pytest.mark.parametrize("widths", [(2, 5, 1), (3, 8, 8, 1)])
def test_points_are_the_layers(widths: tuple[int, ...], leak: float) -> None:
    """The same bits, called again and again, with biases and without."""
    torch.manual_seed(1)
    for bias in (True, False):
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b, bias=bias), nn.LeakyReLU(leak)]
        stack = Stack(nn.Sequential(*layers[:-1]), (widths[0], 1, 1), CPU)
        assert are_dense(stack._layers)
        with torch.inference_mode():
            packed = stack._pack()
            points = Points(stack._layers, packed, 8)
            for number in range(3):
                x = torch.randn(8, widths[0], 1, 1, generator=torch.Generator().manual_seed(number))
                (value, g), (expected, grad) = points(x.flatten(1)), stack._gradient(x, packed)
                assert torch.equal(value, expected)
                assert torch.equal(g, grad.flatten(1))


def test_points_are_for_products_of_one_leak() -> None:
    def dense(*layers: nn.Module) -> bool:
        return are_dense(Stack(nn.Sequential(nn.Flatten(), *layers), (2, 1, 1), CPU)._layers)

    one, two, last = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1)
    assert dense(one, nn.LeakyReLU(0.1), two, nn.LeakyReLU(0.1), last)
    assert not dense(one, nn.LeakyReLU(0.1), two, nn.LeakyReLU(0.2), last)
    assert not dense(one, nn.LeakyReLU(0.1), last, nn.LeakyReLU(0.1))
    assert not dense(nn.Linear(2, 1))
    assert not are_dense(Stack(*made("vanilla 16×16×1 w8 leak 0.05"), CPU)._layers)


def test_less_than_float32_is_what_it_says() -> None:
    """bfloat16 rounds to 8 bits, gives back float32, and stays within the tolerance it is accepted with."""
    network, shape = made("vanilla 16×16×1 w8 leak 0.05")
    x = images(8, shape)
    short = engine.Generic(copy.deepcopy(network), shape, CPU, "bf16")
    expected = engine.Generic(copy.deepcopy(network), shape, CPU).energy_and_grad(x)
    got = short.energy_and_grad(x)
    assert {t.dtype for t in (*got, short.energy(x))} == {torch.float32}
    assert 1e-4 < engine.disagreement(short, network, shape, CPU) < precision.TOLERANCE["bf16"]
    assert (got[1] - expected[1]).norm() < 0.1 * expected[1].norm()  # kinks of a few pixels included
    with torch.no_grad():
        for parameter in short.network.parameters():
            parameter.mul_(2)
    assert not torch.equal(short.energy(x), got[0])  # the weights' rounding is not kept


def test_which_backends_compute_in_less() -> None:
    """Those whose operations know how; the compiled kernel never."""
    network, shape = made("toy")
    fits = {name: fit for name, (fit, _) in engine.BACKENDS.items()}
    cuda = torch.device("cuda")
    able = {p: [n for n, fit in fits.items() if fit(network, shape, cuda, p)] for p in precision.PRECISIONS}
    assert able == {
        "float32": ["graph", "stack", "generic"],
        "tf32": ["graph", "stack", "generic"],
        "bf16": ["graph", "generic"],
    }
    assert not fits["native"](network, shape, CPU, "bf16")
    assert isinstance(engine._graph(network, shape, CPU, "bf16")._inner, engine.Generic)
    assert isinstance(engine._graph(network, shape, CPU, "tf32")._inner, Stack)
    wanted = {name: value for _, name, value in precision._switches("tf32")}
    assert "tf32" in wanted.values() or wanted["allow_tf32"] is True


@pytest.mark.parametrize(("name", "part"), [("tf32", "no such arithmetic"), ("bf16", "slows"), ("fp8", "unknown")])
def test_precisions_that_do_not_help_are_refused(name: str, part: str) -> None:
    network, shape = made("toy")
    with pytest.raises(engine.EBMError, match=part) as raised:
        engine.choose(network, shape, CPU, precision=name)
    assert "float32" in raised.value.hint


@pytest.mark.parametrize("kernel", [MALA, HMC])
def test_a_metropolis_test_refuses_less_than_float32(kernel: type) -> None:
    """Also behind a magnetised energy."""
    network, shape = made("toy")
    potential = Potential(network, shape, precision="bf16")
    for target in (potential, Magnetised(potential, torch.zeros(1, *shape), 1.0)):
        with pytest.raises(engine.EBMError, match="Metropolis test needs float32"):
            kernel(target, 0.1)
    Langevin(potential, 0.1)


class Squared(nn.Module):
    """A network that no backend but the generic one knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1)


def test_what_the_stack_computes() -> None:
    """The package's networks, not others: hooks, other classes, other precisions, padded last layers."""
    for name in CASES:
        network, shape = made(name)
        assert Stack.supports(network, shape)
        assert not Stack.supports(network.double(), shape)
    hooked = made("nonlocal 16")[0]
    hooked.convs.register_forward_hook(lambda *_: None)
    assert not Stack.supports(hooked, (1, 16, 16))
    assert not Stack.supports(Squared(), (1, 16, 16))
    assert not Stack.supports(nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 3, 1, 1)), (2, 1, 1))


def test_the_fastest_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiled kernel the stack; for other networks the generic one; a name forces one."""
    network, shape = made("toy")
    monkeypatch.setattr(engine.native, "available", lambda: False)
    assert list(engine.BACKENDS) == ["graph", "native", "stack", "generic"]
    assert engine.choose(network, shape, CPU).name == "stack"
    assert engine.choose(network, shape, CPU, "generic").name == "generic"
    assert engine.choose(*made("nonlocal 16"), CPU).name == "stack"
    assert engine.choose(Squared(), (1, 16, 16), CPU).name == "generic"
    with pytest.raises(engine.EBMError, match="does not compute Squared on cpu"):
        engine.choose(Squared(), (1, 16, 16), CPU, "stack")
    with pytest.raises(engine.EBMError, match="does not compute Toy on cpu"):
        engine.choose(network, shape, CPU, "graph")


def test_a_backend_that_is_wrong_or_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one runs, and the note says why."""
    network, shape = made("toy")
    monkeypatch.setattr(engine.native, "available", lambda: False)
    monkeypatch.setattr(Stack, "_gradient", lambda self, x, packed: (x[:, 0, 0, 0], x))
    chosen = engine.choose(network, shape, CPU)
    assert chosen.name == "generic"
    assert "backend stack was" in chosen.note

    def fail(self: Stack, x: Tensor, packed: list) -> None:
        raise RuntimeError("no such operation here")

    monkeypatch.setattr(Stack, "_gradient", fail)
    chosen = engine.choose(network, shape, CPU)
    assert chosen.name == "generic"
    assert "no such operation here" in chosen.note
    with pytest.raises(engine.EBMError, match="no such operation here"):
        engine.choose(network, shape, CPU, "stack")


def test_without_the_kernel_the_environment_variable_leaves_the_stack(python) -> None:
    """EBM_NATIVE=0 in a process of its own."""
    code = (
        "import torch; from ebmcli.networks import Toy; from ebmcli.potential import Potential;"
        "print(Potential(Toy((2, 1, 1)), (2, 1, 1)).backend.name)"
    )
    assert python("-c", code, env={"EBM_NATIVE": "0"}, check=0).stdout.strip() == "stack"


def test_every_known_network_has_a_fast_backend() -> None:
    """A new entry of `NETWORKS` is to be taught to the stack, or named here."""
    for name in networks.NETWORKS:
        shape = (2, 1, 1) if name == "toy" else (1, 16, 16)
        assert Stack.supports(networks.build(name, shape, width=8), shape)

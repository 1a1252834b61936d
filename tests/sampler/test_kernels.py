"""Markov kernels against closed forms: stationary laws, reversibility, order, costs, magnets, annealing, warm-up."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ebmcli.data.toys import TOYS
from ebmcli.errors import EBMError
from ebmcli.native import stack as native
from ebmcli.networks import Shape, build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import (
    HMC,
    KERNELS,
    MALA,
    SCHEDULES,
    Annealed,
    Kernel,
    Langevin,
    Magnetised,
    Schedule,
    adapt,
    changed,
    metropolis,
    run,
    sample,
    underdamped,
)

needs_kernel = pytest.mark.skipif(not native.available(), reason=native.why_not())
STREAM = Stream(5, Purpose.MCMC)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- targets whose law is known ---


class Density:
    """U(x) of a formula, by autograd; counts how often its gradient is taken."""

    def __init__(self, energy: Callable[[Tensor], Tensor], shape: Shape, temperature: float = 1.0) -> None:
        self.formula, self.shape, self.temperature, self.calls = energy, shape, temperature, 0

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            energy = self.formula(y)
            (grad,) = torch.autograd.grad(energy.sum(), y)
        return energy.detach(), grad


def gaussian(*sd: float, temperature: float = 1.0) -> Density:
    scale = torch.tensor(sd).view(-1, 1, 1)
    return Density(lambda x: 0.5 * (x / scale).square().flatten(1).sum(1), (len(sd), 1, 1), temperature)


def flat(size: int) -> Density:
    return Density(lambda x: 0 * x.flatten(1).sum(1), (size, 1, 1))


GMM = TOYS["gmm"]


def gmm() -> Density:
    return Density(GMM.energy, (2, 1, 1))


def double_well() -> Density:
    return Density(lambda x: 2 * (x.flatten(1)[:, 0].square() - 1).square(), (1, 1, 1))


def start(n: int, shape: Shape, scale: Tensor | float = 1.0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1)) * scale


class Mean(NamedTuple):
    """Mean over chains and steps [k], and its standard error from the chains' own means."""

    value: Tensor
    error: Tensor

    def off(self, truth: Tensor | float) -> float:
        """Largest deviation from `truth`, in standard errors."""
        return float(((self.value - truth) / self.error).abs().max())


def average(kernel: Kernel[Any], x: Tensor, burn: int, steps: int, of: Callable[[Tensor, Tensor], Tensor]) -> Mean:
    """`of`(x, U) [n k], averaged over `steps` steps after `burn`."""
    state = run(kernel, kernel.init(x, STREAM), burn).state
    total: Tensor | float = 0.0
    for _ in range(steps):
        state, _ = kernel.step(state)
        total = total + of(state.x, state.energy).double()
    each = total / steps
    return Mean(each.mean(0), each.std(0) / math.sqrt(len(x)))


def squares(x: Tensor, energy: Tensor) -> Tensor:
    return x.flatten(1).square()


# --- stationary laws ---


SD = (0.5, 1.0, 2.0)


def test_unadjusted_langevin_has_the_variance_of_its_step_size() -> None:
    """σ²/(1 − ε²/(4σ²)) along every axis, and clearly not σ²."""
    sd, eps = torch.tensor(SD), 0.5
    found = average(Langevin(gaussian(*SD), eps), start(4000, (3, 1, 1), 1.2 * sd.view(-1, 1, 1)), 150, 150, squares)
    biased = sd.square() / (1 - eps**2 / (4 * sd.square()))
    assert found.off(biased) < 4
    assert found.off(sd.square()) > 30


EXACT = {
    "mala": lambda target, eps: MALA(target, eps),
    "hmc": lambda target, eps: HMC(target, eps, n_leapfrog=3),
    "underdamped": lambda target, eps: underdamped(target, eps, persistence=0.7),
    "partial refresh, two steps": lambda target, eps: HMC(target, eps, 2, persistence=0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_adjusted_kernels_have_the_exact_variance(name: str) -> None:
    """σ² along every axis at a step size where many steps are refused; at another T, T·σ²."""
    # Widths away from those where a path is half a period: it would turn x into −x, and keep x² for long.
    for sd, temperature in ((torch.tensor(SD), 1.0), (torch.linspace(0.9, 1.8, 12), 2.5)):
        target = gaussian(*sd.tolist(), temperature=temperature)
        kernel = EXACT[name](target, 0.75 * math.sqrt(temperature))
        x = start(2500, target.shape, 1.2 * math.sqrt(temperature) * sd.view(-1, 1, 1))
        found = average(kernel, x, 100, 150, squares)
        acceptance = run(kernel, kernel.init(x, STREAM), 20).acceptance
        assert acceptance is not None
        assert 0.5 < acceptance.mean() < 0.93
        assert found.off(temperature * sd.square()) < 4
        assert (found.error / (temperature * sd.square())).max() < 0.015, "too few samples to tell anything"


def test_without_the_test_hmc_is_biased() -> None:
    """adjust=False: leapfrog at ε samples σ²/(1 − ε²/(4σ²)) of a Gaussian, for any number of steps and any α."""
    sd, eps = torch.tensor(SD), 0.5
    biased = sd.square() / (1 - eps**2 / (4 * sd.square()))
    for n, alpha in ((1, 0.0), (4, 0.0), (1, 0.7)):
        kernel = HMC(gaussian(*SD), eps, n, alpha, adjust=False)
        state = kernel.init(start(4000, (3, 1, 1), sd.view(-1, 1, 1)), STREAM)
        state, info = kernel.step(state)
        assert info.accepted.all()
        assert info.acceptance.mean() < 0.99
        found = average(kernel, state.x, 150, 100, squares)
        assert found.off(biased) < 4
        assert found.off(sd.square()) > 15


@pytest.mark.parametrize("name", EXACT)
def test_the_mixture_is_left_as_it_is(name: str) -> None:
    """gmm from its own samples: radius, energy against quadrature, occupancy of the modes; and modes do change."""
    axis = torch.arange(-2.2, 2.2, 0.004, dtype=torch.float64) + 0.002
    grid = torch.cartesian_prod(axis, axis)
    energy = GMM.energy(grid)
    p = torch.exp(-energy) * 0.004**2
    radius = grid.norm(dim=1)
    truth = torch.stack([p.sum(), (p * radius).sum(), (p * energy).sum(), (p * radius.square()).sum()])
    assert truth[0] == pytest.approx(1, abs=1e-6)

    def mode(x: Tensor) -> Tensor:
        return (torch.atan2(x[:, 1, 0, 0], x[:, 0, 0, 0]) / (2 * math.pi) * 8).round().long() % 8

    def figures(x: Tensor, energy: Tensor) -> Tensor:
        r = x.flatten(1).norm(dim=1)
        one = torch.nn.functional.one_hot(mode(x), 8)
        return torch.cat([r[:, None], energy[:, None], r.square()[:, None], one], dim=1)

    kernel = EXACT[name](gmm(), 0.16)
    x = GMM.sample(1500, torch.Generator().manual_seed(3))
    found = average(kernel, x, 0, 100, figures)
    assert found.off(torch.cat([truth[1:], torch.full((8,), 0.125)])) < 4
    assert found.error[1] < 0.01
    end = run(kernel, kernel.init(x, STREAM), 100).state.x
    assert (mode(end) != mode(x)).float().mean() > 0.2


def asymmetry(kernel: Kernel[Any], x: Tensor, steps: int) -> float:
    """Mean over pairs of bins of (C_ij − C_ji)²/(C_ij + C_ji), which is about 1, or less, for a reversible chain."""
    edges = torch.linspace(-1.6, 1.6, 13)
    counts = torch.zeros(14, 14)
    state = kernel.init(x, STREAM)
    for _ in range(steps):
        before = torch.bucketize(state.x.flatten(), edges)
        state, _ = kernel.step(state)
        after = torch.bucketize(state.x.flatten(), edges)
        counts += torch.bincount(before * 14 + after, minlength=196).view(14, 14)
    i, j = torch.triu_indices(14, 14, 1)
    both = counts[i, j] + counts[j, i]
    enough = both > 30
    assert enough.sum() > 20
    return float(((counts[i, j] - counts[j, i]).square() / both)[enough].mean())


def test_detailed_balance() -> None:
    """On a double well, as many transitions from bin i to bin j as from j to i; not so without the test."""
    axis = torch.linspace(-2.2, 2.2, 20001, dtype=torch.float64)
    p = torch.exp(-2 * (axis.square() - 1).square()).cumsum(0)
    u = (torch.arange(20000) + 0.5) / 20000
    x = axis[torch.searchsorted(p / p[-1], u.double())].float().view(-1, 1, 1, 1)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    for kernel in (MALA(double_well(), 0.6), HMC(double_well(), 0.4, 3)):
        acceptance = run(kernel, kernel.init(x[:500], STREAM), 20).acceptance
        assert acceptance is not None
        assert acceptance.mean() < 0.95
        assert asymmetry(kernel, x, 40) < 1.4
    # The law that the test refers to, but every proposal is taken.
    assert asymmetry(HMC(double_well(), 0.6, 1, adjust=False), x, 40) > 3


# --- the test itself ---


def vanilla(backend: str, scale: float = 1.0) -> Potential:
    return Potential(build("vanilla", (1, 16, 16), seed=2, width=8), (1, 16, 16), scale, backend=backend)


def test_one_leapfrog_step_is_mala() -> None:
    """Full refreshment, n = 1: the same proposals, probabilities and decisions on the same noise."""
    for target, eps, temperature in ((gmm(), 0.15, None), (gaussian(*SD), 1.2, 1.7)):
        x = start(300, target.shape, 0.5)
        one, other = MALA(target, eps, temperature), HMC(target, eps, 1, temperature=temperature)
        a, b = one.init(x, STREAM), other.init(x, STREAM)
        refused = 0
        for _ in range(20):
            a, info_a = one.step(a)
            b, info_b = other.step(b)
            assert torch.equal(info_a.accepted, info_b.accepted)
            refused += int((~info_a.accepted).sum())
            # Both have gone on from their own states, that differ by rounding, for up to 20 steps.
            torch.testing.assert_close(a.x, b.x, rtol=1e-4, atol=1e-5)
            for left, right in zip(info_a, info_b, strict=True):
                torch.testing.assert_close(left, right, rtol=2e-3, atol=2e-4)
        assert 300 < refused < 5000
        # With a momentum that lasts, the first step draws one anew as well: zeros are no sample of it.
        slow = underdamped(target, eps, temperature=temperature)
        assert torch.equal(slow.step(slow.init(x, STREAM))[0].x, other.step(other.init(x, STREAM))[0].x)


def test_a_step_of_mala_proposes_what_langevin_does() -> None:
    """The same noise, the same drift; what is refused stays where it was, and costs no length."""
    target, x = gaussian(*SD), start(200, (3, 1, 1))
    moved, _ = Langevin(target, 1.0).step(Langevin(target, 1.0).init(x, STREAM))
    state, info = MALA(target, 1.0).step(MALA(target, 1.0).init(x, STREAM))
    torch.testing.assert_close(state.x[info.accepted], moved.x[info.accepted])
    assert torch.equal(state.x[~info.accepted], x[~info.accepted])
    assert (info.length[~info.accepted] == 0).all()
    assert 10 < info.accepted.sum() < 190
    next_state, next_info = MALA(target, 1.0).step(state)
    path = run(MALA(target, 1.0), MALA(target, 1.0).init(x, STREAM), 2)
    assert torch.equal(path.state.x, next_state.x)
    assert torch.equal(path.length, info.length + next_info.length)
    assert torch.equal(path.acceptance, torch.stack([info.acceptance, next_info.acceptance]))  # type: ignore[arg-type]
    again = target.energy_and_grad(state.x)
    assert torch.equal(state.energy, again[0])
    assert torch.equal(state.grad, again[1])


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_energy_error_is_that_of_the_definition(n: int) -> None:
    """ΔH without cancellation equals U'/T + ‖p'‖²/2 − U/T − ‖p‖²/2 (float64), and log q ratios for MALA."""
    eps, temperature = 0.2, 1.6
    x = start(50, (2, 1, 1), 0.8).double()
    target = gmm()
    kernel = HMC(target, eps, n, temperature=temperature, adjust=False)
    state = kernel.init(x, STREAM)
    end, info = kernel.step(state)
    p, q = STREAM.normal(state.chains, 0, (2, 1, 1)).double(), end.momentum
    kinetic = 0.5 * (q.square() - p.square()).flatten(1).sum(1)
    expected = (end.energy - state.energy) / temperature + kinetic
    torch.testing.assert_close(info.energy_error, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().mean() > 0.1
    if n > 1:
        return

    def log_q(to: Tensor, of: Tensor, grad: Tensor) -> Tensor:
        return -(to - of + eps**2 / 2 / temperature * grad).square().flatten(1).sum(1) / (2 * eps**2)

    ratio = log_q(x, end.x, end.grad) - log_q(end.x, x, state.grad) - (end.energy - state.energy) / temperature
    torch.testing.assert_close(-info.energy_error, ratio, rtol=1e-9, atol=1e-9)


def test_uniforms_are_uniform_and_a_purpose_of_their_own() -> None:
    """P(accept) = exp(−ΔH); decisions belong to seed, update, chain and step, and are not made of the chains' noise."""
    chains = torch.arange(40_000)
    for error in (0.0, 0.2, 1.0, 3.0):
        acceptance, accepted = metropolis.decide(torch.full((40_000,), error).double(), STREAM, chains, 3)
        p = math.exp(-error)
        assert acceptance[0] == pytest.approx(p)
        assert accepted.double().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 40_000) + 1e-12)
    error = torch.full((1000,), 0.7).double()
    kept = metropolis.decide(error, STREAM, chains[:1000], 3)[1]
    assert torch.equal(kept[500:], metropolis.decide(error[500:], STREAM, chains[500:1000], 3)[1])
    others = [(STREAM, 4), (STREAM._replace(update=1), 3), (STREAM._replace(seed=6), 3)]
    for stream, step in others:
        assert not torch.equal(kept, metropolis.decide(error, stream, chains[:1000], step)[1])
    noise = STREAM.normal(chains, 3, (2, 1, 1)).flatten(1)
    length = noise.square().sum(1)
    accepted = metropolis.decide(torch.full((40_000,), 0.7).double(), STREAM, chains, 3)[1]
    assert abs(float(torch.corrcoef(torch.stack([length, accepted.float()]))[0, 1])) < 0.02


def test_what_is_not_finite_is_refused() -> None:
    """A target that is infinite, minus infinite or not a number outside a box: chains stay in the box, and finite."""
    for outside in (math.inf, -math.inf, math.nan):

        def wall(x: Tensor, value: float = outside) -> Tensor:
            return torch.where(x.abs().flatten(1).amax(1) > 1, value, 0 * x.sum((1, 2, 3)))

        box = Density(wall, (2, 1, 1))
        for kernel in (MALA(box, 0.8), HMC(box, 0.4, 3), underdamped(box, 0.5)):
            path = run(kernel, kernel.init(torch.zeros(200, 2, 1, 1), STREAM), 30)
            assert path.state.x.abs().max() <= 1
            assert path.acceptance is not None
            assert path.acceptance.min() == 0
            assert path.state.grad.isfinite().all()


def test_rounding_at_the_scale_of_a_trained_model() -> None:
    """Energies of 10⁴ in float32: ΔH is off by far less than 1, and so is the acceptance of float64."""
    scale, eps = 2 / 0.0075**2, 0.004
    single = vanilla("auto", scale)
    network = copy.deepcopy(single.network)
    with torch.no_grad():
        network.f[-1].bias.fill_(0.5)  # type: ignore[union-attr, operator]
        single.network.f[-1].bias.fill_(0.5)  # type: ignore[union-attr, operator]
    double = Potential(network.double(), single.shape, scale, backend="generic")
    x = torch.rand(100, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = MALA(single, eps), MALA(double, eps)
    state = run(one, one.init(x, STREAM), 20).state
    assert state.energy.abs().min() > 1e4
    _, info = one.step(state)
    _, exact = two.step(two.init(state.x.double(), STREAM)._replace(step=state.step))
    off = (info.energy_error - exact.energy_error).abs()
    assert off.mean() < 0.03
    assert off.max() < 0.15
    assert (info.acceptance - exact.acceptance).mean().abs() < 0.01
    assert 0.5 < exact.acceptance.mean() < 0.97


def test_the_leapfrog_is_of_second_order() -> None:
    """At equal length, half the ε leaves a quarter of the energy error, whichever chain."""
    x = GMM.sample(400, torch.Generator().manual_seed(0)).double()
    errors = []
    for n in (16, 32, 64):
        kernel = HMC(gmm(), 0.32 / n, n, adjust=False)
        errors.append(kernel.step(kernel.init(x, STREAM))[1].energy_error.abs().mean())
    assert errors[0] > 1e-4
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.08)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("name", EXACT)
def test_acceptance_falls_with_the_step_size(name: str) -> None:
    """Towards 1 for small ε, and down from there."""
    x = GMM.sample(500, torch.Generator().manual_seed(0))
    found = []
    for eps in (0.01, 0.1, 0.2, 0.4):
        kernel = EXACT[name](gmm(), eps)
        acceptance = run(kernel, kernel.init(x, STREAM), 15).acceptance
        assert acceptance is not None
        assert acceptance.shape == (15, 500)
        found.append(float(acceptance.mean()))
    assert found[0] > 0.995
    assert all(a > b + 0.02 for a, b in pairwise(found)), found


# --- what all kernels share ---


@pytest.mark.parametrize("name", KERNELS)
def test_temperature_divides_the_energy(name: str) -> None:
    """T = 4 on U is T = 1 on U/4, bit for bit; the potential's own T counts where none is given."""
    x = start(40, (3, 1, 1))
    quarter = Density(lambda y: gaussian(*SD).formula(y) / 4, (3, 1, 1))
    kernels = [
        KERNELS[name](gaussian(*SD), 0.8, temperature=4.0),
        KERNELS[name](gaussian(*SD, temperature=4.0), 0.8),
        KERNELS[name](quarter, 0.8),
    ]
    ends = [run(kernel, kernel.init(x, STREAM), 8).state.x for kernel in kernels]
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])
    assert not torch.equal(ends[0], run(kernels[0], kernels[0].init(x, Stream(6, Purpose.MCMC)), 8).state.x)


@pytest.mark.parametrize(
    ("name", "options", "each"),
    [
        ("langevin", {}, 1),
        ("mala", {}, 1),
        ("hmc", {"n_leapfrog": 1}, 1),
        ("hmc", {"n_leapfrog": 6}, 6),
        ("underdamped", {}, 1),
    ],
)
def test_gradients_per_step(name: str, options: dict[str, Any], each: int) -> None:
    """One for the first state, then as many as leapfrog steps; paths, annealing and warm-ups add none."""
    target = gaussian(*SD)
    kernel = KERNELS[name](target, 0.3, **options)
    state = kernel.init(start(10, (3, 1, 1)), STREAM)
    assert target.calls == 1
    path = run(kernel, state, 7)
    assert target.calls == 1 + 7 * each
    hot: Annealed[Any] = Annealed(kernel, Schedule(2, 1, 4))
    for _ in sample(hot, path.state, 4, every=3):
        pass
    assert target.calls == 1 + 11 * each
    if name != "langevin":
        adapt(kernel, start(10, (3, 1, 1)), STREAM, steps=5)
        assert target.calls == 2 + 16 * each


SHORT: dict[str, dict[str, Any]] = {"langevin": {}, "mala": {}, "hmc": {"n_leapfrog": 2}, "underdamped": {}}
CASES = {
    ("toy", "native"): ((2, 1, 1), {}),
    ("toy", "generic"): ((2, 1, 1), {}),
    ("vanilla", "native"): ((1, 16, 16), {"width": 8}),
    ("vanilla", "generic"): ((1, 16, 16), {"width": 8}),
    ("nonlocal", "generic"): ((1, 16, 16), {"width": 8}),
    ("nonlocal", "auto"): ((1, 16, 16), {"width": 8}),
}
RUNS = [pytest.param(*case, marks=needs_kernel if "native" in case else ()) for case in CASES]


def potential(network: str, backend: str) -> Potential:
    shape, arguments = CASES[network, backend]
    return Potential(build(network, shape, seed=2, **arguments), shape, 300.0, backend=backend)


def images(n: int, shape: Shape) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n)) * 2 - 1


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("network", "backend"), RUNS)
def test_contract(network: str, backend: str, name: str) -> None:
    """Every kernel on every network: shapes, types, shared fields, energies that belong to the states, records."""
    target, n = potential(network, backend), 5
    kernel: Kernel[Any] = KERNELS[name](target, step_size=0.05, temperature=1.5, **SHORT[name])
    x = images(n, target.shape)
    before = x.clone()
    state = kernel.init(x, STREAM)
    assert backend in (target.backend.name, "auto")
    assert (kernel.step_size, kernel.temperature, kernel.potential) == (0.05, 1.5, target)
    new, info = kernel.step(state)
    assert torch.equal(x, before)
    assert (state.step, new.step) == (0, 1)
    assert torch.equal(new.chains, torch.arange(n))
    assert new.stream == STREAM
    assert new.x.shape == new.grad.shape == x.shape
    assert all(value.shape == (n,) and value.isfinite().all() for value in info)
    for value in (new.x, new.grad, new.energy, info.displacement, info.length):
        assert value.dtype == torch.float32
        assert not value.requires_grad
    path = run(kernel, new, 3)
    again = target.energy_and_grad(path.state.x)
    assert torch.equal(path.state.energy, again.energy)
    torch.testing.assert_close(path.state.grad, again.grad)
    assert path.energy.shape == path.gradient_magnitude.shape == (4, n)
    assert torch.equal(path.energy[-1], path.state.energy)
    assert path.length.shape == (n,)
    assert path.state.step == 4
    assert (path.acceptance is None) == (name == "langevin")
    assert path.acceptance is None or path.acceptance.shape == (3, n)
    assert run(kernel, new, 0).energy.shape == (1, n)
    colder = changed(kernel, temperature=0.5)
    assert (kernel.temperature, colder.temperature) == (1.5, 0.5)
    with pytest.raises(AttributeError):
        changed(kernel, heat=1.0)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("network", "backend"), RUNS)
def test_a_chain_does_not_depend_on_its_batch(network: str, backend: str, name: str) -> None:
    """The same bits alone, in threes, or 33 at once, refusals among them; on a magnetised target as well."""
    plain = potential(network, backend)
    x, goals, chains = images(33, plain.shape), images(34, plain.shape)[:33], torch.arange(33) * 7 + 2**33
    strength = torch.linspace(1, 20, 33)

    def ends(rows: Tensor, magnet: bool) -> list[Tensor]:
        target = Magnetised(plain, goals[rows], strength[rows]) if magnet else plain
        kernel = KERNELS[name](target, 0.06, **SHORT[name])
        path = run(kernel, kernel.init(x[rows], STREAM, chains[rows]), 4)
        extra = [path.acceptance] if path.acceptance is not None else []
        momentum = [path.state.momentum] if isinstance(kernel, HMC) else []
        return [path.state.x, path.state.grad, *momentum, path.energy.T, path.length, *(e.T for e in extra)]

    for magnet in (False, True):
        whole = ends(torch.arange(33), magnet)
        for size in (1, 3):
            rows = torch.arange(33).split(size)
            parts = [ends(row, magnet) for row in (rows[:2] if size == 1 else rows[-4:])]
            for k, value in enumerate(whole):
                joined = torch.cat([part[k] for part in parts])
                n = len(joined)
                assert torch.equal(joined, value[:n] if size == 1 else value[-n:])


@pytest.mark.parametrize("name", KERNELS)
def test_a_run_may_be_cut_anywhere(name: str) -> None:
    """Twelve steps at once, in pieces, or from a copied state: the same bits, momenta and temperatures included."""
    for kernel in (KERNELS[name](gmm(), 0.1), Annealed(KERNELS[name](gmm(), 0.1), Schedule(3, 0.5, 9))):
        state = kernel.init(start(20, (2, 1, 1)), STREAM)
        whole = run(kernel, state, 12)
        pieces = [path.state for path in sample(kernel, state, 12, every=5)]
        assert [piece.step for piece in pieces] == [5, 10, 12]
        rest = run(kernel, copy.deepcopy(pieces[0]), 7)
        for one in (pieces[-1], rest.state):
            for left, right in zip(one, whole.state, strict=True):
                assert torch.equal(left, right) if isinstance(left, Tensor) else left == right


def test_settings_out_of_range_are_errors() -> None:
    """One clear line with what was expected."""
    for options, message in (
        ({"n_leapfrog": 0}, "n_leapfrog is 0"),
        ({"persistence": 1.0}, "persistence is 1.0, expected 0 <= persistence < 1"),
        ({"persistence": -0.1}, "persistence is -0.1"),
    ):
        with pytest.raises(EBMError, match=message):
            HMC(gmm(), 0.1, **options)


# --- the magnetised energy ---


def test_magnetised_energy_and_gradient() -> None:
    """V = U/T + α‖x − x*‖ and its autograd gradient, each chain with its own x* and α; the raw U comes back."""
    target = vanilla("auto", 30.0)
    x, goals = images(6, target.shape), images(7, target.shape)[:6]
    strength = torch.linspace(0, 50, 6)
    magnet = Magnetised(target, goals, strength, temperature=0.25)
    value, grad = magnet.energy_and_grad(x)
    y = x.double().requires_grad_()
    raw = 30 * copy.deepcopy(target.network).double()(y).flatten()
    exact = raw / 0.25 + strength * (y - goals).flatten(1).norm(dim=1)
    (reference,) = torch.autograd.grad(exact.sum(), y)
    torch.testing.assert_close(value.double(), exact.detach(), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(grad.double(), reference, rtol=1e-3, atol=1e-4)
    assert value.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(magnet.raw_energy(x, value), target.energy(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(magnet.distance(x), (x - goals).flatten(1).norm(dim=1))
    assert magnet.temperature == 1
    assert Magnetised(target, goals[:1], 3.0).energy_and_grad(x)[0].shape == (6,)
    assert Magnetised(gaussian(1.0, temperature=2.0), torch.zeros(1, 1, 1, 1), 1.0).scale == 2


def test_the_pull_is_finite_at_its_target() -> None:
    """At x* only ∇U is left; within rounding of it, and a denormal away, the pull is α, not more and not nan."""
    goals = images(4, (3, 1, 1))
    magnet = Magnetised(gaussian(*SD), goals, 8.0)
    value, grad = magnet.energy_and_grad(goals)
    energy, plain = gaussian(*SD).energy_and_grad(goals)
    assert torch.equal(value, energy)
    assert torch.equal(grad, plain)
    nothing = Magnetised(flat(3), torch.zeros(1, 3, 1, 1), 8.0)
    for offset in (1e-3, 1e-20, 1e-40):
        pull = nothing.energy_and_grad(torch.full((1, 3, 1, 1), offset))[1]
        assert pull.norm().item() == pytest.approx(8, rel=1e-4)
    for name in KERNELS:
        kernel = KERNELS[name](magnet, 0.1)
        assert run(kernel, kernel.init(goals, STREAM), 3).state.x.isfinite().all()


@pytest.mark.parametrize("name", ["langevin", *EXACT])
def test_a_magnet_alone_holds_chains_at_a_distance(name: str) -> None:
    """U flat: the distance is Gamma(D) with rate α, mean D/α, variance D/α²; and each α counts for its own chain."""
    size, n = 16, 1200
    strength = torch.tensor([8.0, 16.0]).repeat_interleave(n // 2)
    goals = start(n, (size, 1, 1), 3.0)
    magnet = Magnetised(flat(size), goals, strength)
    # The langevin kernel is off by O(ε²), so it gets a small step.
    kernel = Langevin(magnet, 0.04) if name == "langevin" else EXACT[name](magnet, 0.1)
    direction = torch.randn(n, size, 1, 1, generator=torch.Generator().manual_seed(9))
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    gamma = torch.randn(n, 2 * size, generator=torch.Generator().manual_seed(4)).square().sum(1) / 2
    x = goals + direction * (gamma / strength).view(-1, 1, 1, 1)

    def scaled(x: Tensor, value: Tensor) -> Tensor:
        r = strength * magnet.distance(x)
        return torch.stack([r, (r - size).square()], dim=1)

    found = average(kernel, x, 100, 150, scaled)
    if name == "langevin":
        assert found.value[0] == pytest.approx(size, rel=0.04)
    else:
        assert found.off(torch.tensor([size, size])) < 4
        assert found.error[0] < 0.02 * size


@pytest.mark.parametrize("name", KERNELS)
def test_a_strong_magnet_pulls_chains_over(name: str) -> None:
    """From one mode of gmm to the one on the other side, with α large; without it they stay."""
    home, away = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1)
    x = home.repeat(60, 1, 1, 1)
    for strength, lower, upper in ((0.0, 0.95, 1.01), (60.0, -0.01, 0.05)):
        magnet = Magnetised(gmm(), away, strength, temperature=0.5)
        kernel = KERNELS[name](magnet, 0.03, **SHORT[name])
        end = run(kernel, kernel.init(x, STREAM), 300).state.x
        assert lower <= (magnet.distance(end) > 1).float().mean() <= upper


def test_targets_that_do_not_fit_are_errors() -> None:
    """Another shape, another number of chains or of strengths."""
    with pytest.raises(EBMError, match=r"targets are \[4, 2, 1, 1\], expected \[n 3 1 1\]"):
        Magnetised(gaussian(*SD), torch.zeros(4, 2, 1, 1), 1.0)
    with pytest.raises(EBMError, match=r"strengths are \[3\], expected one, or \[4\]"):
        Magnetised(gaussian(*SD), torch.zeros(4, 3, 1, 1), torch.ones(3))
    with pytest.raises(EBMError, match="4 targets for 5 chains"):
        Magnetised(gaussian(*SD), torch.zeros(4, 3, 1, 1), 1.0).energy_and_grad(torch.zeros(5, 3, 1, 1))


# --- annealing ---


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_run_from_the_first_to_the_last_temperature(kind: str) -> None:
    """Exactly at both ends, steadily between, constant afterwards."""
    for first, last in ((5.0, 0.2), (0.1, 0.7)):
        schedule = Schedule(first, last, 11, kind)
        values = [schedule(step) for step in range(11)]
        assert (values[0], values[-1], schedule(11), schedule(10**6)) == (first, last, last, last)
        between = [b - a if kind == "linear" else b / a for a, b in pairwise(values)]
        assert between == pytest.approx([between[0]] * 10)
        assert values == sorted(values, reverse=first > last)
    assert Schedule(5.0, 0.2, 1, kind)(0) == 0.2
    for bad in ((0.0, 1.0, 5), (1.0, -1.0, 5), (1.0, 1.0, 0)):
        with pytest.raises(EBMError, match="schedule from T"):
            Schedule(*bad, kind)
    with pytest.raises(EBMError, match="unknown schedule 'steep'"):
        Schedule(1.0, 1.0, 5, "steep")


@pytest.mark.parametrize("name", KERNELS)
def test_annealing_ends_at_its_last_temperature(name: str) -> None:
    """Hot at first, then the variance of the last T, which is that of the kernel at that T."""
    sd, last = torch.tensor([0.5, 1.0]), 0.25
    annealed: Annealed[Any] = Annealed(KERNELS[name](gaussian(0.5, 1.0), 0.2), Schedule(9.0, last, 100))
    x = start(2000, (2, 1, 1), 3 * sd.view(-1, 1, 1))
    state = annealed.init(x, STREAM)
    first, _ = annealed.step(state)
    assert torch.equal(first.x, changed(annealed.kernel, temperature=9.0).step(state)[0].x)
    hot = run(annealed, state, 20)
    assert hot.state.x[:, 1].var() > 3
    state = run(annealed, hot.state, 180).state
    one, _ = annealed.step(state)
    other, _ = changed(annealed.kernel, temperature=last).step(state)
    assert torch.equal(one.x, other.x)
    variance = last * sd.square()
    if name == "langevin":
        variance = variance / (1 - 0.2**2 / (4 * variance))
    found = state.x.flatten(1).var(dim=0)
    assert ((found / variance - 1).abs() < 4 * math.sqrt(2 / 2000)).all()
    assert changed(annealed, step_size=0.1).kernel.step_size == 0.1
    assert annealed.kernel.step_size == annealed.step_size == 0.2


# --- the warm-up ---


@pytest.mark.parametrize(
    ("name", "target", "eps"),
    [("mala", 0.574, 0.003), ("mala", 0.9, 20.0), ("hmc", 0.651, 0.01), ("underdamped", 0.8, 3.0)],
)
def test_the_warm_up_finds_the_step_size_and_ends(name: str, target: float, eps: float) -> None:
    """From a hundred times too small or too large to the acceptance ± 0.03, at a step size that then stays."""
    density = gaussian(*torch.linspace(0.5, 1.5, 20).tolist())
    kernel = KERNELS[name](density, eps, **({"n_leapfrog": 5} if name == "hmc" else {}))
    x = start(32, density.shape)
    found = adapt(kernel, x, STREAM, steps=400, target=target)
    assert kernel.step_size == eps
    assert found.kernel.step_size == found.step_size
    assert found.state.step == 400
    assert len(found.history) == 400
    assert found.history[0].step_size == pytest.approx(eps)
    assert len({trial.step_size for trial in found.history}) > 390
    path = run(found.kernel, found.state, 200)
    assert path.acceptance is not None
    assert float(path.acceptance.mean()) == pytest.approx(target, abs=0.03)
    assert found.kernel.step_size == found.step_size
    again = adapt(kernel, x, STREAM, steps=400, target=target)
    assert again.step_size == found.step_size
    assert again.history == found.history
    assert torch.equal(again.state.x, found.state.x)
    assert adapt(kernel, x, Stream(6, Purpose.MCMC), steps=50, target=target).step_size != found.step_size


def test_a_warm_up_needs_a_test_and_sound_arguments() -> None:
    """Langevin takes every step; targets are probabilities."""
    x = start(4, (3, 1, 1))
    with pytest.raises(EBMError, match="kernel Langevin accepts every step") as raised:
        adapt(Langevin(gaussian(*SD), 0.1), x, STREAM)
    assert raised.value.hint == "use mala or hmc"
    for arguments in ({"steps": 1}, {"target": 0.0}, {"target": 1.0}):
        with pytest.raises(EBMError, match="warm-up of"):
            adapt(MALA(gaussian(*SD), 0.1), x, STREAM, **arguments)

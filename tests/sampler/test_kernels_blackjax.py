"""MALA and HMC against blackjax on one density: moments within Monte-Carlo error, the same acceptance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import HMC, MALA, Kernel

pytestmark = pytest.mark.slow
jax = pytest.importorskip("jax", reason="blackjax runs on jax: pip install -e .[slow]")
blackjax = pytest.importorskip("blackjax", reason="the reference: pip install -e .[slow]")

CHAINS, BURN, STEPS = 2000, 200, 500
EPS, LEAPFROG = 0.55, 4


def energy(x: Any, y: Any) -> Any:
    """A curved valley, wider than it is thick; in torch or jax numbers."""
    return x**2 / 2 + (y - x**2 / 2) ** 2 / (2 * 0.6**2)


class Valley:
    """The target for our kernels."""

    shape, temperature = (2, 1, 1), 1.0

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U [n] and its gradient, by hand."""
        a, b = x[:, 0], x[:, 1]
        slope = (b - a**2 / 2) / 0.6**2
        return energy(a, b).flatten(), torch.stack([a - slope * a, slope], dim=1)


class Moments(NamedTuple):
    """Means over steps and chains, and their standard errors, from the chains' own means."""

    mean: np.ndarray
    error: np.ndarray
    acceptance: float


def moments(each: np.ndarray, acceptance: float) -> Moments:
    """Of each chain's means [n k]."""
    return Moments(each.mean(0), each.std(0) / math.sqrt(len(each)), acceptance)


def ours(kernel: Kernel[Any]) -> Moments:
    """The moments and acceptance of one of our kernels."""
    state = kernel.init(torch.zeros(CHAINS, 2, 1, 1), Stream(0, Purpose.MCMC))
    total, accepted = torch.zeros(CHAINS, 5, dtype=torch.float64), 0.0
    for step in range(BURN + STEPS):
        state, info = kernel.step(state)
        if step >= BURN:
            x, y = state.x[:, 0, 0, 0], state.x[:, 1, 0, 0]
            total += torch.stack([x, y, x**2, y**2, x * y], dim=1)
            accepted += float(info.acceptance.mean())  # type: ignore[attr-defined]
    return moments((total / STEPS).numpy(), accepted / STEPS)


def theirs(algorithm: Any) -> Moments:
    """The same of blackjax."""
    np_ = jax.numpy

    def chain(key: Any) -> tuple[Any, Any]:
        def one(carry: Any, each: Any) -> Any:
            index, key = each
            state, total, accepted = carry
            state, info = algorithm.step(key, state)
            x, y = state.position
            figures = np_.stack([x, y, x**2, y**2, x * y])
            keep = index >= BURN
            return (state, total + keep * figures, accepted + keep * info.acceptance_rate), None

        first = (algorithm.init(np_.zeros(2)), np_.zeros(5), 0.0)
        keys = jax.random.split(key, BURN + STEPS)
        (_, total, accepted), _ = jax.lax.scan(one, first, (np_.arange(BURN + STEPS), keys))
        return total / STEPS, accepted / STEPS

    each, acceptance = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), CHAINS))
    return moments(np.asarray(each, dtype=np.float64), float(acceptance.mean()))


def log_density(position: Any) -> Any:
    """What blackjax samples."""
    return -energy(position[0], position[1])


PAIRS: dict[str, tuple[Callable[[], Kernel[Any]], Callable[[], Any]]] = {
    # Its step_size h moves by h·∇ + √(2h)·z: ε²/2 in our terms.
    "mala": (lambda: MALA(Valley(), EPS), lambda: blackjax.mala(log_density, EPS**2 / 2)),
    "hmc": (
        lambda: HMC(Valley(), EPS, LEAPFROG),
        lambda: blackjax.hmc(log_density, EPS, np.ones(2), LEAPFROG),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_blackjax(name: str) -> None:
    """Moments within 4 standard errors of each other and of the exact ones, acceptance within 0.01."""
    one, other = (ours(PAIRS[name][0]()), theirs(PAIRS[name][1]()))
    print(f"{name}: acceptance {one.acceptance:.4f}, blackjax {other.acceptance:.4f}")
    rows = np.stack([one.mean, one.error, other.mean, other.error], axis=1)
    for label, (a, b, c, d) in zip(("x", "y", "x²", "y²", "xy"), rows, strict=True):
        print(f"  {label:3} {a:8.4f} ± {b:.4f}   blackjax {c:8.4f} ± {d:.4f}")
    exact = np.array([0.0, 0.5, 1.0, 0.6**2 + 0.75, 0.0])
    assert 0.5 < one.acceptance < 0.95
    assert abs(one.acceptance - other.acceptance) < 0.01
    assert (np.abs(one.mean - other.mean) < 4 * np.hypot(one.error, other.error)).all()
    for found in (one, other):
        assert (np.abs(found.mean - exact) < 4 * found.error).all()
        assert (found.error < 0.03).all()

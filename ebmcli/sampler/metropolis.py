"""The Metropolis–Hastings test that MALA and HMC share.

Both move by leapfrog steps (MALA by one), x' = x + ε·(p − (ε/2)·g), p' = p − (ε/2)·(g + g'), with
g = ∂U/∂x / T, and accept with probability min(1, exp(−ΔH)), where H = U(x)/T + ‖p‖²/2. Momenta
are of order √D, so the difference of their squares would lose digits. Put x' − x in the place of the
momenta, and for each step

    ΔH = [U(x') − U(x)]/T − ½(x' − x)·(g + g') + (ε²/8)(‖g'‖² − ‖g‖²),

where nothing of order ‖p‖² is left: the energy gained, against the work of the gradients by the
trapezoidal rule. Along a path the first and the last term telescope. With x' as it was stored this
is, for one step, exactly the ratio of the two proposal densities of MALA (Roberts & Tweedie 1996).

What rounding does. Sums run in float64 over float32 products, and the terms in g are right to about
1e-7 of their size. Energies are float32: |U| = 10⁴ comes in steps of 0.001, and a network adds its
own, so ΔH carries an error δ, over T (measured at |U| = 2·10⁴ on 16×16 images: 0.001 in the mean
with plain autograd, 0.01 with the compiled kernel, 0.05 at most). U(x) is nevertheless *one* number
for each x (blocks of fixed size), so what the test leaves invariant is the law of the rounded energy,
a factor e^±δ off at each x however many steps are made. What does spoil the test is arithmetic with
δ of order T: TF32 or bfloat16 at such scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ebmcli.sampler.kernel import wide

if TYPE_CHECKING:
    from ebmcli.random.streams import Stream


class MetropolisInfo(NamedTuple):
    """What one step with a Metropolis–Hastings test did, per chain."""

    displacement: Tensor
    """(ε²/2)·‖∂U/∂x‖/T [n] of the state left, pixel units (r of §3.2)"""
    length: Tensor
    """‖x' − x‖ [n], pixel units; 0 where the proposal was refused"""
    acceptance: Tensor
    """min(1, exp(−ΔH)) [n]: the probability of acceptance, float64; 0 where the proposal was not finite"""
    accepted: Tensor
    """bool [n]: whether the chain moved"""
    energy_error: Tensor
    """ΔH [n], float64"""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """a·b of each chain [n], float64 where the device has it."""
    return (a * b).flatten(1).sum(dim=1, dtype=wide(a))


def work(x: Tensor, grad: Tensor, x_new: Tensor, grad_new: Tensor) -> Tensor:
    """½(x' − x)·(∂U + ∂U') [n]: what U gains from x to x' [n c h w] by the trapezoidal rule."""
    return 0.5 * inner(x_new - x, grad + grad_new)


def energy_error(
    energy: Tensor, grad: Tensor, energy_new: Tensor, grad_new: Tensor, gained: Tensor, step_size: float, T: float
) -> Tensor:
    """ΔH [n] of a leapfrog path between two states, by the formula above.

    Args:
        energy, energy_new: U [n] at both ends.
        grad, grad_new: ∂U/∂x [n c h w] at both ends.
        gained: Σ `work` [n] over the leapfrog steps between.
        step_size: ε, pixel units.
        T: temperature.
    """
    squares = inner(grad_new - grad, grad_new + grad)  # ‖g'‖² − ‖g‖² without their cancellation
    return (energy_new.to(gained) - energy.to(gained) - gained) / T + (step_size / T) ** 2 / 8 * squares


def decide(error: Tensor, stream: Stream, chains: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Probability of acceptance [n] and the decision, bool [n]; what is not finite is refused.

    Args:
        error: ΔH [n].
        stream: of the chains; the uniforms are those of its seed and update, for `Purpose.METROPOLIS`.
        chains: int64 [n].
        step: whose decision this is.
    """
    from ebmcli.random.streams import Purpose

    # Two normals are √(−2 log u) long (Box & Muller 1958), with the logarithm of a uniform u inside.
    z = stream._replace(purpose=Purpose.METROPOLIS).normal(chains, step, (2, 1, 1))
    log_uniform = -0.5 * inner(z, z)
    log_ratio = torch.where(error.isfinite(), -error, -torch.inf)
    return log_ratio.clamp_max(0.0).exp(), log_uniform <= log_ratio


def where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the chains that accepted (bool [n]), `old` for the others; both [n …]."""
    return torch.where(accepted.view(-1, *[1] * (new.dim() - 1)), new, old)

"""Metropolis-adjusted Langevin (Roberts & Tweedie 1996; Roberts & Rosenthal 1998)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ebmcli.engine.precision import require_float32
from ebmcli.sampler import metropolis
from ebmcli.sampler.langevin import Langevin, LangevinState
from ebmcli.sampler.metropolis import MetropolisInfo

if TYPE_CHECKING:
    from ebmcli.random.streams import Stream
    from ebmcli.sampler.kernel import Target


class MALA:
    """Eq. 9 with τ = 1 as a proposal, accepted so that exp(−U/T) is left invariant at any ε.

    The energy and gradient of the present state are kept, so a step costs one gradient. Noise is
    that of `Langevin` on the same stream. `metropolis` tells what rounding does to the test.

    Args:
        potential: U.
        step_size: ε, pixel units, > 0. About 0.57 accepted is best in high dimension.
        temperature: T > 0; left out, the potential's own.

    Raises:
        EBMError: the potential computes in less than float32.
    """

    def __init__(self, potential: Target, step_size: float, temperature: float | None = None) -> None:
        require_float32(potential, "a Metropolis test")
        self.potential = potential
        self.step_size = step_size
        self.temperature = potential.temperature if temperature is None else temperature

    @property
    def drift(self) -> float:
        """ε²/(2T): what the gradient is multiplied by."""
        return self.step_size**2 / 2 / self.temperature

    def init(self, x: Tensor, stream: Stream, chains: Tensor | None = None) -> LangevinState:
        """Chains that stand at x [n c h w]; `chains` int64 [n] names their streams (default 0 … n−1)."""
        return Langevin(self.potential, self.step_size).init(x, stream, chains)

    def step(self, state: LangevinState) -> tuple[LangevinState, MetropolisInfo]:
        """One proposal and its test, for every chain."""
        x, grad, eps = state.x, state.grad, self.step_size
        z = state.stream.normal(state.chains, state.step, self.potential.shape)
        change = grad * -self.drift
        displacement = change.flatten(1).norm(dim=1)
        x_new = x + (change + eps * z)
        energy_new, grad_new = self.potential.energy_and_grad(x_new)

        # log q(x'|x) − log q(x|x') = −½ d·(g + g') + (ε²/8)(‖g'‖² − ‖g‖²) with d = x' − x
        gained = metropolis.work(x, grad, x_new, grad_new)
        error = metropolis.energy_error(state.energy, grad, energy_new, grad_new, gained, eps, self.temperature)
        acceptance, accepted = metropolis.decide(error, state.stream, state.chains, state.step)
        length = (x_new - x).flatten(1).norm(dim=1)
        info = MetropolisInfo(displacement, length.where(accepted, 0.0), acceptance, accepted, error)
        new = state._replace(
            x=metropolis.where(accepted, x_new, x),
            energy=metropolis.where(accepted, energy_new, state.energy),
            grad=metropolis.where(accepted, grad_new, grad),
            step=state.step + 1,
        )
        return new, info

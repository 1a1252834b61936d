"""The step size for a wanted acceptance, found in a warm-up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.sampler.kernel import Kernel, S, changed

if TYPE_CHECKING:
    from ebmcli.random.streams import Stream

TARGET = 0.6
"""Between the best for MALA, 0.574 (Roberts & Rosenthal 1998), and HMC, 0.651 (Beskos et al. 2013): both are flat."""

K = TypeVar("K", bound=Kernel[Any])


class Trial(NamedTuple):
    """One step of a warm-up."""

    step_size: float
    """ε it was made with, pixel units"""
    acceptance: float
    """mean probability of acceptance over the chains"""


class Adapted(NamedTuple, Generic[K, S]):
    """What a warm-up came to."""

    kernel: K
    """the kernel with the step size found, which nothing changes any more"""
    state: S
    """where the chains stand after the warm-up"""
    step_size: float
    """ε found, pixel units"""
    history: list[Trial]
    """of every step, in order"""


def adapt(
    kernel: K,
    x: Tensor,
    stream: Stream,
    chains: Tensor | None = None,
    *,
    steps: int = 400,
    target: float = TARGET,
) -> Adapted[K, Any]:
    """Run `steps` steps while ε follows the acceptance; from then on it is fixed.

    Robbins & Monro (1951) on log ε: after step l it changes by l^(−0.6)·(a − target), with a the mean
    probability of acceptance over all chains given. The result is the mean of log ε over the last
    half of the steps (Polyak & Juditsky 1992). An adapting chain is not exact: drop the warm-up's states.

    ε depends on all the chains of the warm-up together, and on nothing else but the kernel and their
    random numbers: find it once, on a few dozen chains held in one batch, and give it to every batch
    of the run, whose chains are then again the same in any batch.

    Args:
        kernel: one whose infos tell an acceptance (MALA, HMC); its step size is where ε begins.
        x: first states [n c h w].
        stream, chains: as `kernel.init`.
        steps: ≥ 2; a hundred more for each factor of 10⁴ by which ε may be wrong at first.
        target: acceptance wanted, in (0, 1).

    Raises:
        EBMError: the kernel has no test, or an argument is out of its range.
    """
    if steps < 2 or not 0 < target < 1:
        what = f"a warm-up of {steps} steps to an acceptance of {target}"
        raise EBMError(what, "2 steps or more, and 0 < target < 1")
    state = kernel.init(x, stream, chains)
    log_eps, kept, history = math.log(kernel.step_size), 0.0, []
    for step in range(1, steps + 1):
        eps = math.exp(log_eps)
        state, info = changed(kernel, step_size=eps).step(state)
        probability = getattr(info, "acceptance", None)
        if probability is None:
            raise EBMError(
                f"kernel {type(kernel).__name__} accepts every step: there is no acceptance to adapt to",
                "use mala or hmc",
            )
        acceptance = probability.double().mean().item()
        history.append(Trial(eps, acceptance))
        log_eps += step**-0.6 * (acceptance - target)
        if step > steps // 2:
            kept += log_eps
    step_size = math.exp(kept / (steps - steps // 2))
    return Adapted(changed(kernel, step_size=step_size), state, step_size, history)

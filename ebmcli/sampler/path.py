"""Many steps of a kernel in a row, with what is measured along the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, cast

import torch
from torch import Tensor

from ebmcli.native.threads import around
from ebmcli.sampler.kernel import Kernel, S
from ebmcli.sampler.langevin import Langevin, LangevinState

if TYPE_CHECKING:
    from ebmcli.potential import Potential


class Path(NamedTuple, Generic[S]):
    """L steps of n chains; nothing here costs a gradient of its own."""

    state: S
    """where the chains stand now"""
    energy: Tensor
    """U of all L + 1 states [L+1 n]"""
    gradient_magnitude: Tensor
    """‖∂U/∂x‖ of all L + 1 states [L+1 n]"""
    length: Tensor
    """Σ‖x' − x‖ [n], pixel units"""
    acceptance: Tensor | None = None
    """probability of acceptance [L n] of every step, where the kernel has a test and L > 0"""


def run(kernel: Kernel[S], state: S, steps: int) -> Path[S]:
    """`steps` ≥ 0 steps of any kernel from `state`.

    Plain Langevin is one call of the compiled kernel where the backend has one.
    """
    if type(kernel) is Langevin and kernel.fused is not None:
        return cast(Path[S], _fused(kernel, cast(LangevinState, state), steps))
    with around(kernel.potential):
        return _stepwise(kernel, state, steps)


def _stepwise(kernel: Kernel[S], state: S, steps: int) -> Path[S]:
    energies, magnitudes = [state.energy], [state.grad.flatten(1).norm(dim=1)]
    acceptances: list[Tensor] = []
    length = torch.zeros_like(state.energy)
    for _ in range(steps):
        state, info = kernel.step(state)
        energies.append(state.energy)
        magnitudes.append(state.grad.flatten(1).norm(dim=1))
        if hasattr(info, "acceptance"):
            acceptances.append(info.acceptance)
        length += info.length
    acceptance = torch.stack(acceptances) if acceptances else None
    return Path(state, torch.stack(energies), torch.stack(magnitudes), length, acceptance)


def _fused(kernel: Langevin, state: LangevinState, steps: int) -> Path[LangevinState]:
    """All steps of a block of chains in one call, while the block is in a core's cache."""
    potential, fused = cast("Potential", kernel.potential), kernel.fused
    assert fused is not None
    result = fused(
        state.x,
        steps=steps,
        step_size=kernel.step_size,
        scale=potential.energy_scale,
        noise=kernel.noise,
        temperature=kernel.temperature,
        key=state.stream.key,
        chains=state.chains,
        step0=state.step,
        start=(state.energy, state.grad),
    )
    end = state._replace(x=result.x, energy=result.energy[-1], grad=result.grad, step=state.step + steps)
    return Path(end, result.energy, result.grad_norm, result.path_length)


def sample(kernel: Kernel[S], state: S, steps: int, every: int = 1) -> Iterator[Path[S]]:
    """`steps` steps in pieces of `every`; a record a piece, for whoever wants progress or frames."""
    done = 0
    while done < steps:
        piece = min(every, steps - done)
        path = run(kernel, state, piece)
        state, done = path.state, done + piece
        yield path

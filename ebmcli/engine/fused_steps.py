"""k Langevin steps in torch operations, for backends that do whole paths.

The step size, temperature, noise, key and step may be numbers or 0-dimensional tensors: with tensors nothing here asks
the device for a value, so that the steps can be recorded once and replayed with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.native import stack as native
from ebmcli.networks import Shape
from ebmcli.random import philox

Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x [n c h w] -> U [n], ∂U/∂x [n c h w]."""

_AT_ONCE = 2**16
"""Numbers drawn or measured at once: fewer calls for toys, and images stay in cache."""


class Point(NamedTuple):
    """Where n chains stand, and U and its gradient there."""

    x: Tensor
    """[n c h w]"""
    energy: Tensor
    """[n]"""
    grad: Tensor
    """[n c h w]"""


class Steps(NamedTuple):
    """What k steps leave."""

    point: Point
    """after the last one"""
    energy: Tensor
    """U after each, [k n]"""
    grad_norm: Tensor
    """‖∂U/∂x‖ after each, [k n]"""
    length: Tensor
    """of each, ‖x' − x‖ [k n]"""


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each image, [n]."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _norms(parts: list[Tensor]) -> Tensor:
    """`norm` of each part, [k n]."""
    if len(parts) == 1:
        return norm(parts[0])[None]
    return norm(torch.stack(parts).flatten(0, 1)).view(len(parts), -1)


def draw(key: int | Tensor, chains: Tensor, step: int | Tensor, count: int, shape: Shape) -> Tensor:
    """Noise of `count` steps from number `step` on: [count n c h w], the numbers of `philox.normal`.

    Args:
        key: 64 bits, or int64 [] with the same bits.
        chains: int64 [n].
        step: 32 bits, or int64 [].
    """
    size, n = shape[0] * shape[1] * shape[2], len(chains)
    if chains.device.type == "cpu" and isinstance(key, int) and isinstance(step, int) and native.available():
        return torch.stack([native.normal(key, chains, step + k, size) for k in range(count)]).view(count, n, *shape)
    numbers = (torch.arange(count, device=chains.device) + step)[:, None].expand(count, n).reshape(-1, 1)
    return philox.normal_torch(key, chains.repeat(count), numbers, size).view(count, n, *shape)


def advance(
    gradient: Gradient,
    start: Point,
    count: int,
    drift: float | Tensor,
    sigma: float | Tensor,
    noise: Callable[[int, int], Tensor] | None,
) -> Steps:
    """`count` ≥ 1 times x' = x − drift·∂U/∂x + sigma·z.

    Args:
        noise: (first, how many) -> z of those steps, counted from 0, [how many n c h w]; None for no noise.
    """
    point, down = start, -drift
    energies, norms, lengths = [], [], []
    at_once = max(1, min(count, _AT_ONCE // start.x.numel()))
    drawn = count if start.x.device.type != "cpu" else at_once
    z: tuple[Tensor, ...] = ()
    for first in range(0, count, at_once):
        grads, changes = [], []
        for number in range(first, min(first + at_once, count)):
            change = point.grad * down
            if noise is not None:
                if number % drawn == 0:
                    z = noise(number, min(drawn, count - number)).mul_(sigma).unbind()
                change.add_(z[number % drawn])
            x = point.x + change
            point = Point(x, *gradient(x))
            energies.append(point.energy)
            grads.append(point.grad)
            changes.append(change)
        norms.append(_norms(grads))
        lengths.append(_norms(changes))
    return Steps(point, torch.stack(energies), torch.cat(norms), torch.cat(lengths))

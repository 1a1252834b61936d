"""k Langevin steps in torch operations, for backends that do whole paths (floor 1).

The step size, temperature, noise, key and step may be numbers or 0-dimensional tensors: with tensors nothing here asks
the device for a value, so that the steps can be recorded once and replayed with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli import philox
from ebmcli.networks import Shape
from ebmcli.sampler import native

Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x [n c h w] -> U [n], ∂U/∂x [n c h w]."""

_DRAWN = 2**16
"""Numbers drawn at once on the CPU: fewer calls for toys, and images stay in cache."""


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
    point = start
    energies, norms, lengths = [], [], []
    on_device = start.x.device.type != "cpu"
    at_once = count if on_device else max(1, min(count, _DRAWN // start.x.numel()))
    z: Tensor | None = None
    for number in range(count):
        change = point.grad * -drift
        if noise is not None:
            if number % at_once == 0:
                z = noise(number, min(at_once, count - number)).mul_(sigma)
            assert z is not None
            change.add_(z[number % at_once])
        x = point.x + change
        point = Point(x, *gradient(x))
        energies.append(point.energy)
        norms.append(norm(point.grad))
        lengths.append(norm(change))
    return Steps(point, torch.stack(energies), torch.stack(norms), torch.stack(lengths))

"""Gradients of stacks of matrix products into memory that is taken once, for paths of small states.

Making a tensor for each result, asking which layer is which, and every call of an operation are a good part of a toy's
step. So biases are laid down, and slopes of activations found, for all layers at once. The arithmetic is that of
`layers.Dense`, in the same order, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmcli.engine.layers import Dense, Kept, Layer

_backward = torch.ops.aten.leaky_relu_backward.grad_input


def are_dense(layers: Sequence[Layer]) -> TypeGuard[Sequence[Dense]]:
    """Whether all layers are matrix products of states of one pixel, of one leak, the last to a number without any."""
    *inner, last = layers
    if not all(isinstance(layer, Dense) and layer.image[1:] == (1, 1) for layer in layers):
        return False
    return last.leak == 1 and len({layer.leak for layer in inner}) == 1  # type: ignore[attr-defined]


class Points:
    """F and ∂F/∂x of n states, over and over.

    Args:
        layers: for which `are_dense` holds.
        packed: their weights, as they are during all calls.
        n: states at once.
    """

    def __init__(self, layers: Sequence[Dense], packed: Sequence[Kept], n: int) -> None:
        *inner, last = packed
        self._leak = layers[0].leak
        widths = [len(weights[0]) for weights in inner]
        self._bias = torch.cat([_bias(weights).expand(n, -1).flatten() for weights in inner])
        self._one = torch.ones_like(self._bias)
        self._y, self._slope = torch.empty_like(self._bias), torch.empty_like(self._bias)

        def each(joined: Tensor) -> list[Tensor]:
            parts = joined.split([n * width for width in widths])
            return [part.view(n, width) for part, width in zip(parts, widths, strict=True)]

        grads = [weights[0].new_empty(n, weights[0].shape[1]) for weights in inner]
        self._up = list(zip([weights[1] for weights in inner], each(self._y), strict=True))
        self._down = list(zip([weights[0] for weights in inner], each(self._slope), grads, strict=True))[::-1]
        self._top, self._top_bias = last[1], _bias(last)
        self._top_grad = last[0].expand(n, -1).contiguous()
        self._value = last[0].new_empty(n, 1)
        self._energy = self._value.view(-1)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F [n] and ∂F/∂x [n c] of x [n c]; both are overwritten by the next call."""
        y = x
        self._y.copy_(self._bias)
        for weight, out in self._up:
            y = F.leaky_relu_(torch.addmm(out, y, weight, out=out), self._leak)
        torch.addmm(self._top_bias, y, self._top, out=self._value)
        _backward(self._one, self._y, self._leak, True, grad_input=self._slope)
        g = self._top_grad
        for weight, slope, out in self._down:
            g = torch.mm(torch.mul(g, slope, out=slope), weight, out=out)
        return self._energy, g


def _bias(packed: Kept) -> Tensor:
    return packed[2] if len(packed) > 2 else packed[0].new_zeros(len(packed[0]))

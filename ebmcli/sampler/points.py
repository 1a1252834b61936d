"""Gradients of stacks of matrix products into memory that is taken once, for paths of small states (floor 1).

Making a tensor for each result, and asking which layer is which, is a good part of a toy's step. The operations are
those of `layers.Dense`, in the same order, so the bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmcli.sampler.layers import Dense, Kept, Layer

_backward = torch.ops.aten.leaky_relu_backward.grad_input


def are_dense(layers: Sequence[Layer]) -> TypeGuard[Sequence[Dense]]:
    """Whether all layers are matrix products of states of one pixel, the last one to a number without activation."""
    last = layers[-1]
    dense = all(isinstance(layer, Dense) and layer.image[1:] == (1, 1) for layer in layers)
    return dense and isinstance(last, Dense) and last.leak == 1


class Points:
    """F and ∂F/∂x of n states, over and over.

    Args:
        layers: for which `are_dense` holds.
        packed: their weights, as they are during all calls.
        n: states at once.
    """

    def __init__(self, layers: Sequence[Dense], packed: Sequence[Kept], n: int) -> None:
        self._layers = list(zip([layer.leak for layer in layers], packed, strict=True))
        self._out = [weights[0].new_empty(n, len(weights[0])) for weights in packed]
        self._grad = [weights[0].new_empty(n, weights[0].shape[1]) for weights in packed[:-1]]
        self._last = packed[-1][0].expand(n, -1).contiguous()
        self._first = torch.empty_like(self._last)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F [n] and ∂F/∂x [n c 1 1] of x [n c 1 1]; both are overwritten by the next call."""
        y = x.flatten(1)
        for (leak, weights), out in zip(self._layers, self._out, strict=True):
            if len(weights) > 2:
                torch.addmm(weights[2], y, weights[1], out=out)
            else:
                torch.mm(y, weights[1], out=out)
            y = out if leak == 1 else F.leaky_relu_(out, leak)
        g = self._last
        for index in reversed(range(len(self._grad))):
            leak, weights = self._layers[index]
            if leak != 1:
                place = self._first if g is self._last else g
                g = _backward(g, self._out[index], leak, True, grad_input=place)
            g = torch.mm(g, weights[0], out=self._grad[index])
        return y.view(-1), g.view_as(x)

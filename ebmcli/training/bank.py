"""What learning draws from: the data it is given, and the bank that keeps persistent chains (§2.3)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ebmcli.networks import Shape


class Data(Protocol):
    """Training data: images or toy samples in [-1, 1] pixel units (toys in their own)."""

    shape: Shape

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """`n` i.i.d. samples [n c h w] float32, on the CPU."""
        ...


class Bank:
    """Persistent chains (§2.3): states that one update leaves and a later one takes up again.

    Args:
        states: [size c h w], kept on the CPU.
    """

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def __len__(self) -> int:
        return len(self.states)

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """`n` different slots, int64 [n]."""
        return torch.from_numpy(generator.choice(len(self), size=n, replace=False))

    def write(self, slots: Tensor, states: Tensor) -> None:
        """Keep `states` [n c h w] in `slots` [n]."""
        self.states[slots] = states.detach().to(self.states)

"""The toys' exact densities as energies to map: what a map can be checked against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ebmcli.data.toys import Toy
from ebmcli.networks import Shape

BLOCK = 1024
"""Most points computed at once."""
LANES = 16
"""Points are filled up to a multiple of this: no processor's vector ends among them, so each is computed alike."""


class ToyEnergy:
    """U = −log p of a toy's true, normalised density, as a target for kernels and maps at T = 1."""

    shape: Shape = (2, 1, 1)
    temperature = 1.0

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def energy_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """U(x) [n] and ∂U/∂x [n 2 1 1] of points x [n 2 1 1], computed in float64."""
        values, grads = [], []
        with _one_thread():
            for block in x.detach().split(BLOCK):
                n = len(block)
                y = torch.cat([block, block.new_ones(-n % LANES, 2, 1, 1)]).double()
                values.append(self.toy.energy(y)[:n])
                grads.append(-self.toy.score(y)[:n].view(-1, 2, 1, 1))
        return torch.cat(values).to(x), torch.cat(grads).to(x)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Some operations of torch wake all threads for a handful of numbers, which takes longer than the numbers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

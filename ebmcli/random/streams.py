"""Streams of random numbers: which numbers belong to what.

Every random number belongs to (seed, purpose, update, chain, step), never to the batch it was drawn
in, so that a chain is the same in any batch, and nothing has to be saved but the update's number.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ebmcli.networks import Shape
from ebmcli.random import philox


class Purpose(IntEnum):
    """What random numbers are for; streams of different purposes are independent."""

    START = 1
    MCMC = 2
    DATA = 3
    DATA_NOISE = 4
    BANK = 5
    BANK_START = 6
    METROPOLIS = 7
    METASTABLE = 8
    TRAVEL = 9
    SPREAD = 10


class Stream(NamedTuple):
    """The random numbers of one (seed, purpose, update)."""

    seed: int
    purpose: int
    update: int = 0

    @property
    def key(self) -> int:
        """64-bit key of the counter-based generator."""
        packed = struct.pack("<qqq", self.seed, self.purpose, self.update)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")

    def normal(self, chains: Tensor, step: int, shape: Shape) -> Tensor:
        """Standard normal [n c h w], one image for each of `chains` (int64 [n]), on its device."""
        return philox.normal(self.key, chains, step, shape[0] * shape[1] * shape[2]).view(-1, *shape)

    def uniform(self, chains: Tensor, step: int, shape: Shape) -> Tensor:
        """Uniform on (0, 1], [n c h w], one image for each of `chains` (int64 [n])."""
        return philox.uniform(self.key, chains, step, shape[0] * shape[1] * shape[2]).view(-1, *shape)

    def generator(self) -> np.random.Generator:
        """A sequential generator for choices that are not a chain's (which images, which slots)."""
        return np.random.Generator(np.random.Philox(key=self.key))

"""Where chains start, which random numbers are theirs, and the bank that keeps them (floor 1).

Every random number belongs to (seed, purpose, update, chain, step), never to the batch it was drawn
in, so that a chain is the same in any batch, and nothing has to be saved but the update's number.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ebmcli import philox
from ebmcli.errors import EBMError
from ebmcli.networks import Shape


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


class Data(Protocol):
    """Training data: images or toy samples in [-1, 1] pixel units (toys in their own)."""

    shape: Shape

    def draw(self, n: int, generator: np.random.Generator) -> Tensor:
        """`n` i.i.d. samples [n c h w] float32, on the CPU."""
        ...


def _uniform(stream: Stream, chains: Tensor, shape: Shape, scale: float) -> Tensor:
    return (2 * stream.uniform(chains, 0, shape) - 1) * scale


def _gaussian(stream: Stream, chains: Tensor, shape: Shape, scale: float) -> Tensor:
    return stream.normal(chains, 0, shape) * scale


NOISE: dict[str, Callable[[Stream, Tensor, Shape, float], Tensor]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
}
"""Non-informative starts (§2.3): uniform on [-scale, scale], or normal with sd scale."""


def noise_start(kind: str, stream: Stream, chains: Tensor, shape: Shape, scale: float = 1.0) -> Tensor:
    """Initial states [n c h w] from noise, one for each of `chains` (int64 [n]).

    Raises:
        EBMError: `kind` is not a key of `NOISE`.
    """
    if kind not in NOISE:
        raise EBMError(f"unknown noise {kind!r}", f"use one of {', '.join(NOISE)}")
    return NOISE[kind](stream, chains, shape, scale)


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

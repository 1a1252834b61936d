"""Counter-based random numbers: Philox-4x32-10 (Salmon et al. 2011), for any device.

The counter is (group of four elements, step, chain), the key 64 bits, so a number depends on
nothing but its own address. On a CPU with a compiler the native kernel makes the same numbers
faster; the integers are the same everywhere, the normals agree to float rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmcli.native import stack as native

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def bits(key: int | Tensor, chains: Tensor, step: int | Tensor, size: int) -> Tensor:
    """Uniform 32-bit words [n size], held in int64.

    Args:
        key: 64 bits, or int64 [] with the same bits.
        chains: int64 [n]; the words are made on its device.
        step: 32 bits, or int64 [] or [n 1]. Tensors are not asked for their values: a CUDA graph may hold them.
        size: words a chain.
    """
    groups = torch.arange((size + 3) // 4, device=chains.device)
    n, m = len(chains), len(groups)
    c0 = groups.expand(n, m)
    c1 = torch.zeros_like(c0) + (step & _WORD)
    c2 = (chains & _WORD)[:, None].expand(n, m)
    c3 = ((chains >> 32) & _WORD)[:, None].expand(n, m)
    k0, k1 = key & _WORD, (key >> 32) & _WORD
    for _ in range(10):
        # The 64-bit product wraps into the sign bit; shifting and masking take the halves out all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack([c0, c1, c2, c3], dim=-1).flatten(1)[:, :size]


def uniform(key: int, chains: Tensor, step: int, size: int) -> Tensor:
    """Uniform on (0, 1], float32 [n size]; arguments as `bits`."""
    compiled = chains.device.type == "cpu" and native.available()
    words = (native.words if compiled else bits)(key, chains, step, size)
    return ((words.double() + 0.5) * 2.0**-32).float()


def normal(key: int, chains: Tensor, step: int, size: int) -> Tensor:
    """Standard normal, float32 [n size]; arguments as `bits`. Box–Muller on pairs of words."""
    if chains.device.type == "cpu" and native.available():
        return native.normal(key, chains, step, size)
    return normal_torch(key, chains, step, size)


def normal_torch(key: int | Tensor, chains: Tensor, step: int | Tensor, size: int) -> Tensor:
    """`normal` in torch alone."""
    words = bits(key, chains, step, -(-size // 4) * 4).view(len(chains), -1, 2)
    # Float64 where there is one: float32 cannot hold the smallest uniforms, which are the tails.
    wide = torch.float32 if chains.device.type == "mps" else torch.float64
    u = (words.to(wide) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2 * torch.log(u[..., 0]))
    angle = 2 * math.pi * u[..., 1]
    z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return z.flatten(1)[:, :size].float()

"""Random numbers that belong to their chain, starts from noise, and the bank."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.native import stack as native
from ebmcli.random import philox
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler.starts import NOISE, noise_start
from ebmcli.training.bank import Bank

WORD = 0xFFFFFFFF
KNOWN = [
    ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([WORD] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
"""Random123's known answers for philox4x32, 10 rounds: counter, key, words."""


def plain_philox(counter: list[int], key: int) -> list[int]:
    """Philox-4x32-10 with Python's integers."""
    c, k = list(counter), [key & WORD, key >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & WORD, a >> 32 ^ c[3] ^ k[1], a & WORD]
        k = [k[0] + 0x9E3779B9 & WORD, k[1] + 0xBB67AE85 & WORD]
    return c


def test_words_are_the_published_ones() -> None:
    """Known answers for the plain form, and through `bits` as far as its counters reach; then the two agree."""
    for counter, key, words in KNOWN:
        assert plain_philox(counter, key) == words
    assert philox.bits(0, torch.zeros(1, dtype=torch.int64), 0, 4).tolist() == [KNOWN[0][2]]
    random = np.random.default_rng(0)
    for _ in range(20):
        key, step = int(random.integers(0, 2**64, dtype=np.uint64)), int(random.integers(0, 2**32))
        chains = random.integers(-(2**63), 2**63 - 1, 3)
        words = philox.bits(key, torch.from_numpy(chains), step, 10).tolist()
        for chain, row in zip(chains.tolist(), words, strict=True):
            low, high = chain & WORD, (chain >> 32) & WORD
            assert row == [w for g in range(3) for w in plain_philox([g, step, low, high], key)][:10]


@pytest.mark.skipif(not native.available(), reason=native.why_not())
@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 784])
def test_words_are_the_same_in_torch_and_the_compiled_kernel(size: int) -> None:
    chains, key = torch.tensor([0, 1, -1, 2**40 + 3, -(2**63)]), 0xFEDCBA9876543210
    for step in (0, 2**32 - 1):
        assert torch.equal(philox.bits(key, chains, step, size), native.words(key, chains, step, size))


@pytest.mark.skipif(not native.available(), reason=native.why_not())
def test_normals_agree_between_torch_and_the_compiled_kernel() -> None:
    """To float rounding, tails included; so a run on another device sees the same noise.

    The kernel's uniforms are float32, and near 1 (radius near 0) rounded: the error is that of 1 − u over the radius.
    """
    chains, key = torch.arange(400) * 2**31 - 7, 0xFEDCBA9876543210
    for size in (2, 784):
        one, other = philox.normal_torch(key, chains, 12345, size), native.normal(key, chains, 12345, size)
        assert one.shape == other.shape == (400, size)
        assert one.dtype == other.dtype == torch.float32
        radius = one.view(400, -1, 2).norm(dim=2).repeat_interleave(2, dim=1)
        assert ((one - other).abs() <= 2e-6 + 1e-7 / radius).all()
        assert (one - other).abs().mean() < 2e-7
    assert one.abs().max() > 4


def moments(z: Tensor) -> list[float]:
    z = z.double().flatten()
    return [z.mean().item(), z.var().item(), (z**3).mean().item(), (z**4).mean().item()]


@pytest.mark.parametrize("normal", [philox.normal, philox.normal_torch])
def test_normals_are_normal(normal: Callable[[int, Tensor, int, int], Tensor]) -> None:
    """Four moments within five standard errors, of 400,000 numbers."""
    z = normal(3, torch.arange(400), 0, 1000)
    error = 5 * z.numel() ** -0.5
    expected = [(0, 1), (1, 2**0.5), (0, 15**0.5), (3, 96**0.5)]
    for got, (value, sd) in zip(moments(z), expected, strict=True):
        assert abs(got - value) < error * sd


def test_uniforms_are_uniform() -> None:
    """On (0, 1], mean and variance within five standard errors, and equally many in ten bins."""
    u = philox.uniform(3, torch.arange(400), 0, 1000).double().flatten()
    n = len(u)
    assert u.min() > 0
    assert u.max() <= 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, 10, 0, 1)
    assert ((counts - n / 10).abs() < 5 * (n * 0.09) ** 0.5).all()


def test_the_smallest_and_largest_words_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No uniform of 0 (whose logarithm is infinite), no normal that is not finite."""
    words = torch.tensor([[0, 0, 0, WORD, WORD, 0, WORD, WORD]])
    for place, name in [(philox, "bits"), (native, "words")]:
        monkeypatch.setattr(place, name, lambda key, chains, step, size: words[:, :size])
    u = philox.uniform(0, torch.zeros(1, dtype=torch.int64), 0, 8)
    z = philox.normal_torch(0, torch.zeros(1, dtype=torch.int64), 0, 8)
    assert u.min() > 0
    assert u.max() == 1
    assert z.isfinite().all()
    assert 6.7 < z.abs().max() < 6.8


def test_streams_do_not_share_numbers() -> None:
    """Another seed, purpose, update, step or chain: no correlation beyond chance, and not one equal number."""
    chains, shape = torch.arange(50), (1, 20, 20)
    variants = [
        Stream(0, Purpose.MCMC, 1).normal(chains, 0, shape),
        Stream(1, Purpose.MCMC, 1).normal(chains, 0, shape),
        Stream(0, Purpose.MCMC, 2).normal(chains, 0, shape),
        Stream(0, Purpose.MCMC, 1).normal(chains, 1, shape),
        Stream(0, Purpose.MCMC, 1).normal(chains + 50, 0, shape),
        *(Stream(0, p, 1).normal(chains, 0, shape) for p in Purpose if p != Purpose.MCMC),
    ]
    z = torch.stack([v.flatten() for v in variants]).double()
    correlation = torch.corrcoef(z) - torch.eye(len(z))
    assert correlation.abs().max() < 5 * z.shape[1] ** -0.5
    assert all((a == b).float().mean() < 1e-3 for a, b in itertools.combinations(z.float(), 2))
    neighbours = torch.corrcoef(variants[0].flatten(1).double()) - torch.eye(50)
    assert neighbours.abs().max() < 5.5 / 20


KEYS = [0x56DE858F3E47ACEF, 0xAA43DA5BCD4E1F46, 0x98D8047F50989A19]
DRAWN = [1374513394, 1883493119, 85106838]


def test_a_key_is_what_it_always_was() -> None:
    """Every picture and every resumed run depends on these: do not change them."""
    assert Stream(0, Purpose.MCMC, 0).key == KEYS[0]
    assert Stream(7, Purpose.START, 1234).key == KEYS[1]
    assert Stream(-1, Purpose.BANK, 2**40).key == KEYS[2]
    assert [int(p) for p in Purpose][:7] == [1, 2, 3, 4, 5, 6, 7]
    assert Stream(0, Purpose.DATA).generator().integers(0, 2**31, 3).tolist() == DRAWN


def test_a_chain_has_its_numbers_in_any_batch() -> None:
    """Alone, in another order, as part of more."""
    stream, shape = Stream(5, Purpose.MCMC, 3), (3, 5, 5)
    for draw in (stream.normal, stream.uniform):
        whole = draw(torch.arange(100), 9, shape)
        order = torch.tensor([71, 3, 99])
        assert whole.shape == (100, *shape)
        assert torch.equal(draw(order, 9, shape), whole[order])
        assert torch.equal(draw(order[1:2], 9, shape), whole[3:4])


def test_starts_from_noise() -> None:
    """Uniform fills [-scale, scale], gaussian has sd scale; an unknown kind is named."""
    chains, shape = torch.arange(200), (1, 10, 10)
    stream = Stream(0, Purpose.START, 1)
    x = noise_start("uniform", stream, chains, shape, 0.5)
    assert x.shape == (200, *shape)
    assert 0.499 < x.max() <= 0.5
    assert -0.5 <= x.min() < -0.499
    assert abs(x.var() - 0.25 / 3) < 0.003
    x = noise_start("gaussian", stream, chains, shape, 2.0)
    assert abs(x.std() - 2) < 0.05
    assert x.abs().max() > 6
    with pytest.raises(EBMError, match="unknown noise 'salt'") as raised:
        noise_start("salt", stream, chains, shape)
    assert all(kind in raised.value.hint for kind in NOISE)


def test_the_bank_draws_without_replacement_and_keeps_what_is_written() -> None:
    """Different slots, all of them in time; other slots stay as they were."""
    bank = Bank(torch.zeros(20, 1, 2, 2))
    generator = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(30):
        slots = bank.draw(12, generator)
        assert slots.dtype == torch.int64
        assert len(set(slots.tolist())) == 12
        seen |= set(slots.tolist())
    assert seen == set(range(20))
    slots, states = torch.tensor([4, 0]), torch.randn(2, 1, 2, 2, requires_grad=True)
    bank.write(slots, states)
    assert torch.equal(bank.states[slots], states)
    assert not bank.states.requires_grad
    others = [i for i in range(20) if i not in (0, 4)]
    assert not bank.states[others].any()
    assert len(bank) == 20

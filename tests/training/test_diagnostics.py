"""Correlations of d and v against statsmodels, and what is said of series whose kind is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.tsa import stattools

from ebmcli.errors import EBMError
from ebmcli.training.diagnosis import sign_pattern
from ebmcli.training.oscillation import (
    Array,
    autocorrelation,
    cross_correlation,
    in_words,
    oscillation,
    partial_autocorrelation,
)

LAGS = 12


def series(n: int = 400, offset: float = 0.7) -> Array:
    """An AR(3) process with a mean that is not 0."""
    noise = np.random.default_rng(3).normal(size=n + 50)
    x = np.zeros(n + 50)
    for t in range(3, len(x)):
        x[t] = 0.5 * x[t - 1] - 0.4 * x[t - 2] + 0.2 * x[t - 3] + noise[t]
    return x[50:] + offset


def records(d: Array, v: Array, every: int = 1, first: int = 1) -> list[dict[str, float]]:
    """A run's records with these series."""
    return [
        {"update": first + every * i, "energy_difference": float(a), "gradient_magnitude": float(b)}
        for i, (a, b) in enumerate(zip(d, v, strict=True))
    ]


def test_acf_and_pacf_are_those_of_statsmodels() -> None:
    """Centred by its own functions; uncentred by its autocovariances and recursion, which take the mean or leave it."""
    x = series()
    assert autocorrelation(x, LAGS) == pytest.approx(stattools.acf(x, nlags=LAGS, fft=False), abs=1e-12)
    expected = stattools.pacf(x, nlags=LAGS, method="ldb")
    assert partial_autocorrelation(x, LAGS) == pytest.approx(expected, abs=1e-12)
    raw = stattools.acovf(x, demean=False, fft=False, nlag=LAGS)
    assert autocorrelation(x, LAGS, centre=False) == pytest.approx(raw / raw[0], abs=1e-12)
    expected = stattools.levinson_durbin(raw, nlags=LAGS, isacov=True)[2]
    assert partial_autocorrelation(x, LAGS, centre=False)[1:] == pytest.approx(expected[1:], abs=1e-12)


def test_cross_correlation_is_that_of_statsmodels() -> None:
    """Both sides; and by hand where one series is not centred."""
    a, b = series(), np.roll(series(), 3) + 0.1 * np.random.default_rng(0).normal(size=400)
    ours = cross_correlation(a, b, LAGS, (True, True))
    assert ours[LAGS:] == pytest.approx(stattools.ccf(b, a, adjusted=False, fft=False)[: LAGS + 1], abs=1e-12)
    assert ours[LAGS::-1] == pytest.approx(stattools.ccf(a, b, adjusted=False, fft=False)[: LAGS + 1], abs=1e-12)
    assert int(np.argmax(ours)) == LAGS + 3  # b is a, three records later
    ours = cross_correlation(a, b, LAGS)
    c = b - b.mean()
    assert ours[LAGS + 2] == pytest.approx((a[:-2] * c[2:]).sum() / math.sqrt((a**2).sum() * (c**2).sum()))


def test_degenerate_series() -> None:
    """A constant has no correlations, one that alternates is its own forecast, too short a one is an error."""
    assert autocorrelation(np.ones(30), 5).tolist() == [0] * 6
    assert np.isfinite(partial_autocorrelation(np.tile([1.0, -1.0], 50), 5)).all()
    with pytest.raises(EBMError, match="more than 5"):
        cross_correlation(np.ones(5), np.ones(5), 5)
    with pytest.raises(EBMError, match="49 records of learning are too few, 50"):
        oscillation(records(np.ones(49), np.ones(49)))


def swinging(n: int = 600, period: float = 12.0) -> tuple[Array, Array]:
    """d and v of the paper's picture: both swing, and v follows where d pushes."""
    rng = np.random.default_rng(1)
    t = 2 * math.pi * np.arange(n) / period
    return np.cos(t) + 0.4 * rng.normal(size=n), 5 + np.cos(t) + 0.4 * rng.normal(size=n)


def test_strong_and_weak_oscillation_are_told_apart() -> None:
    """A swing of twelve updates, white noise, a slow drift; the pattern of Fig. 4 in the first alone."""
    rng = np.random.default_rng(2)
    strong = oscillation(records(*swinging()))
    assert strong.strength == "strong"
    assert "+0.74" in sign_pattern(strong)
    assert sign_pattern(strong).endswith(": the pattern of the paper's Fig. 4")
    white = oscillation(records(rng.normal(size=600), 5 + rng.normal(size=600)))
    assert white.strength == "weak"
    assert "not the pattern" in sign_pattern(white)
    drift = oscillation(records(np.linspace(-1, 1, 600) + 0.1 * rng.normal(size=600), np.linspace(4, 6, 600)))
    assert drift.strength == "weak"
    far = oscillation(records(*swinging(), every=10))
    assert far.strength == "unknown"
    assert "log.metrics_every" in in_words(far)
    assert "too far apart" in sign_pattern(far)


@pytest.mark.parametrize(
    ("d", "v", "said"),
    [
        (0.0, 0.0, ("in balance", "keeps its strength")),
        (0.4, -1.0, ("contraction prevails", "shrinks by a factor of 2.7")),
        (-0.4, 1.0, ("expansion prevails", "grows by a factor of 2.7")),
    ],
)
def test_words(d: float, v: float, said: tuple[str, ...]) -> None:
    """Which way learning goes, and where the gradient does."""
    noise = np.random.default_rng(4).normal(size=1000)
    words = in_words(oscillation(records(noise + d - noise.mean(), np.exp(np.linspace(0, v, 1000)))))
    for part in said:
        assert part in words


def test_only_records_at_equal_distances_count() -> None:
    """Finer ones from before, the last update, and updates that went back between the regular ones are left out."""
    rng = np.random.default_rng(5)
    early = records(rng.normal(size=30), np.ones(30), every=1)
    late = records(rng.normal(size=80), np.ones(80) * 2, every=10, first=40)
    odd = [{"update": 333, "energy_difference": 1e9, "gradient_magnitude": 1.0}]
    end = [{"update": 835, "energy_difference": 1e9, "gradient_magnitude": 1.0}]
    found = oscillation(early + late[:29] + odd + late[29:] + end, 20)
    assert (found.first, found.last, found.records, found.every) == (10, 830, 83, 10)
    assert found.d_mean == pytest.approx(oscillation([r for r in early if r["update"] % 10 == 0] + late, 20).d_mean)

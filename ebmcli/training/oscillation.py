"""The first axis of learning, seen in its record: how d and v swing against each other (§3.1, Fig. 4).

d (the energy difference, Eq. 10) is taken uncentred, for its zero means something: below it an update expands,
above it an update contracts. v (the gradient's magnitude along the path) is centred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebmcli.errors import EBMError

Array = NDArray[np.float64]

LAGS = 15
"""Lags looked at, in records."""
FEWEST = 50
"""Records below which correlations say nothing."""
SHORT = 6
"""Lags, in updates, within which Fig. 4's oscillation lies (the paper names 3 and 4)."""
STRONG = 0.1
"""Least negative correlation, beyond the band of chance too, that is called a strong oscillation."""
STEADY = 0.25
"""Change of log v over the records, in either direction, that counts as none."""


def autocorrelation(x: Array, lags: int, centre: bool = True) -> Array:
    """ACF at lags 0 … `lags`: Σ x_t x_{t+k} / Σ x_t² (the biased estimator, whose values are a correlation's).

    Args:
        x: series [n].
        centre: take the mean off first; without, 0 is where the series is measured from.
    """
    return cross_correlation(x, x, lags, (centre, centre))[lags:]


def partial_autocorrelation(x: Array, lags: int, centre: bool = True) -> Array:
    """PACF at lags 0 … `lags`, by the Durbin–Levinson recursion on the biased ACF."""
    r = autocorrelation(x, lags, centre)
    result = np.zeros(lags + 1)
    result[0], phi, left = 1.0, np.zeros(0), 1.0
    for k in range(1, lags + 1):
        if left <= 0:  # the series is its own forecast: nothing is left to explain
            break
        new = (r[k] - phi @ r[k - 1 : 0 : -1]) / left if k > 1 else r[1]
        phi = np.append(phi - new * phi[::-1], new)
        left *= 1 - new**2
        result[k] = new
    return result


def cross_correlation(a: Array, b: Array, lags: int, centre: tuple[bool, bool] = (False, True)) -> Array:
    """Σ a_t b_{t+k} / √(Σa² Σb²) at lags k = −`lags` … `lags`: what a has to do with b, k records later.

    Raises:
        EBMError: the series differ in length, or are no longer than `lags`.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) <= lags:
        raise EBMError(f"correlations at {lags} lags need two series of more than {lags} records")
    a, b = (s - s.mean() if c else s for s, c in zip((a, b), centre, strict=True))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    n = len(a)
    products = [a[: n - k] @ b[k:] if k >= 0 else a[-k:] @ b[: n + k] for k in range(-lags, lags + 1)]
    return np.array(products) / norm if norm > 0 else np.zeros(2 * lags + 1)


class Oscillation(NamedTuple):
    """Fig. 4 in numbers, over one stretch of learning."""

    every: int
    """updates from one record to the next: the unit of a lag"""
    records: int
    first: int
    last: int
    """updates"""
    lags: int
    band: float
    """correlations of pure chance stay within ±band with probability 0.95"""
    cross: list[float]
    """of d (uncentred) and v (centred) at lags −lags … lags: d now, v later"""
    acf_d: list[float]
    acf_v: list[float]
    """at lags 0 … lags"""
    pacf_d: list[float]
    pacf_v: list[float]
    expansion: float
    """share of updates with d < 0"""
    d_mean: float
    d_sd: float
    v_mean: float
    v_change: float
    """change of log v over the stretch, by a straight line through it"""
    strength: str
    """`strong`, `weak`, or `unknown` where records are too far apart to see it"""


def oscillation(records: Sequence[Mapping[str, float]], lags: int = LAGS) -> Oscillation:
    """How expansion and contraction took turns in `records` of a run (`update`, `energy_difference`, …).

    Only the newest records at equal distances are used.

    Raises:
        EBMError: there are fewer than `FEWEST`.
    """
    records = _even(records)
    if len(records) < max(FEWEST, 2 * lags):
        raise EBMError(
            f"{len(records)} records of learning are too few, {max(FEWEST, 2 * lags)} are needed",
            "learn on, or lower log.metrics_every",
        )
    updates = np.array([r["update"] for r in records])
    d = np.array([r["energy_difference"] for r in records], np.float64)
    v = np.array([r["gradient_magnitude"] for r in records], np.float64)
    every = int(updates[1] - updates[0])
    band = 1.96 / math.sqrt(len(records))
    acf = autocorrelation(d, lags, centre=False), autocorrelation(v, lags)
    pacf = partial_autocorrelation(d, lags, centre=False), partial_autocorrelation(v, lags)
    cross = cross_correlation(d, v, lags)
    slope = np.polyfit(np.linspace(0, 1, len(v)), np.log(np.maximum(v, 1e-30)), 1)[0]
    return Oscillation(
        every=every,
        records=len(records),
        first=int(updates[0]),
        last=int(updates[-1]),
        lags=lags,
        band=band,
        cross=cross.tolist(),
        acf_d=acf[0].tolist(),
        acf_v=acf[1].tolist(),
        pacf_d=pacf[0].tolist(),
        pacf_v=pacf[1].tolist(),
        expansion=float((d < 0).mean()),
        d_mean=float(d.mean()),
        d_sd=float(d.std()),
        v_mean=float(v.mean()),
        v_change=float(slope),
        strength=_strength(acf[0], every, band),
    )


def _even(records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The newest stretch of records at equal distances; a run's last one, and those of going back, lie between."""
    updates = np.array([int(r["update"]) for r in records])
    if len(updates) < 2:
        return list(records)
    every = int(np.median(np.diff(updates)))
    regular = [r for r, u in zip(records, updates, strict=True) if u % every == updates[len(updates) // 2] % every]
    breaks = [i for i in range(1, len(regular)) if regular[i]["update"] - regular[i - 1]["update"] != every]
    return regular[breaks[-1] if breaks else 0 :]


def _strength(acf: Array, every: int, band: float) -> str:
    if every > SHORT // 2:
        return "unknown"
    trough = -acf[1 : SHORT // every + 1].min()
    return "strong" if trough > max(STRONG, band) else "weak"


def in_words(o: Oscillation) -> str:
    """One sentence: which way learning went, how v moved, how strongly the two directions took turns."""
    lean = o.expansion - 0.5
    # Shares of independent updates scatter by half the band.
    if abs(lean) <= max(o.band / 2, 0.02):
        way = "expansion and contraction are in balance"
    else:
        way = f"{'expansion' if lean > 0 else 'contraction'} prevails"
    if abs(o.v_change) < STEADY:
        gradient = "the gradient keeps its strength"
    else:
        gradient = (
            f"the gradient {'grows' if o.v_change > 0 else 'shrinks'} by a factor of {math.exp(abs(o.v_change)):.2g}"
        )
    how = {
        "strong": "they take turns within a few updates (strong oscillation)",
        "weak": "one update tells little about the next few (weak oscillation)",
        "unknown": f"records {o.every} updates apart cannot show an oscillation (log.metrics_every = 1 does)",
    }[o.strength]
    return f"Updates {o.first:,} to {o.last:,}: {way} ({o.expansion:.0%} of updates expand), {gradient}, and {how}."

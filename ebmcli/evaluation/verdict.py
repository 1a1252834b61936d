"""The verdict on an energy: is exp(−U/T) a density of the data?

A pure function of measured numbers. Its logic is that of a test: if the density is the data's, then images of the
data are draws from it, and chains that start at them are in their steady state from the first step on and stay
there, mixed or not. So what chains from data lose speaks against the model as soon as it is seen, while nothing
speaks for it before they have left their starts: all of them, or, where the data has separate kinds that no chain
leaves in any time (digits), at least the place in their kind. The thresholds below were set, and are tested, on
energies whose truth is known.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from ebmcli.evaluation.mixing import Estimate

FLAT = 0.1
"""Least steepness of an energy that is not called flat.

For any density of the data, E[(x − μ)·∇U] = D·T (Stein's identity), so √(E‖∇U‖² · E‖x − μ‖²) ≥ D·T by Cauchy and
Schwarz: the steepness √(E‖∇U‖² E‖x − μ‖²)/(D·T) is 1 or more, 1 for an isotropic Gaussian, 0 for a constant.
Below 0.1 the temperature is ten times too high for anything in the data to hold a chain.
"""
FAR = 0.85
"""Share of cases with the chain below from which its energy may be *far* below the data's.

A case is a chain that started at an image of the data, late, against that image (of other chains: against any image
of the data). If the density is the data's, (x_0, x_t) of a reversible chain may be exchanged, so the share is ½ at
every t, mixed or not, whatever the distribution of U. Two normal distributions of equal width give 0.85 at a distance
of 1.5 standard deviations; a density of the plane sharpened by a factor k (U → k·U) gives k/(k + 1), 0.91 for 10.
"""
SAME = 0.7
"""Largest share, below or above, of energies that count as the data's: a shift of 0.74 standard deviations, a factor of
2.3 in the temperature of a density of the plane. What Langevin learning leaves (gmm, ε = 0.125: sd 0.132 for 0.15)
gives 0.56.
"""
FAR_GAP = (2.0, 1.0)
"""How far the mean energy has to be below the data's for *far*: standard deviations of the data's energy, or nats a
dimension (U/T divided by D); either.

The share alone would be too sharp in many dimensions, where energies concentrate: a temperature 10% off puts nine
chains in ten of 28×28 pixels below their images, and nobody sees it. Two standard deviations is the edge of the band
in which the data's energies lie. In few dimensions that edge cannot be reached (sharpening the plane's densities
moves the mean by one at most), but the energy that is lost can: a sharpening by k loses (k − 1)/2 nats a dimension,
1 for 3.
"""
GAP = (1.0, 0.25)
"""The same for *different*: one standard deviation, or a sharpening by 1.5."""
DIFFERENT = 0.5
"""Share of the way from the data to a Gaussian from which samples are not the data's (`distance.Compared.share`).

Samples beyond it are nearer to images without structure (the mean and covariance of the data's pixels are all that
such a Gaussian knows) than to the data.
"""
DRIFT = 0.25
"""Drift of the energy between the last two quarters, in standard deviations of the data's energy, that is tolerated.

A quarter of the data's own spread is not seen in a picture; below it, and below three standard errors, a chain counts
as steady.
"""
RHAT = 1.1
"""Largest rank-normalised split R-hat of mixed chains (Gelman & Rubin's 1.1).

The mean energy and its error are reported beside it, so R-hat has to find chains that disagree by a good part of their
spread, not to certify the third digit; 1.01 (Vehtari et al. 2021) asks for thousands of independent draws.
"""
ESS = 100.0
"""Least effective sample size: the mean energy is then known to a tenth of its spread."""
MEMORY = 0.1
"""Largest memory of the start (`mixing.memory`) over the last half of chains that have left it.

A tenth of the chains that never left their mode, or all of them a tenth of the way from home.
"""
INSIDE = 10.0
"""Least effective draws of the energy for each chain, over the last half, of chains that are at home in their kind."""
LONG = 10_000
"""Least steps after which chains that never left their kind speak for a model.

An energy that is not the data's may take thousands of steps to show it (learning with Adam: four standard deviations
in 4,000, after all chains of its bank had made as many), and chains that mix tell that they are done; these do not.
"""
SIGMAS = 3.0
"""Standard errors that a difference has to have before it counts: 1 in 400 by chance."""


class Verdict(StrEnum):
    """What an energy is."""

    MATCHES = "steady-state matches data"
    OVERSATURATED = "oversaturated"
    DIFFERS = "steady state differs"
    COLLAPSED = "collapsed (flat energy)"
    UNMIXED = "not mixed yet"


class Measured(NamedTuple):
    """What a verdict is made of; energies in units of U, those of chains over their last half."""

    steps: int
    from_data: bool
    """whether chains started at images of the data"""
    steepness: float
    """√(E‖∇U‖² · E‖x − μ‖²)/(D·T) over the data"""
    energy_data: Estimate
    energy_data_sd: float
    energy_long: Estimate
    gap: Estimate
    """mean energy of the chains minus that of the images they started at (of chains that started elsewhere: of the
    data), in standard deviations of the data's energy"""
    below: Estimate
    """share of late states of the chains with less energy than the image of the data they started at (chains that
    started elsewhere: than any image of the data)"""
    drift: Estimate
    """mean energy of the last quarter minus the one before, in standard deviations of the data's energy"""
    rhat: float
    ess: float
    autocorrelation_time: float
    """steps"""
    memory: Estimate
    inside: float = math.nan
    """effective draws of a chain's own energy, about its own mean"""
    dimension: int = 1
    """D: pixels times channels"""
    temperature: float = 1.0
    distance: Estimate | None = None
    """share of the way from the data to a Gaussian; None where it was not measured"""
    energy_short: Estimate | None = None
    """of the model's own samples, L steps from where its training's chains start"""

    @property
    def nats(self) -> float:
        """(long-run − data) energy in nats a dimension."""
        return self.gap.value * self.energy_data_sd / (self.temperature * self.dimension)

    def off(self, share: float, gap: tuple[float, float]) -> bool:
        """Whether the chains' energies are off the data's by more than both limits, beyond chance."""
        lean = abs(self.below.value - 0.5)
        certain = lean - SIGMAS * _known(self.below) > 0
        return lean >= share - 0.5 and certain and (abs(self.gap.value) > gap[0] or abs(self.nats) > gap[1])


class Judgement(NamedTuple):
    """A verdict and why."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """in words and numbers, the decisive one first"""

    @property
    def matches(self) -> bool:
        """Whether the energy passed as a density of the data."""
        return self.verdict is Verdict.MATCHES


def verdict(m: Measured) -> Judgement:
    """The verdict on an energy, with its reasons."""
    moving = not (abs(m.drift.value) <= DRIFT or abs(m.drift.value) <= SIGMAS * m.drift.error)
    drift = (
        f"the energy {'still moves' if moving else 'is steady'}: {_signed(m.drift)} sd of the data's energy from the "
        f"third quarter to the last (more than {DRIFT:g} and {SIGMAS:g} standard errors would be moving)"
    )
    where = "the image they started at" if m.from_data else "an image of the data"
    energy = (
        f"energy of the chains {_signed(m.gap)} sd from the data's ({m.nats:+.3g} nats a dimension); "
        f"{m.below.value:.0%} of their states lie below {where} (equal: 50%, the same: {1 - SAME:.0%} to "
        f"{SAME:.0%}, far below: {FAR:.0%})"
    )
    distance = (
        "how far the samples are from the data was not measured"
        if m.distance is None
        else f"the samples are {_plain(m.distance)} of the way from the data (0) to a Gaussian with the data's mean "
        f"and covariance (1); {DIFFERENT:g} is different"
    )
    if not m.steepness >= FLAT:
        return Judgement(
            Verdict.COLLAPSED,
            (
                f"the energy's slope over the data is {m.steepness:.2g} of the least that a density of the data can "
                f"have (flat under {FLAT:g}): nothing holds a chain",
                "the energy is the same everywhere" if m.energy_data_sd == 0 else energy,
            ),
        )
    if m.below.value > 0.5 and m.gap.value < 0 and m.off(FAR, FAR_GAP):
        return Judgement(Verdict.OVERSATURATED, (f"far below the data: {energy}", distance, drift))
    unmixed = _unmixed(m)
    # Chains from data that are not the data's any more count before they have mixed; others have to have mixed.
    settled = not moving and (m.from_data or not unmixed)
    shifted = m.off(SAME, GAP)
    far = m.distance is not None and m.distance.value - SIGMAS * _known(m.distance) > DIFFERENT
    side = f"{'below' if m.below.value > 0.5 else 'above'} the data{'' if settled else ' so far'}: {energy}"
    if settled and (shifted or far):
        return Judgement(Verdict.DIFFERS, (side, distance, drift) if shifted else (distance, energy, drift))
    failures = [drift] if moving else []
    if shifted or far:
        failures.append(side if shifted else distance)
    elif m.distance is not None and m.distance.value > DIFFERENT:
        failures.append(f"{distance}, and its error leaves that open: take more chains")
    if m.distance is None:
        failures.append(distance)
    if failures or (unmixed and not _at_home(m)):
        return Judgement(Verdict.UNMIXED, (*failures, *unmixed))
    if unmixed:
        kinds = (
            f"over {m.steps:,} steps chains kept the kind that they started with (memory {_plain(m.memory)}) and were "
            f"at home in it ({m.inside:.0f} effective draws each): how likely each kind is was not tested"
        )
        return Judgement(Verdict.MATCHES, (energy, distance, drift, kinds))
    mixed = (
        f"chains have left their starts (memory {_plain(m.memory)}) and agree (R-hat {m.rhat:.3f}, "
        f"{m.ess:.0f} effective draws, autocorrelation time about {m.autocorrelation_time:.0f} steps)"
    )
    return Judgement(Verdict.MATCHES, (energy, distance, drift, mixed))


def _at_home(m: Measured) -> bool:
    """Whether chains from data that did not mix were long enough in the kinds they started in."""
    still = abs(m.drift.value) + SIGMAS * _known(m.drift) <= DRIFT
    return m.from_data and still and m.steps >= LONG and m.inside >= INSIDE


def _unmixed(m: Measured) -> list[str]:
    """Why these chains do not show the steady state; none if they do."""
    failures = []
    if not m.memory.value <= MEMORY:
        failures.append(
            f"chains have not left their starts: over the last half they remember {_plain(m.memory)} of them "
            f"(1 at the start, {MEMORY:g} or less when left)"
        )
    if not m.rhat <= RHAT:
        failures.append(f"chains disagree on the energy: R-hat {m.rhat:.3f}, at most {RHAT:g} when mixed")
    if not m.ess >= ESS:
        failures.append(f"the energy has {m.ess:.0f} effective draws, {ESS:.0f} or more are needed")
    return failures


def _known(estimate: Estimate) -> float:
    """The error, infinite where it is not known: nothing is then decided by this number."""
    return math.inf if math.isnan(estimate.error) else estimate.error


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.2g} ± {estimate.error:.1g}"


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ± {estimate.error:.1g}"

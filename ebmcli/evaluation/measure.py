"""From chains that were watched to measured numbers and a verdict.

outcome = judge(ebmcli.load("mnist-shortrun"), steps=20_000)
print(outcome.judgement.verdict, *outcome.judgement.reasons, sep="\n")
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmcli.evaluation.distance import Compared, Reference
from ebmcli.evaluation.features import Features
from ebmcli.evaluation.images import Likeness
from ebmcli.evaluation.mixing import Estimate, mean_of, mixing, share_below
from ebmcli.evaluation.verdict import Judgement, Measured, verdict
from ebmcli.evaluation.walk import Record, Walk, WalkSettings, energies, reference_of, spacing
from ebmcli.models import sampling
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.potential import Potential

BAND = (0.025, 0.975)
"""Quantiles of the data's energy between which its band lies."""
SLOPES = 512
"""Images of the data whose gradients make the steepness."""


class Baseline(NamedTuple):
    """The data, and the model's own short samples, under the model."""

    energy: Tensor
    """U of the data's images, with the noise of training [m], float64"""
    steepness: float
    """√(E‖∇U‖² · E‖x − μ‖²)/(D·T) over the data (`verdict.FLAT`)"""
    short_energy: Estimate
    short: Compared
    """the short samples against the data"""
    dimension: int
    """D"""

    @property
    def band(self) -> tuple[float, float]:
        """Quantiles `BAND` of the data's energy."""
        low, high = self.energy.quantile(torch.tensor(BAND, dtype=self.energy.dtype)).tolist()
        return (low, high)


class Outcome(NamedTuple):
    """What a walk came to."""

    judgement: Judgement
    measured: Measured
    baseline: Baseline
    likeness: Likeness
    """of the last states"""
    final: Compared
    """the last states against the data"""
    step_size: float
    """ε, pixel units, after a warm-up if there was one"""
    acceptance: float | None
    """mean over the last half"""


def steepness(potential: Potential, x: Tensor, temperature: float) -> float:
    """√(E‖∇U‖² · E‖x − μ‖²)/(D·T) over images x [n c h w]; 1 or more for any density of them."""
    device = potential.device
    slope = potential.energy_and_grad(x.to(device)).grad.double().square().sum(dim=(1, 2, 3)).mean()
    spread = (x - x.mean(0)).double().square().sum(dim=(1, 2, 3)).mean()
    return math.sqrt(float(slope) * float(spread)) / (x[0].numel() * temperature)


def baseline(
    model: Checkpoint, reference: Reference, settings: WalkSettings, short: tuple[Tensor, Tensor] | None = None
) -> Baseline:
    """The data's energy, its slope, and as many of the model's own samples as there are chains.

    Args:
        model: the model.
        reference: the data's side.
        settings: of the walk that is to be judged.
        short: the model's own samples and their energies, if they are there already.
    """
    potential = model.potential
    device = potential.device
    x, energy = short_samples(model, settings) if short is None else short
    return Baseline(
        potential.energy(reference.x.to(device)).double().cpu(),
        steepness(potential, reference.x[:SLOPES], settings.temperature),
        mean_of(energy),
        reference.compare(x),
        reference.x[0].numel(),
    )


def short_samples(model: Checkpoint, settings: WalkSettings) -> tuple[Tensor, Tensor]:
    """As many of the model's own samples [n c h w] as there are chains, begun as in training, and their energies."""
    start = "noise" if model.bank is None else "bank"
    return sampling.sample(model, count=settings.chains, seed=settings.seed, start=start)


def measure(records: list[Record], settings: WalkSettings, base: Baseline, start_is_data: bool) -> Measured:
    """The numbers of a verdict from records of a walk, whole or not; chains are counted over their last half.

    Args:
        records: in order, the start's first.
        settings: of the walk.
        base: of the same model and data.
        start_is_data: whether the first group started at images of the data.
    """
    steps, energy = energies(records)
    last = int(steps[-1])
    half = steps > last / 2
    late, quarter = energy[:, half], steps[half] > 0.75 * last
    first = late[: settings.chains]
    sd = float(base.energy.std())
    seen = [r for r in records if r.step > last / 2]
    moments = [r.moment.distance for r in seen if r.moment is not None]
    nothing = Estimate(math.nan, math.nan)
    if first.shape[1] >= 4 and quarter.any() and not quarter.all():
        drift = mean_of(first[:, quarter].mean(dim=1) - first[:, ~quarter].mean(dim=1))
        drift = Estimate(*(_per(v, sd) for v in drift))
        long = mean_of(first.mean(dim=1))
        began = energy[: settings.chains, :1]
        paired = ((first < began).double() + 0.5 * (first == began)).mean(dim=1)
        below = mean_of(paired if start_is_data else share_below(first, base.energy))
    else:
        drift, long, below = nothing, mean_of(energy[: settings.chains, -1]), nothing
    data = mean_of(base.energy)
    if start_is_data:
        late_mean = (first if first.shape[1] else energy[: settings.chains, -1:]).mean(dim=1)
        gap = mean_of(late_mean - energy[: settings.chains, 0])
    else:
        gap = Estimate(long.value - data.value, math.hypot(long.error, data.error))
    mixed = mixing(late, spacing(steps))
    own = mixing(first - first.mean(dim=1, keepdim=True), spacing(steps))
    return Measured(
        steps=last,
        from_data=start_is_data,
        steepness=base.steepness,
        energy_data=data,
        energy_data_sd=sd,
        energy_long=long,
        gap=Estimate(*(_per(v, sd) for v in gap)),
        below=below,
        drift=drift,
        rhat=mixed.rhat,
        ess=mixed.ess,
        autocorrelation_time=mixed.autocorrelation_time,
        inside=own.ess / len(first),
        memory=Estimate(_mean([r.memory.value for r in seen]), _mean([r.memory.error for r in seen])),
        distance=Estimate(_mean([d.share for d in moments]), _mean([d.share_error for d in moments]))
        if moments
        else None,
        energy_short=base.short_energy,
        dimension=base.dimension,
        temperature=settings.temperature,
    )


def _per(value: float, sd: float) -> float:
    """In units of sd; of a flat energy 0 where nothing moves."""
    return value / sd if sd else (math.nan if value else 0.0)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def outcome(walk: Walk, base: Baseline) -> Outcome:
    """What a walk has come to so far; it needs a reference, and one record at least."""
    assert walk.reference is not None
    assert walk.state is not None
    settings = walk.settings
    measured = measure(walk.seen, settings, base, settings.start == "data")
    x = walk.state.x[: settings.chains].cpu()
    acceptances = [r.acceptance for r in walk.seen if r.acceptance is not None and r.step > measured.steps / 2]
    newest = walk.seen[-1].moment
    return Outcome(
        judgement=verdict(measured),
        measured=measured,
        baseline=base,
        likeness=walk.reference.likeness(x),
        final=walk.reference.compare(x) if newest is None else newest.distance,
        step_size=walk.kernel.step_size,
        acceptance=_mean(acceptances) if acceptances else None,
    )


def judge(
    model: Checkpoint,
    *,
    reference: Reference | None = None,
    features: Features | None = None,
    watch: Callable[[Record], None] = lambda record: None,
    **chosen: Any,
) -> Outcome:
    """Walk chains of a model and say whether its energy is a density of the data.

    Args:
        model: from `ebmcli.load`, or any `Checkpoint` that holds a potential and its settings.
        reference: the data's side, where several models share one; left out, the model's own data.
        features: of the distance, where the reference is made here.
        watch: called with each record.
        chosen: of `WalkSettings` (start, against, steps, chains, kernel, step_size, data, seed, …).

    Raises:
        EBMError: the data is not at hand.
        DivergedError: a chain left the finite numbers.
    """
    settings = WalkSettings.of(model, **chosen)
    reference = reference or reference_of(model, settings, features)
    base = baseline(model, reference, settings)
    walk = Walk(model, settings, reference)
    for record in walk.records():
        watch(record)
    return outcome(walk, base)

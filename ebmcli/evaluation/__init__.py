"""Is this energy a density of its data? Statistics of chains and images, distances to the data, a verdict."""

from ebmcli.evaluation.distance import Compared, Frechet, KernelDistance, Reference
from ebmcli.evaluation.features import Features, load_features
from ebmcli.evaluation.images import Likeness, Saturation
from ebmcli.evaluation.measure import Baseline, Outcome, baseline, judge, measure, outcome
from ebmcli.evaluation.mixing import Estimate, Mixing, memory, mixing, share_below
from ebmcli.evaluation.verdict import Judgement, Measured, Verdict, verdict
from ebmcli.evaluation.walk import Record, Walk, WalkSettings, reference_of

__all__ = [
    "Baseline",
    "Compared",
    "Estimate",
    "Features",
    "Frechet",
    "Judgement",
    "KernelDistance",
    "Likeness",
    "Measured",
    "Mixing",
    "Outcome",
    "Record",
    "Reference",
    "Saturation",
    "Verdict",
    "Walk",
    "WalkSettings",
    "baseline",
    "judge",
    "load_features",
    "measure",
    "memory",
    "mixing",
    "outcome",
    "reference_of",
    "share_below",
    "verdict",
]

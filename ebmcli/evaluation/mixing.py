"""Whether chains have mixed: R-hat, effective sample size, autocorrelation time, memory of the start."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


def mean_of(chains: Tensor) -> Estimate:
    """The mean over independent chains [n] and its standard error; the error of one chain is unknown (nan)."""
    chains = chains.double()
    error = float(chains.std()) / math.sqrt(len(chains)) if len(chains) > 1 else math.nan
    return Estimate(float(chains.mean()), error)


class Mixing(NamedTuple):
    """How well a quantity was seen by several chains."""

    rhat: float
    """rank-normalised split R-hat (Vehtari et al. 2021): 1 where chains agree; nan where nothing moves"""
    ess: float
    """effective sample size of all chains together, for the bulk of the distribution"""
    autocorrelation_time: float
    """in steps: how many of them make one independent draw; not below the spacing of the draws"""


def mixing(values: Tensor, spacing: float = 1.0) -> Mixing:
    """R-hat, ESS and autocorrelation time of one quantity.

    Args:
        values: [chains draws], at equal distances; two chains or more, four draws or more (else all nan).
        spacing: steps between two draws.
    """
    array = values.double().cpu().numpy()
    if array.shape[0] < 2 or array.shape[1] < 4 or not np.isfinite(array).all() or np.ptp(array) == 0:
        return Mixing(math.nan, math.nan, math.nan)
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    rhat = float(array_stats.rhat(array, method="rank", **axes))
    bulk = float(array_stats.ess(array, method="bulk", **axes))
    mean = float(array_stats.ess(array, method="mean", **axes))
    return Mixing(rhat, bulk, spacing * max(1.0, array.size / mean))


def memory(x: Tensor, start: Tensor) -> Tensor:
    """What each chain still knows of its start, [n]: 1 − ‖x_i − s_i‖² / mean over j ≠ i of ‖x_i − s_j‖².

    1 at the start, 0 on average once a chain is as far from its own start as from anyone's. It needs
    no scale and no threshold on distances.

    Args:
        x, start: [n …], n ≥ 2.
    """
    a, b = x.flatten(1).double(), start.flatten(1).double()
    # ‖a − b‖² by its parts: no [n n d] array
    squares = (a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * a @ b.T).clamp_min(0)
    own = (a - b).square().sum(1)
    others = (squares.sum(1) - squares.diagonal()) / (len(a) - 1)
    return 1 - own / others.clamp_min(torch.finfo(torch.float64).tiny)


def share_below(chains: Tensor, reference: Tensor) -> Tensor:
    """For each chain, in what share of pairs its value lies below a reference value (ties count half), [n].

    Averaged over chains it is the probability that a state of the chains has less energy than an
    image of the data: ½ where the distributions are the same, whatever their shape (Mann & Whitney 1947).

    Args:
        chains: [n draws].
        reference: [m].
    """
    ordered = reference.double().sort().values
    values = chains.double().contiguous()
    above = len(ordered) - torch.searchsorted(ordered, values, right=True)
    level = len(ordered) - torch.searchsorted(ordered, values, right=False) - above
    return ((above + 0.5 * level) / len(ordered)).mean(dim=1)

"""Sharing jobs among threads so that all end together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """What one thread does of a job: the stretch from `begin` to `end`, 0 to 1."""

    job: int
    begin: float
    end: float


def wrap(costs: Sequence[float], threads: int) -> list[list[Part]]:
    """Parts of jobs for each thread, in the order in which it does them: the wrap-around rule (McNaughton, 1959).

    A job that does not end in a thread's time is cut in two. The next thread begins with its first part, and this one
    ends with the second, which is never due before the first is done, since no job is longer than the time of all.

    Args:
        costs: time that each job takes, > 0.
        threads: ≥ 1.
    """
    time = max(sum(costs) / threads, *costs)
    shares: list[list[Part]] = [[]]
    used = 0.0
    for job, cost in enumerate(costs):
        left = max(0.0, time - used)
        if cost <= left * (1 + 1e-9) or len(shares) == threads:
            shares[-1].append(Part(job, 0.0, 1.0))
            used += cost
            continue
        cut = 1 - left / cost
        if cut < 1:
            shares[-1].append(Part(job, cut, 1.0))
        shares.append([Part(job, 0.0, cut)])
        used = cost * cut
    return shares

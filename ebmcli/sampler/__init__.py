"""Kernels (`init`, `step(state) -> state, info`), paths of many steps, and the gradient engine."""

from collections.abc import Callable
from typing import Any

from ebmcli.sampler.adapt import Adapted, adapt
from ebmcli.sampler.anneal import SCHEDULES, Annealed, Schedule
from ebmcli.sampler.hmc import HMC, HMCState, underdamped
from ebmcli.sampler.kernel import Info, Kernel, State, Target, changed
from ebmcli.sampler.langevin import Langevin, LangevinInfo, LangevinState
from ebmcli.sampler.magnetised import Magnetised
from ebmcli.sampler.mala import MALA
from ebmcli.sampler.metropolis import MetropolisInfo
from ebmcli.sampler.path import Path, run, sample

KERNELS: dict[str, Callable[..., Kernel[Any]]] = {
    "langevin": Langevin,
    "mala": MALA,
    "hmc": HMC,
    "underdamped": underdamped,
}
"""By name: each takes a target, a step size, `temperature`, and settings of its own."""

__all__ = [
    "HMC",
    "KERNELS",
    "MALA",
    "SCHEDULES",
    "Adapted",
    "Annealed",
    "HMCState",
    "Info",
    "Kernel",
    "Langevin",
    "LangevinInfo",
    "LangevinState",
    "Magnetised",
    "MetropolisInfo",
    "Path",
    "Schedule",
    "State",
    "Target",
    "adapt",
    "changed",
    "run",
    "sample",
    "underdamped",
]

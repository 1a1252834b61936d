"""Before a training: settings that contradict what the paper found, with the reason and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ebmcli.data.toys import TOYS
from ebmcli.recipe import Recipe

SHORTEST = 100
"""L below which learning from noise was seen to explode (§3.3: any L ≥ 100 does)."""
CONVERGED = 20_000
"""L with which learning from noise is convergent (§4.3)."""
FAR_UNDER = 0.5
"""Share of that which is far under it."""
COARSE, FINE = 1.0, 0.1
"""ε as a share of the data's most constrained sd: beyond the first chains cannot follow it, below the second noise
is too low to be balanced, and learning contracts or only learns the way (§3.2; ε is to match that sd, §3.3)."""


class Concern(NamedTuple):
    """A setting that contradicts the paper."""

    key: str
    reason: str
    change: str

    def line(self) -> str:
        """As one line of text."""
        return f"{self.key}: {self.reason}; {self.change}"


def concerns(recipe: Recipe, local_sd: float | None = None) -> list[Concern]:
    """What to think about before this recipe is learned; empty where nothing is.

    Args:
        local_sd: the data's standard deviation in its most constrained local direction, without ε_data, pixel
            units; None where it is not known (a toy's is).
    """
    toy = TOYS.get(recipe.data.source)
    known = getattr(toy, "sd", local_sd)
    return [c for check in _CHECKS for c in check(recipe, known)]


Check = Callable[[Recipe, float | None], Iterator[Concern]]


def _data_noise(r: Recipe, sd: float | None) -> Iterator[Concern]:
    images = r.data.source not in TOYS
    if _convergent(r) and images and r.mcmc.noise and r.data.noise_std < r.mcmc.step_size:
        yield Concern(
            "data.noise_std",
            f"{r.data.noise_std:g} is less than ε = {r.mcmc.step_size:g}, and where pixels hardly vary chains cannot "
            "become as sharp as the data",
            f"set it to 2ε = {2 * r.mcmc.step_size:g}",
        )


def _long_enough(r: Recipe, sd: float | None) -> Iterator[Concern]:
    if _from_noise(r) and r.mcmc.steps < SHORTEST:
        yield Concern(
            "mcmc.steps",
            f"with L = {r.mcmc.steps} from noise each step must be longer than the energy's curvature allows, and "
            "learning may explode (paper: L ≥ 100)",
            f"set it to {SHORTEST} or more",
        )


def _noise_does_not_converge(r: Recipe, sd: float | None) -> Iterator[Concern]:
    if _convergent(r) and _from_noise(r) and r.mcmc.steps < FAR_UNDER * CONVERGED:
        yield Concern(
            "mcmc.init",
            f"chains of L = {r.mcmc.steps} from noise learn the way to the data, not its density (paper: convergent "
            "learning from noise takes L ≈ 20,000)",
            'set it to "persistent" with a mcmc.bank_size, or recipe.regime to "non-convergent"',
        )


def _informative_start(r: Recipe, sd: float | None) -> Iterator[Concern]:
    if not r.mcmc.noise and not _from_noise(r):
        yield Concern(
            "mcmc.noise",
            f"without noise, chains from {r.mcmc.init} go below the data at once, and learning contracts to a flat "
            "energy (paper, Fig. 5)",
            "set it to 1",
        )
    elif _convergent(r) and not r.mcmc.noise:
        yield Concern("mcmc.noise", "chains without noise have no density to converge to", "set it to 1")


def _ends_with_adam(r: Recipe, sd: float | None) -> Iterator[Concern]:
    last = [p for p in r.optimizer.schedule().phases if p.from_update <= r.train.updates][-1]
    if _convergent(r) and last.name == "adam":
        yield Concern(
            "optimizer.name",
            "Adam to the end interferes with learning a realistic steady state (paper, §3.3)",
            'add a stage of SGD at the end: [[optimizer.stages]] with from_update, name = "sgd", learning_rate',
        )


def _step_fits_the_data(r: Recipe, sd: float | None) -> Iterator[Concern]:
    if sd is None or not r.mcmc.noise or not _convergent(r):
        return
    width = math.hypot(sd, r.data.noise_std)
    ratio = r.mcmc.step_size / width if width else math.inf
    about = f"ε = {r.mcmc.step_size:g} is {ratio:.2g} times the data's most constrained local sd, {width:.2g}"
    if ratio > COARSE:
        yield Concern("mcmc.step_size", f"{about}: chains cannot follow it", f"set it to about {width / 2:.2g}")
    elif ratio < FINE:
        why = "noise is too low to be balanced, and learning contracts or learns the way alone"
        yield Concern("mcmc.step_size", f"{about}: {why}", f"set it to about {width / 2:.2g}")


_CHECKS: tuple[Check, ...] = (
    _data_noise,
    _long_enough,
    _noise_does_not_converge,
    _informative_start,
    _ends_with_adam,
    _step_fits_the_data,
)


def _convergent(r: Recipe) -> bool:
    return r.recipe.regime == "convergent"


def _from_noise(r: Recipe) -> bool:
    return r.mcmc.init in ("uniform", "gaussian")

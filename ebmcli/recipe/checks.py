"""Checks that look at several values of a recipe at once.

They work on plain values under dotted keys, and each runs when the values it looks at are valid by
themselves: so they are reported along with mistakes in other places, not after those are mended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

TOYS = ("gmm", "rings")
SMALLEST_IMAGE = 8
_ADAM_BETAS = (0.9, 0.999)


class Mistake(NamedTuple):
    """One thing wrong: the dotted key, its value (None: not given), and what is expected."""

    key: str
    value: Any
    expected: str

    def line(self) -> str:
        """The mistake as one line of text."""
        given = " is missing" if self.value is None else f" = {shown(self.value)}"
        return f"{self.key}{given}: {self.expected}"


def shown(value: Any) -> str:
    """A value as TOML writes it, cut to a readable length."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


Found = Iterator[Mistake]
_CHECKS: list[tuple[tuple[str, ...], Callable[..., Found]]] = []


def _check(*keys: str) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Register a check of the values under `keys`, which it gets in that order."""

    def register(function: Callable[..., Found]) -> Callable[..., Found]:
        _CHECKS.append((keys, function))
        return function

    return register


def flatten(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """{"mcmc": {"steps": 1}} -> {"mcmc.steps": 1}; values that are no tables are left out."""
    return {
        f"{section}.{key}": value
        for section, table in resolved.items()
        if isinstance(table, Mapping)
        for key, value in table.items()
    }


def find_all(values: Mapping[str, Any]) -> list[Mistake]:
    """Run the checks whose keys are all in `values`: leave out what is invalid by itself."""
    found: list[Mistake] = []
    for keys, function in _CHECKS:
        if all(key in values for key in keys):
            found.extend(function(*(values[key] for key in keys)))
    return found


def fill_stages(base: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The optimiser's settings in each stretch: those from update 1 on, then one for each stage."""
    filled = [{**base, "from_update": 1}]
    for stage in stages:
        filled.append({**filled[-1], **{key: value for key, value in stage.items() if value is not None}})
    return filled


@_check("data.source", "data.image_size", "data.channels", "data.crop", "data.augment")
def _toys_are_points(source: str, size: int, channels: int, crop: int | None, augment: str) -> Found:
    if source not in TOYS:
        return
    if size != 1:
        yield Mistake("data.image_size", size, f"expected 1, for {source} is a density of points")
    if channels != 2:
        yield Mistake("data.channels", channels, f"expected 2, the coordinates of a point of {source}")
    if crop is not None:
        yield Mistake("data.crop", crop, f"expected none, for {source} has no pixels")
    if augment != "none":
        yield Mistake("data.augment", augment, f'expected "none", for {source} has no pixels')


@_check("potential.network", "data.source", "data.image_size")
def _network_fits(network: str, source: str, size: int) -> Found:
    if network in ("vanilla", "nonlocal"):
        if source in TOYS:
            yield Mistake("potential.network", network, f'expected "toy" or a factory for {source}')
        elif size < SMALLEST_IMAGE:
            expected = f"expected {SMALLEST_IMAGE} or more for network {network}"
            yield Mistake("data.image_size", size, expected)
    elif network == "toy" and source not in TOYS and size != 1:
        expected = 'expected "vanilla", "nonlocal" or a factory for images of more than one pixel'
        yield Mistake("potential.network", network, expected)


@_check("potential.space_to_depth", "potential.network", "data.image_size")
def _folding_fits(fold: bool, network: str, size: int) -> Found:
    if fold and network in ("toy", "nonlocal"):
        yield Mistake("potential.space_to_depth", fold, f"expected false, for network {network} has none")
    elif fold and size % 2:
        yield Mistake("potential.space_to_depth", fold, f"expected an even data.image_size, which is {size}")


@_check("mcmc.init", "mcmc.bank_size")
def _bank_has_a_size(init: str, bank_size: int | None) -> Found:
    if init == "persistent" and bank_size is None:
        yield Mistake("mcmc.bank_size", None, 'expected a whole number of chains with init = "persistent"')
    if init != "persistent" and bank_size is not None:
        yield Mistake("mcmc.bank_size", bank_size, f'belongs to init = "persistent", which is {shown(init)}')


@_check("mcmc.init", "mcmc.bank_init")
def _bank_starts(init: str, bank_init: str) -> Found:
    if init != "persistent" and bank_init != "uniform":
        yield Mistake("mcmc.bank_init", bank_init, f'belongs to init = "persistent", which is {shown(init)}')


@_check("mcmc.init", "mcmc.rejuvenation")
def _bank_is_rejuvenated(init: str, rejuvenation: float) -> Found:
    if init != "persistent" and rejuvenation > 0:
        expected = f'expected 0 without init = "persistent", which is {shown(init)}'
        yield Mistake("mcmc.rejuvenation", rejuvenation, expected)


@_check("mcmc.init", "mcmc.bank_size", "train.negatives")
def _bank_holds_a_batch(init: str, bank_size: int | None, negatives: int) -> Found:
    if init == "persistent" and bank_size is not None and bank_size < negatives:
        expected = f"expected train.negatives ({negatives}) or more: one update draws that many chains"
        yield Mistake("mcmc.bank_size", bank_size, expected)


@_check("train.precision", "recipe.regime")
def _densities_are_learned_in_float32(precision: str, regime: str) -> Found:
    if precision != "float32" and regime == "convergent":
        expected = 'expected "float32": chains that must converge to a density cannot stand less'
        yield Mistake("train.precision", precision, expected)


@_check("longrun.init", "mcmc.init")
def _longrun_starts(longrun_init: str, init: str) -> Found:
    if longrun_init == "persistent" and init != "persistent":
        yield Mistake("longrun.init", longrun_init, f'needs mcmc.init = "persistent", which is {shown(init)}')


@_check("longrun.every", "longrun.step_size", "mcmc.noise")
def _longrun_has_a_step(every: int, step_size: float | None, noise: int) -> Found:
    if every and noise == 0 and step_size is None:
        expected = "expected a number > 0: long runs have noise, and mcmc.step_size is meant for none"
        yield Mistake("longrun.step_size", None, expected)


def _betas_differ(betas: Sequence[float] | None) -> bool:
    return betas is not None and tuple(betas) != _ADAM_BETAS


@_check("optimizer.learning_rate", "optimizer.minimum")
def _floor_is_below(rate: float, minimum: float) -> Found:
    if minimum > rate:
        expected = f"expected at most optimizer.learning_rate ({rate})"
        yield Mistake("optimizer.minimum", minimum, expected)


@_check("optimizer.name", "optimizer.momentum")
def _momentum_is_of_sgd(name: str, momentum: float) -> Found:
    if name == "adam" and momentum:
        yield Mistake("optimizer.momentum", momentum, "belongs to sgd; with adam use betas")


@_check("optimizer.name", "optimizer.betas")
def _betas_are_of_adam(name: str, betas: Sequence[float]) -> Found:
    if name == "sgd" and _betas_differ(betas):
        yield Mistake("optimizer.betas", betas, "belongs to adam; with sgd use momentum")


@_check(
    "optimizer.stages",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.minimum",
)
def _stages_follow(stages: Sequence[Mapping[str, Any]], name: str, rate: float, minimum: float) -> Found:
    filled = fill_stages({"name": name, "learning_rate": rate, "minimum": minimum}, stages)
    for i, stage in enumerate(stages):
        where = f"optimizer.stages[{i}]"
        before, now = filled[i], filled[i + 1]
        if now["from_update"] <= before["from_update"]:
            expected = f"expected more than {before['from_update']}, where the stage before it starts"
            yield Mistake(f"{where}.from_update", now["from_update"], expected)
        switched = now["name"] != before["name"]
        if switched and stage.get("learning_rate") is None:
            expected = f"expected a number > 0, for the stage changes {before['name']} to {now['name']}"
            yield Mistake(f"{where}.learning_rate", None, expected)
        elif now["minimum"] > now["learning_rate"] and stage.get("minimum") is not None:
            expected = f"expected at most the stage's learning_rate ({now['learning_rate']})"
            yield Mistake(f"{where}.minimum", now["minimum"], expected)
        elif now["minimum"] > now["learning_rate"] and stage.get("learning_rate") is not None:
            expected = f"expected at least minimum, which is {now['minimum']} from before"
            yield Mistake(f"{where}.learning_rate", now["learning_rate"], expected)
        if now["name"] == "adam" and stage.get("momentum"):
            yield Mistake(f"{where}.momentum", stage["momentum"], "belongs to sgd; with adam use betas")
        if now["name"] == "sgd" and _betas_differ(stage.get("betas")):
            yield Mistake(f"{where}.betas", stage["betas"], "belongs to adam; with sgd use momentum")

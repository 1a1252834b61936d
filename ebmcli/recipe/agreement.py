"""Whether a checkpoint's settings and the recipe in it say the same (floor 2; no torch)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ebmcli.recipe.checks import flatten, shown
from ebmcli.storage.reading import parse_toml

_PLACES = {
    "network": "potential.network",
    "arguments.width": "potential.width",
    "arguments.leak": "potential.leak",
    "arguments.space_to_depth": "potential.space_to_depth",
    "image_size": "data.image_size",
    "channels": "data.channels",
    "crop": "data.crop",
    "data_noise": "data.noise_std",
    "init": "mcmc.init",
    "init_scale": "mcmc.init_scale",
    "steps": "mcmc.steps",
    "step_size": "mcmc.step_size",
    "noise": "mcmc.noise",
    "temperature": "mcmc.temperature",
    "energy_scale": "potential.energy_scale",
    "regime": "recipe.regime",
}
"""Where a recipe states what a checkpoint's settings state under another name."""

CLOSE = 1e-6
"""Relative difference of two numbers up to which they are the same."""


class Contradiction(NamedTuple):
    """One thing that settings and recipe both state, and state differently."""

    key: str
    """of the settings"""
    settings: Any
    recipe: Any

    def line(self) -> str:
        """As a part of one line of text."""
        return f"{self.key} is {shown(self.settings)} in its settings and {shown(self.recipe)} in its recipe"


def contradictions(settings: Mapping[str, Any], recipe: str) -> list[Contradiction]:
    """What a checkpoint's settings and the text of its recipe state differently; empty where they agree.

    Only what both state counts: a model may come without a recipe, and a recipe of an older version may leave things
    out. A text that is no TOML states nothing.

    Args:
        settings: of a `ModelConfig`, as plain values.
        recipe: TOML.
    """
    try:
        stated = flatten(parse_toml(recipe))
    except ValueError:
        return []
    return list(_differing(settings, {**stated, **_scale(stated)}))


def _differing(settings: Mapping[str, Any], stated: Mapping[str, Any]) -> Iterator[Contradiction]:
    arguments = settings.get("arguments") or {}
    mine = {**settings, **{f"arguments.{key}": value for key, value in arguments.items()}}
    for key, place in _PLACES.items():
        if mine.get(key) is not None and place in stated and not _same(mine[key], stated[place]):
            yield Contradiction(key, mine[key], stated[place])


def _scale(stated: Mapping[str, Any]) -> dict[str, float]:
    """The recipe's energy scale as a number: 2/ε² (Eq. 11), 1 (Eq. 2), or as given."""
    words = {"unit": 1.0}
    step = stated.get("mcmc.step_size")
    if isinstance(step, float | int) and step:
        words["langevin"] = 2 / step**2
    scale = stated.get("potential.energy_scale")
    return {"potential.energy_scale": words[scale]} if isinstance(scale, str) and scale in words else {}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=CLOSE)
    return bool(a == b)

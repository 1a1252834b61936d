"""Recipes: every setting of one training, in a TOML file (floor 2; no torch).

`load` takes a path or the name of a recipe that comes with the package, `loads` takes TOML text; both
report all mistakes at once. A `Recipe` is frozen; `Recipe.dumps` writes it out with every value spelled
out, `Recipe.hash` names its settings in twelve characters.
"""

from __future__ import annotations

from ebmcli.recipe.files import find, load, loads, names, path_of, read
from ebmcli.recipe.sections import (
    About,
    DataSettings,
    GuardSettings,
    LogSettings,
    LongrunSettings,
    MCMCSettings,
    OptimizerSettings,
    Phase,
    PotentialSettings,
    Recipe,
    Stage,
    TrainSettings,
)

__all__ = [
    "About",
    "DataSettings",
    "GuardSettings",
    "LogSettings",
    "LongrunSettings",
    "MCMCSettings",
    "OptimizerSettings",
    "Phase",
    "PotentialSettings",
    "Recipe",
    "Stage",
    "TrainSettings",
    "find",
    "load",
    "loads",
    "names",
    "path_of",
    "read",
]

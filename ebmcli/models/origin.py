"""Whose a recipe is: written by the user, or received with a model or a run (floor 2; no torch).

A recipe may name code as its network. The user's own recipe is one that stands alone in a file and is named by that
file's path; naming it is as good as naming the code in it. A recipe out of the folder of a model, a run, a sweep or
a long run may be anybody's, so its code is imported only where the user allows that in this very command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebmcli.consent import is_code
from ebmcli.errors import ConsentError, EBMError
from ebmcli.recipe.agreement import contradictions
from ebmcli.recipe.files import read
from ebmcli.recipe.sections import Recipe
from ebmcli.storage.paths import typed_path

MARKS = ("model.safetensors", "run.json", "sweep.json", "longrun.json")
"""Files that make a folder one of a model, a run, a sweep or a long run; what lies in it, however deep, came along."""

NETWORK = "potential.network"


def received(address: str | Path) -> str:
    """Why the recipe at `address` is not the user's own file; empty where it is."""
    path = typed_path(address)
    if path.suffix != ".toml" or not path.is_file():
        return "only a recipe file that you name by its own path, ending in .toml, counts as yours"
    for folder in path.resolve().parents:
        for mark in MARKS:
            if (folder / mark).is_file():
                return f"it may have come with {folder / mark}"
    return ""


def may_import(recipe: Recipe, address: str | Path, trusted: bool, overrides: Sequence[str] = ()) -> bool:
    """Whether the network of a recipe may be imported; False where it names no code at all.

    Args:
        recipe: what was read at `address`.
        address: as the user gave it, or the folder of a run that goes on.
        trusted: whether the user has allowed code in this very command.
        overrides: `key=value`; code that is named there was named by the user.

    Raises:
        ConsentError: it names code, and neither is it the user's own nor has the user allowed it.
        EBMError: it names code, and the settings of the model beside it say otherwise.
    """
    name = recipe.potential.network
    if not is_code(name) or any(item.partition("=")[0].strip() == NETWORK for item in overrides):
        return is_code(name)
    foreign = received(address)
    if foreign and not trusted:
        raise ConsentError(
            f"recipe {address} names code to run as its network ({name}), which is not done unasked: {foreign}"
        )
    _check_beside(typed_path(address))
    return True


def _check_beside(folder: Path) -> None:
    """Hold the recipe of a folder against the settings of the model in it, where there is one."""
    from ebmcli.models.checkpoint import FILE, settings_of

    if not (folder / FILE).is_file():
        return
    found = contradictions(settings_of(folder / FILE).model_dump(), read(folder))
    if found:
        raise EBMError(f"the recipe in {folder} is not that of its {FILE}: {found[0].line()}", "get the folder again")

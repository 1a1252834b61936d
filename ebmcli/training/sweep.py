"""A grid of runs: which there are, how far each has come, and what r came to in all of them (Fig. 5)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ebmcli.errors import EBMError, UsageError
from ebmcli.media import plots
from ebmcli.models.origin import may_import
from ebmcli.recipe import Recipe
from ebmcli.recipe import load as load_recipe
from ebmcli.storage.files import write_whole, writing
from ebmcli.storage.locks import LOCK, hold
from ebmcli.storage.seals import dumps, read_sealed
from ebmcli.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS = "sweep.json"
SETTLED = 0.2
"""The last share of a run's records that its numbers are taken over."""
BANK = 10
"""Chains of a bank for each negative, where a grid takes a recipe without one to persistent chains."""


class Axis(NamedTuple):
    """One setting and the values it takes."""

    key: str
    values: tuple[str, ...]


class Cell(NamedTuple):
    """One run of the grid."""

    values: tuple[str, ...]
    """one of each axis"""
    folder: Path
    overrides: tuple[str, ...]


class Outcome(NamedTuple):
    """What a cell came to: means over the last fifth of its records."""

    values: tuple[str, ...]
    state: str
    """`done`, `begun`, `diverged` or `not begun`"""
    updates: int
    displacement: float
    """r, pixel units"""
    burn_in_distance: float
    """R, pixel units"""
    steps: int
    """L"""
    step_size: float
    """ε, pixel units"""
    noise_step: float
    """τ·ε·√D: what noise alone moves a chain in a step"""
    straightness: float
    energy_difference: float
    gradient_magnitude: float
    rollbacks: int


def axes_of(over: Sequence[str]) -> tuple[Axis, ...]:
    """`key=a,b,c` as axes; a comma within brackets does not part values.

    Raises:
        UsageError: an entry is of another form, or a key comes twice.
    """
    axes = []
    for text in over:
        key, equals, values = (part.strip() for part in text.partition("="))
        found = tuple(dict.fromkeys(filter(None, (v.strip() for v in _split(values)))))
        if not equals or "." not in key or not found:
            raise UsageError(f"`over` {text!r}: expected key=a,b,c", "such as `over` mcmc.steps=50,100,200")
        axes.append(Axis(key, found))
    twice = [a.key for a in axes if sum(b.key == a.key for b in axes) > 1]
    if twice:
        raise UsageError(f"`over` {twice[0]} is given twice", "one `over` with all values")
    return tuple(axes)


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def cells(folder: Path, recipe: str, axes: Sequence[Axis], overrides: Sequence[str] = ()) -> list[Cell]:
    """All combinations, each checked as a recipe before any is run.

    A bank belongs to persistent chains only: it is left out, or made, as a cell's init wants it.

    Raises:
        UsageError: a combination is no valid recipe.
    """
    base = load_recipe(recipe, [o for o in overrides if not _is_swept(o, axes)])
    found = []
    for values in itertools.product(*(axis.values for axis in axes)):
        own = [*overrides, *(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))]
        init = dict(zip((a.key for a in axes), values, strict=True)).get("mcmc.init", base.mcmc.init)
        if init != "persistent":
            own += ["mcmc.bank_size=", "mcmc.bank_init=", "mcmc.rejuvenation="]
        elif base.mcmc.bank_size is None and not any(o.startswith("mcmc.bank_size") for o in own):
            own += [f"mcmc.bank_size={BANK * base.train.negatives}"]
        name = "_".join(f"{axis.key.partition('.')[2]}-{v}" for axis, v in zip(axes, values, strict=True))
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
        load_recipe(recipe, own)
        found.append(Cell(values, folder / safe, tuple(own)))
    if len({cell.folder for cell in found}) < len(found):
        raise UsageError("two cells would have the same name", "write values that differ in letters and digits")
    return found


def _is_swept(override: str, axes: Sequence[Axis]) -> bool:
    return override.partition("=")[0].strip() in {axis.key for axis in axes}


def check_consent(waiting: Sequence[Cell], recipe: str, trusted: bool) -> None:
    """Nothing, if the learners of these cells may import all code that their recipes name.

    A recipe file of the user's own needs no more; a cell that was begun has its recipe in the sweep's folder, which
    may come from anywhere.

    Raises:
        ConsentError: they may not, and not `trusted`.
    """
    for cell in waiting:
        if (cell.folder / "run.json").is_file():
            may_import(load_recipe(cell.folder), cell.folder, trusted)
        else:
            may_import(load_recipe(recipe, cell.overrides), recipe, trusted, cell.overrides)


def begin(
    folder: Path, recipe: str, axes: Sequence[Axis], overrides: Sequence[str], data: str | None
) -> IO[str] | None:
    """Write what the sweep is, or check that the folder holds the same one.

    Returns:
        the lock: the folder is this process's as long as it lives.

    Raises:
        EBMError: it holds another sweep, or something else; another process is at work in it; it cannot be written.
    """
    facts = {
        "recipe": recipe,
        "over": [[a.key, *a.values] for a in axes],
        "set": list(overrides),
        "data": data,
    }
    path = folder / FACTS
    if folder.exists() and not folder.is_dir():
        raise EBMError(f"{folder} is a file, and a sweep gets a folder of its own", "choose another `out`")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [p for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(f".{FACTS}.")]
    if strangers and not path.is_file():
        raise EBMError(f"{folder} is not empty, and holds no sweep", "choose another `out`")
    lock = hold(folder)
    if not path.is_file():
        write_whole(path, dumps(facts))
        return lock
    there = read_sealed(path, dict[str, Any])
    if there != facts:
        raise EBMError(
            f"{folder} holds another sweep: {there.get('recipe')} over {there.get('over')}", "choose another `out`"
        )
    return lock


def state_of(folder: Path) -> tuple[str, int]:
    """How far a cell is, and its updates."""
    if not (folder / "run.json").is_file():
        return "not begun", 0
    run = Run.open(folder)
    total = load_recipe(run.recipe_path).train.updates
    done = run.checkpoints()[-1].update if run.checkpoints() else 0
    if done >= total:
        return "done", done
    return ("diverged" if run.facts.get("ended") == "diverged" else "begun"), done


def outcome(cell: Cell) -> Outcome:
    """A cell's numbers; nan where it has none yet."""
    state, updates = state_of(cell.folder)
    records: list[Mapping[str, Any]] = []
    recipe: Recipe | None = None
    if state != "not begun":
        run = Run.open(cell.folder)
        records = list(run.metrics())
        recipe = load_recipe(run.recipe_path)
    last = records[-max(1, round(len(records) * SETTLED)) :]

    def mean(key: str) -> float:
        return statistics.fmean(r.get(key, math.nan) for r in last) if last else math.nan

    pixels = recipe.data.channels * recipe.data.image_size**2 if recipe else 0
    return Outcome(
        values=cell.values,
        state=state,
        updates=updates,
        displacement=mean("displacement"),
        burn_in_distance=mean("burn_in_distance"),
        steps=recipe.mcmc.steps if recipe else 0,
        step_size=recipe.mcmc.step_size if recipe else math.nan,
        noise_step=recipe.mcmc.noise * recipe.mcmc.step_size * math.sqrt(pixels) if recipe else math.nan,
        straightness=mean("straightness"),
        energy_difference=mean("energy_difference"),
        gradient_magnitude=mean("gradient_magnitude"),
        rollbacks=sum(bool(r.get("rolled_back")) for r in records),
    )


@contextmanager
def draw(axes: Sequence[Axis], outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    """r over the numeric axis with most values, a panel for each init (or other words), a curve for the rest (Fig. 5).

    Dashed: R/L, which r balances where noise is low and chains start from noise; dotted: ε√D, the noise of a step.
    """
    across = max(
        range(len(axes)), key=lambda i: (axes[i].key == "mcmc.step_size", _numeric(axes[i]), len(axes[i].values))
    )
    rest = [i for i in range(len(axes)) if i != across]
    apart = next(
        (i for i in rest if axes[i].key == "mcmc.init"), next((i for i in rest if not _numeric(axes[i])), None)
    )
    curves = [i for i in rest if i != apart]
    panels = axes[apart].values if apart is not None else ("",)
    known = [o for o in outcomes if o.displacement > 0]
    with plots.figure(1.2 + 3.6 * len(panels), 3.9, columns=len(panels), sharey=True, squeeze=False) as (fig, axes_):
        for place, panel in zip(axes_[0], panels, strict=True):
            here = [o for o in known if apart is None or o.values[apart] == panel]
            names = list(dict.fromkeys(tuple(o.values[i] for i in curves) for o in here))
            for number, name in enumerate(names):
                line = [o for o in here if tuple(o.values[i] for i in curves) == name]
                at = [_at(o.values[across], k) for k, o in enumerate(line)]
                colour = plots.COLOURS[number % len(plots.COLOURS)]
                label = ", ".join(f"{axes[i].key.partition('.')[2]} {v}" for i, v in zip(curves, name, strict=True))
                place.plot(at, [o.displacement for o in line], "o-", color=colour, markersize=4, label=label or "r")
                way = [o.burn_in_distance / o.steps for o in line]
                place.plot(at, way, "--", color=colour, linewidth=0.9, label="R/L" if number == 0 else None)
            if here:
                noise = sorted({(_at(o.values[across], k), o.noise_step) for k, o in enumerate(here)})
                if axes[across].key == "mcmc.step_size":
                    place.plot(*zip(*noise, strict=True), ":", color=plots.FAINT, label="ε√D")
            place.set_yscale("log")
            if _numeric(axes[across]):
                place.set_xscale("log")
                place.set_xticks([float(v) for v in axes[across].values], labels=axes[across].values)
                place.set_xticks([], minor=True)
            place.set_xlabel(axes[across].key)
            place.set_title(f"{axes[apart].key.partition('.')[2]} {panel}" if apart is not None else "")
        axes_[0][0].set_ylabel("displacement r, pixel units")
        axes_[0][0].legend(loc="best")
        yield fig


def _numeric(axis: Axis) -> bool:
    try:
        return all(float(v) > 0 for v in axis.values)
    except ValueError:
        return False


def _at(value: str, index: int) -> float:
    try:
        return float(value)
    except ValueError:
        return float(index)

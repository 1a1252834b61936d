"""`ebm recipe`: list, show, copy and check recipes, and print their format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ebmcli import recipe as recipes
from ebmcli.errors import UsageError
from ebmcli.recipe import cost
from ebmcli.recipe.checks import shown
from ebmcli.storage.files import write_whole

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="List, show, copy and check recipes.")

Address = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, a path, or a run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.updates=100; repeatable."),
]


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes that come with the package; the cost is an estimate for this machine's CPU.

    A star: a model that comes with the package was learned with the recipe (--json has its name).
    """
    came = _bundled()
    rows = [_summary(recipes.load(name)) | {"model": came.get(name)} for name in recipes.names()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    columns = ("name", "regime", "data", "size", "cost")
    table = [["NAME (* WITH A MODEL)", *(column.upper() for column in columns[1:])]]
    for row in rows:
        marked = f"{row['name']} *" if row["model"] else row["name"]
        table.append([marked, row["regime"], row["data"].rpartition("/")[2], row["size"], row["cost"]])
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = [
            cell.rjust(width) if column == "cost" else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


@app.command("show")
def show(
    address: Address,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every value spelled out, defaults too, without comments.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Print a recipe as it was written, or with every value spelled out."""
    if resolved or overrides:
        sys.stdout.write(recipes.load(address, overrides or ()).dumps())
    else:
        sys.stdout.write(recipes.read(address))


@app.command("copy")
def copy(
    address: Address,
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="File or folder; ./NAME.toml if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Copy a recipe, comments and all, to a file of your own to change."""
    source, text = recipes.find(address), recipes.read(address)
    target = destination or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists():
        if target.samefile(source):
            raise UsageError(f"{target} is the recipe itself", "name another file")
        if not force:
            raise UsageError(f"{target} is there already", "--force writes over it")
    write_whole(target, text)
    print(target)


@app.command("check")
def check(address: Address, overrides: Overrides = None, as_json: Json = False) -> None:
    """Name every mistake of a recipe (exit 2), or say that it is in order."""
    try:
        recipe = recipes.load(address, overrides or ())
    except UsageError as error:
        if as_json:
            fault = {"ok": False, "error": error.message, "mistakes": list(error.details)}
            print(json.dumps(fault, indent=2, ensure_ascii=False))
        raise
    if as_json:
        print(json.dumps({"ok": True, "hash": recipe.hash(), **_summary(recipe)}, indent=2))
    else:
        print(f"{recipe.recipe.name} is in order; settings {recipe.hash()}")


@app.command("diff")
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="Name of a recipe, a path, or a run folder.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    as_json: Json = False,
) -> None:
    """Name the settings in which two recipes differ; of names, notes and provenance there is nothing to say."""
    a, b = (_flat(recipes.load(address).resolved()) for address in (one, other))
    changed = {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}
    if as_json:
        print(json.dumps({key: list(pair) for key, pair in changed.items()}, indent=2, ensure_ascii=False))
        return
    if not changed:
        print("the settings are the same")
        return
    rows: list[tuple[str, ...]] = [("", one, other)]
    rows += [(key, *("-" if value is None else shown(value) for value in pair)) for key, pair in changed.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes: every key, its unit, its range."""
    print(json.dumps(recipes.Recipe.json_schema(), indent=2, ensure_ascii=False))


def _flat(resolved: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings under dotted keys; what does not count for learning is left out."""
    found: dict[str, Any] = {}
    for key, value in resolved.items():
        path = f"{prefix}{key}"
        if path in ("provenance", "recipe.name", "recipe.notes", "recipe.source", "schema"):
            continue
        if isinstance(value, dict):
            found |= _flat(value, f"{path}.")
        elif key == "stages":
            for i, stage in enumerate(value):
                found |= _flat({k: v for k, v in stage.items() if v is not None}, f"{path}[{i}].")
        else:
            found[path] = value
    return found


def _bundled() -> dict[str, str]:
    """Names of recipes, and of the model of the package that came from each."""
    import tomllib

    models = Path(__file__).resolve().parents[1] / "assets" / "models"
    found = {}
    for path in sorted(models.glob("*/recipe.toml")):
        found[tomllib.loads(path.read_text(encoding="utf-8"))["recipe"]["name"]] = path.parent.name
    return found


def _summary(recipe: recipes.Recipe) -> dict[str, Any]:
    """What a list says of a recipe."""
    side = recipe.data.image_size
    points = side == 1
    return {
        "name": recipe.recipe.name,
        "regime": recipe.recipe.regime,
        "source": recipe.recipe.source,
        "data": recipe.data.source,
        "size": f"{recipe.data.channels}-D" if points else f"{side}×{side}×{recipe.data.channels}",
        "network": recipe.potential.network,
        "width": recipe.potential.width,
        "steps": recipe.mcmc.steps,
        "updates": recipe.train.updates,
        "cost": cost.in_words(cost.seconds(recipe)),
    }

"""`ebm recipe`: list, show, copy and check recipes, and print their format."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ebmcli import recipe as recipes
from ebmcli.errors import EBMError, UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="List, show, copy and check recipes.")

Address = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, a path, or a run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.updates=100; repeatable."),
]


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes that come with the package."""
    rows = [_summary(recipes.load(name)) for name in recipes.names()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    columns = ("name", "regime", "size", "steps", "updates", "source")
    table = [[column.upper() for column in columns]]
    table += [[str(row[column]).removesuffix("-code") for column in columns] for row in rows]  # 80 columns are full
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        cells = [
            cell.rjust(width) if column in ("steps", "updates") else cell.ljust(width)
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
    temporary = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EBMError(f"{target} cannot be written: {error.strerror}", "name another place") from error
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


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes: every key, its unit, its range."""
    print(json.dumps(recipes.Recipe.json_schema(), indent=2, ensure_ascii=False))


def _summary(recipe: recipes.Recipe) -> dict[str, str | int]:
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
    }

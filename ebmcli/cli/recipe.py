"""`ebm recipe`: list, show, copy and check recipes, and print their format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ebmcli import recipe as recipes
from ebmcli.cli._output import Output
from ebmcli.errors import UsageError
from ebmcli.recipe.checks import shown
from ebmcli.storage.files import write_whole
from ebmcli.training import cost

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
    wide = max((len(row["cost"]) for row in rows), default=0)
    output = Output(json=as_json)
    output.table(
        [
            (
                f"{row['name']} *" if row["model"] else row["name"],
                row["regime"],
                row["data"].rpartition("/")[2],
                row["size"],
                row["cost"].rjust(wide),
            )
            for row in rows
        ],
        ("NAME (* WITH A MODEL)", "REGIME", "DATA", "SIZE", "COST".rjust(wide)),
    )
    output.result(rows)


@app.command("show")
def show(
    address: Address,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every value spelled out, defaults too, without comments.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Print a recipe as it was written, or with every value spelled out."""
    text = recipes.load(address, overrides or ()).dumps() if resolved or overrides else recipes.read(address)
    Output().document(text)


@app.command("copy")
def copy(
    address: Address,
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="File or folder; ./NAME.toml if left out.")
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
    Output().data(str(target))


@app.command("check")
def check(address: Address, overrides: Overrides = None, as_json: Json = False) -> None:
    """Name every mistake of a recipe (exit 2), or say that it is in order."""
    output = Output(json=as_json)
    try:
        recipe = recipes.load(address, overrides or ())
    except UsageError as error:
        output.result({"ok": False, "error": error.message, "mistakes": error.details})
        raise
    output.data(f"{recipe.recipe.name} is in order; settings {recipe.hash()}")
    output.result({"ok": True, "hash": recipe.hash(), **_summary(recipe)})


@app.command("diff")
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="Name of a recipe, a path, or a run folder.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    as_json: Json = False,
) -> None:
    """Name the settings in which two recipes differ; of names, notes and provenance there is nothing to say."""
    output = Output(json=as_json)
    a, b = (_flat(recipes.load(address).resolved()) for address in (one, other))
    changed = {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}
    output.result(changed)
    if not changed:
        output.data("the settings are the same")
        return
    rows = [(key, *("-" if value is None else shown(value) for value in pair)) for key, pair in changed.items()]
    output.table([("", one, other), *rows])


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes: every key, its unit, its range."""
    Output(json=True).result(recipes.Recipe.json_schema())


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

"""`ebm models`: what comes with the package, and what is on the Hub."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import UsageError


def models(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="With --hub, list models whose name has this in it.", show_default=False),
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="List models on the Hugging Face Hub instead.")] = False,
    json: options.Json = False,
) -> None:
    """List the models that come with the package, or those on the Hugging Face Hub."""
    output = Output(json=json)
    if query is not None and not hub:
        raise UsageError("a QUERY is for --hub", "ebm models --hub QUERY")
    if hub:
        _on_the_hub(query, output)
    else:
        _bundled(output)


def _bundled(output: Output) -> None:
    import json

    from ebmcli.models import lookup as known

    rows: list[dict[str, Any]] = []
    for name, folder in known.bundled().items():
        config = json.loads((folder / "config.json").read_text())
        rows.append({"name": name, "default": name == known.default(), **config})
    output.table(
        [
            (
                r["name"] + (" (default)" if r["default"] else ""),
                f"{r['image_size']}×{r['image_size']}×{r['channels']}",
                r["data"],
                r["regime"],
                f"{r['updates']:,}",
                r["verdict"] or "not judged yet",
            )
            for r in rows
        ],
        ("model", "size", "data", "regime", "updates", "verdict"),
    )
    output.result(rows)


def _on_the_hub(query: str | None, output: Output) -> None:
    from ebmcli.hub.search import search

    rows = search(query)
    if not rows:
        output.say("no model on the Hub has our tag" + (f" and {query!r} in its name" if query else ""))
    else:
        output.table(
            [(r["name"], r["regime"] or "-", f"{r['downloads']:,}", r["changed"] or "-", _access(r)) for r in rows],
            ("model", "regime", "downloads", "changed", "access"),
        )
    output.result(rows)


def _access(row: dict[str, Any]) -> str:
    return "private" if row["private"] else "gated" if row["gated"] else "public"

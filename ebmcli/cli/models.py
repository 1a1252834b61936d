"""`ebm models`: what comes with the package."""

from __future__ import annotations

from ebmcli.cli import options
from ebmcli.cli.output import Output


def models(json: options.Json = False) -> None:
    """List the models that come with the package."""
    import json as jsonlib

    from ebmcli import models as known

    output = Output(json=json)
    rows = []
    for name, folder in known.bundled().items():
        config = jsonlib.loads((folder / "config.json").read_text())
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

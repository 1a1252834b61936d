"""`ebm export`: a run's model as a folder that stands alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, one of its checkpoints, or any model.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must be new or empty.")],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What the model is called.", show_default="the folder's name"),
    ] = None,
    longrun: Annotated[
        Path | None,
        typer.Option(
            "--longrun",
            metavar="FOLDER",
            help="A finished long run of this very model, whose verdict goes into it and its card.",
            show_default=False,
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as a folder: weights, settings, recipe, card, picture, summary of its metrics.

    RUN/checkpoints/005000 names an earlier moment of a run than its newest.
    """
    from ebmcli.models import lookup
    from ebmcli.publish.card import export as write

    output = Output(json=json, quiet=quiet)
    path = lookup.look_up(model, trust_code).path
    written = write(path, out, name or out.name, trust_code, longrun)
    output.say(f"{out}: {written.config.name}, update {written.config.updates:,}, picture in {out / 'samples.png'}")
    output.result({"out": out, "sha256": written.digest, **written.config.model_dump(mode="json")})

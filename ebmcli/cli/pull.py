"""`ebm pull`: a model from the Hugging Face Hub into the cache, or into a folder."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError


def pull(
    repo: Annotated[
        str,
        typer.Argument(
            metavar="USER/REPO[@REVISION]",
            help="Repository on the Hub; a branch, a tag or a commit may follow after @.",
        ),
    ],
    out: options.Out = None,
    again: Annotated[bool, typer.Option("--again", help="Download the model even where the cache has it.")] = False,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a model from the Hugging Face Hub, so that it is there without network too.

    Every command takes USER/REPO[@REVISION] as its MODEL and fetches it by itself. With --out, a folder with the
    weights, their settings and the recipe is written as well.
    """
    output = Output(json=json, quiet=quiet)
    from ebmcli.hub import parse

    address = parse(repo)
    if address is None:
        raise UsageError(f"{repo!r} is no address: expected user/name or user/name@revision", "see ebm models --hub")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EBMError(f"{out} exists and is not empty", "choose another --out")

    from ebmcli.models.checkpoint import FILE, load
    from ebmcli.models.pull import fetch
    from ebmcli.storage.files import write_whole

    fetched = fetch(address, force=again, trusted=trust_code)
    model = load(fetched.path, trusted=trust_code)
    c = model.config
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EBMError(f"cannot make the folder {out}: {error.strerror}", "choose another --out") from error
        # All from the one file that was checked: no other file of the repository is taken.
        write_whole(out / "config.json", jsonlib.dumps(c.model_dump(mode="json"), indent=2) + "\n")
        write_whole(out / "recipe.toml", model.recipe)
        write_whole(out / FILE, fetched.path.read_bytes())
    output.say(
        f"{address.repo} at {fetched.revision[:8]}: {c.image_size}×{c.image_size}×{c.channels}, {c.regime}, "
        f"{c.updates:,} updates, verdict: {c.verdict or 'not judged yet'}"
    )
    output.say(f"next: ebm sample {out or address}")
    output.result(
        {
            "repo": address.repo,
            "revision": fetched.revision,
            "file": fetched.path,
            "out": out,
            "sha256": model.digest,
            **c.model_dump(mode="json"),
        }
    )

"""`ebm push`: a model to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import UsageError

if TYPE_CHECKING:
    from ebmcli.publish.push import Plan


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A run, one of its checkpoints, or any model.")]
Repo = Annotated[
    str, typer.Argument(metavar="USER/REPO", help="Repository on the Hub; it is made where it is not there yet.")
]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private.")]
Branch = Annotated[
    str | None,
    typer.Option("--revision", metavar="BRANCH", help="Commit to this branch of the repository.", show_default="main"),
]
Message = Annotated[
    str | None,
    typer.Option(
        "--message", "-m", metavar="TEXT", help="Message of the commit.", show_default="the model's name and updates"
    ),
]
PullRequest = Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing.")]
License = Annotated[
    str | None,
    typer.Option(
        "--license",
        metavar="ID",
        help="Licence of the weights, by its identifier on the Hub, such as mit; left out, the card names none.",
        show_default=False,
    ),
]


def push(
    model: Model,
    repo: Repo,
    private: Private = False,
    revision: Branch = None,
    message: Message = None,
    pr: PullRequest = False,
    license_: License = None,
    trust_code: options.TrustCode = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Publish a model on the Hugging Face Hub: weights, settings, recipe, card, pictures, summary of its metrics.

    Says what it will upload first; uploads what has changed, in one commit. Nothing else of a run leaves the machine.
    """
    output = Output(json=json, quiet=quiet)
    from ebmcli.hub import Address, parse

    address = parse(repo)
    if address is None or address.revision:
        raise UsageError(f"{repo!r} is no repository: expected user/name", "a branch goes into --revision")

    from ebmcli.models import lookup
    from ebmcli.publish import push as hub
    from ebmcli.publish.card import export

    found = lookup.look_up(model, trust_code)
    with tempfile.TemporaryDirectory(prefix="ebm-push-") as temporary:
        folder = Path(temporary) / "model"
        name = address.repo.partition("/")[2]
        written = export(found.path, folder, name, trust_code, address=address.repo, licence=license_)
        plan = hub.plan(folder, Address(address.repo, revision), private=private)
        _announce(plan, dry_run, private, output)
        result = {
            "repo": address.repo,
            "model": written.config.name,
            "sha256": written.digest,
            "files": {entry.path.name: {"bytes": entry.size, "state": entry.state} for entry in plan.entries},
        }
        if dry_run:
            if not plan.changes:
                output.say(f"{address.repo} has this model already; nothing would be uploaded")
            output.result({**result, "commit": None, "url": None})
            return
        done = hub.push(
            plan,
            private=private or None,
            branch=revision,
            message=message or f"{written.config.name}: {written.config.updates:,} updates",
            pull_request=pr,
        )
        if done.commit is None:
            output.say(f"{address.repo} has this model already: no commit")
        else:
            output.say(f"{done.url} ({done.commit[:8]})")
            output.say(f"next: ebm sample {address.repo}{f'@{revision}' if revision else ''}")
        output.result({**result, "commit": done.commit, "url": done.url})


def _announce(plan: Plan, dry_run: bool, private: bool, output: Output) -> None:
    """Say what will be uploaded, file by file; nothing where nothing has changed."""
    if not plan.changes:
        return
    verb = "would upload" if dry_run else "uploading"
    total = sum(entry.size for entry in plan.changes)
    made = "" if plan.exists else f" (a new {'private' if private else 'public'} repository)"
    output.say(f"{verb} {len(plan.changes)} files, {total / 1e6:,.2f} MB, to {plan.repo}{made}:")
    for entry in plan.entries:
        output.say(f"  {entry.state:7}  {entry.size:>11,}  {entry.path.name}")

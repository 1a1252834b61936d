"""Models to the Hub: what would be uploaded, said first, then one commit of what has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from ebmcli.errors import EBMError
from ebmcli.hub import client, faults
from ebmcli.hub.address import Address
from ebmcli.publish.card import FILES


class Entry(NamedTuple):
    """A file to upload."""

    path: Path
    size: int
    state: str
    """`new`, `changed` or `same`"""


class Plan(NamedTuple):
    """What a push would do."""

    repo: str
    exists: bool
    """whether the repository is there already"""
    entries: tuple[Entry, ...]

    @property
    def changes(self) -> list[Entry]:
        """The files that differ from the Hub's."""
        return [entry for entry in self.entries if entry.state != "same"]


class Pushed(NamedTuple):
    """What a push has done."""

    url: str
    commit: str | None
    """None: nothing had changed, and nothing was committed"""


def plan(folder: Path, address: Address, *, private: bool | None = None, token: str | bool | None = None) -> Plan:
    """Hold a model folder against the repository; nothing is changed.

    Only the files that a model folder has (`ebmcli.publish.card.FILES`) are looked at, whatever else lies there.

    Raises:
        EBMError: exit code 4, as `ebmcli.hub.faults.explain`; or the repository is public and `private` was asked.
    """
    paths = [folder / name for name in FILES if (folder / name).is_file()]
    if faults.offline():
        raise faults.HubError(f"HF_HUB_OFFLINE allows no network, so {address.repo} cannot be compared", "unset it")
    api = client.api(token)
    there, exists = _there(api, address, private, [path.name for path in paths])
    entries = tuple(Entry(path, path.stat().st_size, _state(path, there.get(path.name))) for path in paths)
    return Plan(address.repo, exists, entries)


def push(
    plan: Plan,
    *,
    private: bool | None = None,
    branch: str | None = None,
    message: str,
    pull_request: bool = False,
    token: str | bool | None = None,
) -> Pushed:
    """Upload what has changed in one commit; with nothing changed, no commit.

    Args:
        plan: of `plan`.
        private: of a repository that is made.
        branch: commit to this branch, made where it is missing; `main` if left out.
        message: of the commit.
        pull_request: open one instead of committing.

    Raises:
        EBMError: nobody is logged in, or as `ebmcli.hub.faults.explain`: exit code 4.
    """
    from huggingface_hub import CommitOperationAdd, get_token

    if token is False or not (token or get_token()):
        raise faults.HubError(f"nobody is logged in, so {plan.repo} cannot be written", faults.LOGIN)
    api = client.api(token)
    page = f"{api.endpoint}/{plan.repo}"
    if not plan.changes:
        return Pushed(page, None)
    if not plan.exists:
        client.ask(plan.repo, api.create_repo, plan.repo, private=private, exist_ok=True)
    if branch and branch != "main":
        client.ask(plan.repo, api.create_branch, plan.repo, branch=branch, exist_ok=True)
    done = client.ask(
        plan.repo,
        api.create_commit,
        plan.repo,
        [CommitOperationAdd(entry.path.name, entry.path) for entry in plan.changes],
        commit_message=message,
        revision=branch,
        create_pr=pull_request or None,
    )
    return Pushed(str(done.pr_url or page), str(done.oid))


def _there(api: Any, address: Address, private: bool | None, names: list[str]) -> tuple[dict[str, Any], bool]:
    """The Hub's files by name, and whether the repository is there."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = client.ask(address.repo, api.model_info, address.repo)
        if private and not info.private:
            raise EBMError(
                f"{address.repo} is there already and public, so it would not hide this model",
                "push to another repository, or make that one private on its page first",
            )
        found = client.ask(address.repo, api.get_paths_info, address.repo, names, revision=address.revision)
        return {entry.path: entry for entry in found}, True
    except EBMError as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            return {}, True
        gated = type(error.__cause__).__name__ == "GatedRepoError"
        if isinstance(error.__cause__, RepositoryNotFoundError) and not gated:
            return {}, False
        raise


def _state(path: Path, entry: Any) -> str:
    if entry is None:
        return "new"
    data = path.read_bytes()
    if getattr(entry, "lfs", None):
        same = hashlib.sha256(data).hexdigest() == entry.lfs.sha256
    else:
        same = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == entry.blob_id
    return "same" if same else "changed"

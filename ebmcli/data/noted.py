"""What is noted of the data sets of the Hub that were fetched: splits, columns and files, at a fixed commit.

A set named without a revision stays at the commit it was first fetched at until it is fetched anew.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ebmcli.data import cache
from ebmcli.errors import EBMError
from ebmcli.hub import client
from ebmcli.hub.address import Address
from ebmcli.storage.files import write_whole
from ebmcli.storage.reading import checked, read_json


class Part(NamedTuple):
    """One split of a set at one commit: all that is needed to read it again.

    Attributes:
        repo: id on the Hub.
        revision: commit.
        name: what the set calls the split.
        column: of the images.
        files: parquet files in the repository, in order; empty where the set is kept in another form.
        rows: images.
        config: which of several configurations; empty where there is one.
    """

    repo: str
    revision: str
    name: str
    column: str
    files: tuple[str, ...]
    rows: int
    config: str = ""


def known(address: Address, split: str, config: str | None = None) -> Part | None:
    """What was noted of a split when it was fetched; None if it never was."""
    part = _noted(address, split, config)
    if part is None and address.revision and client.is_commit(address.revision):
        part = _noted(Address(address.repo), split, config)  # the commit that the name alone stands for here
        part = part if part is not None and part.revision == address.revision else None
    return part


def _noted(address: Address, split: str, config: str | None) -> Part | None:
    path = _note(address)
    try:
        part = checked(_read(path)[_key(split, config)], Part, str(path))
    except (KeyError, EBMError):
        return None
    return part if client.is_commit(part.revision) and part.repo == address.repo else None


def _read(path: Path) -> dict[str, Any]:
    """A note; empty where there is none, or a damaged one, which is as good as none."""
    try:
        return read_json(path, dict[str, Any])
    except EBMError:
        return {}


def _key(split: str, config: str | None) -> str:
    return f"{config}:{split}" if config else split


def forget(address: Address) -> None:
    """Take out the note of a set, so that the next use asks the Hub for its newest commit."""
    with suppress(OSError):
        _note(address).unlink(missing_ok=True)


def notes() -> dict[str, dict[str, Any]]:
    """All that is noted, by address: each split's part as a dictionary."""
    read = map(_read, sorted((cache.folder() / "hub").glob("*.json")))
    return {
        str(note["address"]): {k: v for k, v in note.items() if k != "address"} for note in read if "address" in note
    }


def _note(address: Address) -> Path:
    name = address.repo.replace("/", "--")
    if address.revision:
        name += "--" + hashlib.sha256(address.revision.encode()).hexdigest()[:12]
    return cache.folder() / "hub" / f"{name}.json"


def keep(address: Address, split: str, part: Part) -> None:
    """Note a part; parts of another commit go, so that splits belong together. A read-only cache stays as it is."""
    path = _note(address)
    same = {k: v for k, v in _read(path).items() if isinstance(v, dict) and v.get("revision") == part.revision}
    with suppress(OSError, EBMError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(
            path,
            json.dumps({"address": str(address), **same, _key(split, part.config): part._asdict()}, indent=1) + "\n",
        )

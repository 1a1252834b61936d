"""Models from the Hub: one safetensors file, looked at before it is downloaded; nothing else is ever read."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ebmcli.errors import EBMError
from ebmcli.hub import client, faults
from ebmcli.hub.address import Address
from ebmcli.hub.client import Fetched
from ebmcli.models.checkpoint import FILE, examine
from ebmcli.storage.files import write_whole

log = logging.getLogger("ebmcli.hub")

LARGEST_FILE = 8 * 2**30
"""Bytes of a model file at most; a larger file is no model of ours."""
LARGEST_HEADER = 4 * 2**20
"""Bytes of a file's header at most: names and shapes of tensors, settings, recipe."""


def fetch(
    address: Address,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force: bool = False,
    local_only: bool = False,
    trusted: bool = False,
) -> Fetched:
    """The model file of a repository, in the Hub's cache (`HF_HOME`); downloaded where it is not there yet.

    The revision is resolved to a commit first; size and header of the file are checked before the download.
    A model that names code as its network is refused unless it is `trusted`.
    Without network, or where the Hub has a fault, what the cache has of that revision serves, and that is said.

    Raises:
        EBMError: exit code 4: no such repository or revision, no access, no network, not in the cache;
            exit code 1: its file is not a model, or the cache cannot be written.
    """
    if faults.offline() or local_only:
        kept = cached(address, cache_dir)
        if kept is None:
            raise faults.absent(str(address))
        return kept
    try:
        sha = client.commit_of(address, token=token)
        kept = None if force else cached(Address(address.repo, sha), cache_dir)
        if kept is None:
            kept = _download(address, sha, token, cache_dir, force, trusted)
    except faults.HubError as error:
        kept = cached(address, cache_dir)
        if not error.passing or kept is None:
            raise
        log.warning(f"{error.message}; the copy of {kept.revision[:8]} in the cache serves")
        return kept
    # The name of the revision is kept in the cache too, so that it is found there without network.
    _remember(kept, address.revision or "main")
    return kept


def _download(
    address: Address, sha: str, token: str | bool | None, cache_dir: str | Path | None, force: bool, trusted: bool
) -> Fetched:
    """Look at the header of the file at a commit, then bring the file into the cache."""
    api = client.api(token)
    size = _size(api, address, sha)
    _look(api, address, sha, size, trusted)
    log.info(f"downloading {address}: {size / 1e6:,.1f} MB")
    place: dict[str, Any] = {"repo_id": address.repo, "filename": FILE, "cache_dir": cache_dir, "revision": sha}
    path = client.ask(str(address), api.hf_hub_download, **place, force_download=force)
    return Fetched(_inside(Path(path)), address.repo, sha)


def cached(address: Address, cache_dir: str | Path | None = None) -> Fetched | None:
    """The model file where the cache has it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repo, FILE, cache_dir=cache_dir, revision=address.revision)
    if not isinstance(found, str) or not Path(found).is_file():
        return None
    path = _inside(Path(found))
    return Fetched(path, address.repo, path.parent.name)


def _remember(kept: Fetched, name: str) -> None:
    """Write the client's own note of what a branch or tag stands for; a cache that is read-only stays as it is."""
    if client.is_commit(name):
        return
    refs = kept.path.parent.parent.parent / "refs"
    note = refs / name
    try:
        if not note.is_file() or note.read_text() != kept.revision:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, kept.revision)
    except (OSError, EBMError):
        pass


def _inside(path: Path) -> Path:
    """The path, which must be `snapshots/COMMIT/model.safetensors` and lead into `blobs` beside `snapshots`."""
    repo, blob = path.parent.parent.parent, path.resolve()
    if not re.fullmatch(r"[0-9a-f]{40}", path.parent.name) or repo.resolve() not in blob.parents:
        raise EBMError(f"{path} leads out of the Hub's cache", "remove that repository from the cache: hf cache rm")
    return path


def _size(api: Any, address: Address, sha: str) -> int:
    """Bytes of the model file, as the Hub tells."""

    def told() -> int | None:
        found = api.get_paths_info(address.repo, [FILE], revision=sha)
        return int(found[0].size) if found else None

    size = client.ask(str(address), told)
    if size is None:
        raise faults.HubError(f"{address} holds no {FILE}: it is no model of ebm's", "ebm models --hub lists those")
    if size > LARGEST_FILE:
        raise EBMError(
            f"{address} has a model of {size / 1e9:,.1f} GB, more than the {LARGEST_FILE / 1e9:,.1f} GB that are taken",
            "it is no model of ebm's",
        )
    return size


def _look(api: Any, address: Address, sha: str, size: int, trusted: bool) -> None:
    """Read the header alone and hold it against the file's size and our settings, before all is downloaded."""
    where = f"the {FILE} of {address}"

    def header() -> Any:
        try:
            return api.parse_safetensors_file_metadata(address.repo, FILE, revision=sha)
        except (SafetensorsParsingError, RecursionError) as error:
            if _is_page(api, address, sha):
                raise faults.answered_by_another(str(address)) from error
            raise EBMError(
                f"{where} is not a safetensors file with a sound header", "ebm models --hub lists models of ebm's"
            ) from error

    from huggingface_hub.errors import SafetensorsParsingError

    found = client.ask(str(address), header)
    try:
        shapes = {name: tuple(int(n) for n in tensor.shape) for name, tensor in found.tensors.items()}
        end = max((int(tensor.data_offsets[1]) for tensor in found.tensors.values()), default=0)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise EBMError(f"{where} has a header that makes no sense", "ebm models --hub lists models of ebm's") from error
    if not 0 <= size - 8 - end <= LARGEST_HEADER:
        raise EBMError(
            f"{where} has {size:,} bytes, which are not those of its header ({end:,} of tensors)",
            "ebm models --hub lists models of ebm's",
        )
    examine(where, dict(found.metadata or {}), shapes, trusted)


def _is_page(api: Any, address: Address, sha: str) -> bool:
    """Whether the file comes as a page for people, which the Hub itself never sends for a file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    url = hf_hub_url(address.repo, FILE, revision=sha, endpoint=api.endpoint)
    headers = {**build_hf_headers(token=api.token), "Range": "bytes=0-99"}
    return "html" in get_session().get(url, headers=headers).headers.get("content-type", "").lower()

"""Addresses on the Hub: `user/repo[@revision]`, or anything that a browser, `git` or `hf` writes for it.

This is the one place that reads them. It imports nothing of the Hub's client, so that a path is told from an address
in no time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ebmcli.errors import UsageError

Kind = Literal["model", "dataset"]

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]{{0,199}}))?/*")
_FILES = (".toml", ".safetensors", ".png", ".npz", ".npy", ".gz", ".tgz", ".tar", ".zip", ".parquet", ".json", ".pth")
_HOSTS = ("huggingface.co", "hf.co")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+")  # two letters at least: C:/ is a disk
_GIT = re.compile(r"[\w.-]+@(?P<host>[\w.-]+):(?=[\w.-]+/)")
_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset"}
_NO_USERS = {
    "spaces", "buckets", "kernels", "collections", "papers", "docs", "blog", "learn", "posts", "organizations",
    "settings", "join", "login", "new", "tasks", "search",
}  # fmt: skip
"""First words of addresses of the Hub that lead to something else than a repository."""
_VIEWS = {"tree", "blob", "resolve", "raw", "commit", "commits", "revision", "blame", "edit"}
"""Words of an address that a revision follows."""
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_MODEL = "model.safetensors"


class Address(NamedTuple):
    """A repository on the Hub, `user/repo[@revision]`; the revision is a branch, a tag or a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


class _Place(NamedTuple):
    """What a URL of the Hub names."""

    kind: Kind
    repo: str
    revision: str | None
    file: str


def parse(text: str, kind: Kind = "model") -> Address | None:
    """The address that `text` means, or None: a path, a file's name and other words are no address.

    Understood are `user/repo`, `user/repo@revision`, the address of a page of the Hub (huggingface.co, hf.co, or the
    host that HF_ENDPOINT names; with or without https://) and `hf://…`, with blanks around and slashes behind.

    Args:
        text: what the user gave.
        kind: what is wanted: a model or a data set.

    Raises:
        UsageError: it is a URL, and not one of a repository of that kind.
    """
    text = text.strip()
    path = _path_on_the_hub(text)
    if path is None:
        return _plain(text)
    place = _place(path, text)
    if place.kind != kind:
        raise _other_kind(place)
    if kind == "model" and place.file != _MODEL and place.file.lower().endswith(_WEIGHTS):
        raise UsageError(
            f"{without_secrets(text)} names the file {place.file}, and of a repository {_MODEL} alone is read",
            f"give {Address(place.repo, place.revision)} for that; or download the file and see ebm convert --help",
        )
    return Address(place.repo, place.revision)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password, query and fragment."""
    return re.sub(r"//+[^/@\s]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def _plain(text: str) -> Address | None:
    """`user/repo[@revision]`."""
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match["repo"] or match["repo"].lower().endswith((*_FILES, ".git")):
        return None
    revision = match["revision"]
    return Address(match["repo"], revision.rstrip("/") if revision else None)


def _path_on_the_hub(text: str) -> str | None:
    """The part behind the Hub's host; None for what is no URL.

    Raises:
        UsageError: it is a URL of another host.
    """
    scheme = _SCHEME.match(text)
    if scheme and scheme["scheme"].lower() == "hf":
        return text[scheme.end() :]
    git = _GIT.match(text)
    rest = text[scheme.end() :] if scheme else f"{git['host']}/{text[git.end() :]}" if git else text
    try:
        url = urlsplit(f"//{rest}")
        known = next((base for base in _bases() if _is_under(url, base)), None)
    except ValueError:  # brackets that are no address of a host
        url, known = SplitResult("", "", rest, "", ""), None
    if known is not None:
        return url.path.removeprefix(known.path.rstrip("/"))
    if scheme is None:
        return None
    shown = without_secrets(text)
    if scheme["scheme"].lower() == "file":
        raise UsageError(f"{shown} is a URL, and files are given by their paths", f"give /{unquote(rest).lstrip('/')}")
    raise UsageError(
        f"{shown} is not on the Hub, and nothing else is downloaded",
        "download it and give its path; what is on the Hub is given as user/name (of a mirror, with HF_ENDPOINT set)",
    )


def _bases() -> Iterator[SplitResult]:
    """Hosts of the Hub, each with the path that its addresses begin with."""
    for host in _HOSTS:
        yield urlsplit(f"//{host}")
        yield urlsplit(f"//www.{host}")
    own = os.environ.get("HF_ENDPOINT", "").strip()
    if own:
        yield urlsplit("//" + _SCHEME.sub("", own))


def _is_under(url: SplitResult, base: SplitResult) -> bool:
    """Whether a URL is of this host, and below its path."""
    usual = (None, 80, 443)  # those that a browser leaves out
    same = url.port == base.port or (url.port in usual and base.port in usual)
    return same and url.hostname == base.hostname and f"{url.path}/".startswith(f"{base.path.rstrip('/')}/")


def _place(path: str, text: str) -> _Place:
    """The repository in the path of a URL: `[datasets/]user/repo[@revision][/tree/revision][/file]`.

    Raises:
        UsageError: there is none.
    """
    words = [unquote(word) for word in re.split(r"[?#]", path, maxsplit=1)[0].split("/") if word]
    if words[:1] == ["api"]:
        words = words[1:]
    kind: Kind = "model"
    if words and words[0] in _KINDS:
        kind, words = _KINDS[words[0]], words[1:]
    user, name, rest = "".join(words[:1]), "".join(words[1:2]), words[2:]
    name, at, revision = name.partition("@")
    if at:
        rest = ["tree", revision, *rest]
    if rest[:1] and rest[0] in _VIEWS:
        size = 3 if rest[1:2] == ["refs"] else 1
        revision, file = "/".join(rest[1 : 1 + size]), "/".join(rest[1 + size :])
    else:
        file = "/".join(rest) if text.lower().startswith("hf:") else ""
    address = _plain(f"{user}/{name.removesuffix('.git')}" + (f"@{revision}" if revision else ""))
    if address is None or user in _NO_USERS:
        raise UsageError(
            f"{without_secrets(text)} is no page of a {'model' if kind == 'model' else 'data set'} on the Hub",
            "give user/name, or the address of its page",
        )
    return _Place(kind, address.repo, address.revision, file)


def _other_kind(place: _Place) -> UsageError:
    address = Address(place.repo, place.revision)
    if place.kind == "dataset":
        return UsageError(
            f"{address} is a data set of the Hub, and a model is wanted here",
            f"a data set is given with `data`; see it with ebm data show {address}",
        )
    return UsageError(
        f"{address} is a model of the Hub, and data is wanted here",
        f"a data set's page is https://huggingface.co/datasets/user/name; sample the model with ebm sample {address}",
    )

"""MODEL, the argument: a bundled name, a path to a file, a folder or a run, or an id on the Hub."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ebmcli.errors import EBMError, UsageError
from ebmcli.hub import Address, parse
from ebmcli.models.checkpoint import FILE, Checkpoint
from ebmcli.models.checkpoint import load as load_file
from ebmcli.models.pull import fetch
from ebmcli.storage.paths import typed_path

DEFAULT = "mnist-shortrun"
FOLDER = Path(__file__).parent.parent / "assets" / "models"


def bundled() -> dict[str, Path]:
    """Names of the models inside the package, and their folders."""
    return {p.parent.name: p.parent for p in sorted(FOLDER.glob(f"*/{FILE}"))}


def default() -> str:
    """What MODEL is when left out: `EBM_MODEL`, where it is set and not empty, else the bundled default."""
    return os.environ.get("EBM_MODEL", "").strip() or DEFAULT


class Found(NamedTuple):
    """A model's file, and where on the Hub it is from."""

    path: Path
    origin: str = ""
    """`user/repo@commit`, or empty"""


def load(
    model: str | Path | None = None, fetching: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> Checkpoint:
    """The model that MODEL means, in memory.

    Args:
        model: a bundled name, a file, a folder, a run, or `user/repo[@revision]` on the Hub; left out, the default.
        fetching: as `look_up`.
        options: as `ebmcli.models.checkpoint.load`: device, backend, precision, energy_scale, weights, trusted.

    Raises:
        EBMError: as `find` and `ebmcli.models.checkpoint.load`.
    """
    found = look_up(model, bool(options.get("trusted")), fetching)
    loaded = load_file(found.path, **options)._replace(origin=found.origin)
    loaded.potential.origin = found.origin
    return loaded


def is_model(model: str) -> bool:
    """Whether MODEL means a model that is there, or a repository of the Hub, which is not asked for this.

    Raises:
        UsageError: it is a URL, and not one of a model on the Hub.
    """
    if parse(model) is not None:
        return True
    try:
        return find(model).is_file()
    except EBMError:
        return False


def find(model: str | Path | None = None) -> Path:
    """The checkpoint file that MODEL means; see `look_up`."""
    return look_up(model).path


def look_up(
    model: str | Path | None = None, trusted: bool = False, fetching: Mapping[str, Any] = MappingProxyType({})
) -> Found:
    """The checkpoint file that MODEL means: a bundled name first, then a path, then an id on the Hub.

    A model of the Hub is downloaded into the Hub's cache (`HF_HOME`) where that has it not; one that names code as
    its network only if it is `trusted`.

    Args:
        model: as `load`.
        trusted: allow a model that names code as its network.
        fetching: for a model of the Hub its `revision`, and what `ebmcli.models.pull.fetch` takes: token, cache_dir,
            force, local_only.

    Raises:
        UsageError: an empty name.
        EBMError: none of them; the hint has the nearest bundled name. As `ebmcli.models.pull.fetch` for the Hub.
    """
    name = default() if model is None else str(model)
    if not name.strip():
        raise UsageError("the model's name is empty", "give a name or a path; None is the default model")
    if name in bundled():
        return Found(bundled()[name] / FILE)
    path = typed_path(name)
    if path.is_dir():
        if not (path / FILE).is_file():
            raise EBMError(f"{path} holds no {FILE}", "expected a model folder or a run that has begun")
        return Found(path / FILE)
    if path.is_file():
        return Found(path)
    address = parse(name)
    if address is not None:
        return _from_hub(address, path, trusted, **fetching)
    near = difflib.get_close_matches(name.replace("_", "-"), bundled(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"bundled models: {', '.join(bundled()) or 'none'}"
    raise EBMError(f"no model {name!r}: neither a bundled name nor a path", hint)


def label(name: str) -> str:
    """What files made from a model are called, where the user does not say: by its run, folder, file or repository."""
    path = typed_path(name)
    if not path.exists():
        address = parse(name)
        return path.name if address is None else str(address).partition("/")[2].replace("/", "-")
    path = path.resolve()
    return path.name if path.is_dir() else path.parent.name if path.name == FILE else path.stem


def _from_hub(address: Address, path: Path, trusted: bool, revision: str | None = None, **fetching: Any) -> Found:
    address = address if revision is None else address._replace(revision=revision)
    try:
        fetched = fetch(address, trusted=trusted, **fetching)
    except EBMError as error:
        if path.parent.is_dir():  # runs/mnist mistyped is an address too
            there = sorted(p.parent.name for p in path.parent.glob(f"*/{FILE}"))
            near = difflib.get_close_matches(path.name, there, n=1) or there[:3]
            error.message = f"no folder {path} here, and {error.message}"
            error.hint = f"did you mean {path.parent / near[0]}?" if near else error.hint
        raise
    return Found(fetched.path, str(fetched))

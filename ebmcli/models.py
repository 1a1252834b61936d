"""MODEL, the argument: a bundled name, or a path to a file, a folder or a run (floor 2)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from ebmcli.checkpoint import FILE, Checkpoint
from ebmcli.checkpoint import load as load_file
from ebmcli.errors import EBMError

DEFAULT = "mnist-shortrun"
FOLDER = Path(__file__).parent / "assets" / "models"


def bundled() -> dict[str, Path]:
    """Names of the models inside the package, and their folders."""
    return {p.parent.name: p.parent for p in sorted(FOLDER.glob(f"*/{FILE}"))}


def default() -> str:
    """What MODEL is when left out: `EBM_MODEL`, else the bundled default."""
    return os.environ.get("EBM_MODEL") or DEFAULT


def load(model: str | Path | None = None, **options: Any) -> Checkpoint:
    """The model that MODEL means, in memory.

    Args:
        model: a bundled name, a file, a folder or a run; left out, the default.
        options: as `ebmcli.checkpoint.load`: device, backend, energy_scale, weights, trusted.

    Raises:
        EBMError: as `find` and `ebmcli.checkpoint.load`.
    """
    return load_file(find(model), **options)


def is_model(model: str) -> bool:
    """Whether MODEL means a model that is there."""
    try:
        find(model)
    except EBMError:
        return False
    return True


def find(model: str | Path | None = None) -> Path:
    """The checkpoint file that MODEL means: a bundled name first, then a path.

    Raises:
        EBMError: neither; the hint has the nearest bundled name.
    """
    name = str(model or default())
    if name in bundled():
        return bundled()[name] / FILE
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / FILE).is_file():
            raise EBMError(f"{path} holds no {FILE}", "expected a model folder or a run that has begun")
        return path / FILE
    if path.is_file():
        return path
    near = difflib.get_close_matches(name.replace("_", "-"), bundled(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"bundled models: {', '.join(bundled()) or 'none'}"
    raise EBMError(f"no model {name!r}: neither a bundled name nor a path", hint)


def label(name: str) -> str:
    """What files made from a model are called, where the user does not say: by its run, folder or file."""
    path = Path(name)
    if not path.exists():
        return path.name
    path = path.resolve()
    return path.name if path.is_dir() else path.parent.name if path.name == FILE else path.stem

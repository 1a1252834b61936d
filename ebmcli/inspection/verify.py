"""Folders read through: which of their files are sound, which are damaged, and which have no checksum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ebmcli.errors import EBMError
from ebmcli.landscape import store
from ebmcli.landscape.report import UNFINISHED
from ebmcli.longrun import folder as longrun
from ebmcli.models.checkpoint import FILE, check_file
from ebmcli.recipe import load as load_recipe
from ebmcli.storage import checkpoints
from ebmcli.storage.reading import read_json, read_lines
from ebmcli.storage.seals import NONE, Finding, Soundness, read_sealed, seal_of
from ebmcli.storage.tensors import not_finite
from ebmcli.storage.tensors import read_sealed as read_sealed_tensors
from ebmcli.training.run_folder import Facts, Metric, Run
from ebmcli.training.sweep import FACTS as SWEEP


def verify(path: Path) -> Iterator[Finding]:
    """Everything in a run, a long run, a map, a sweep or a model's folder, or one model file, read through.

    Nothing is changed, and no code that a file names is run.

    Raises:
        EBMError: it is none of these.
    """
    if path.is_file():
        yield _model(path)
        return
    found = [what for name, what in _KINDS.items() if (path / name).exists()]
    if not found:
        raise EBMError(
            f"{path} holds nothing that can be verified", "expected a run, a long run, a map, a sweep or a model"
        )
    yield from found[0](path)


def _run(path: Path) -> Iterator[Finding]:
    yield _sealed(path / "run.json", Facts)
    yield _read(path / "recipe.toml", lambda p: load_recipe(p))
    run = Run(path)
    saved = checkpoints.numbered(path / "checkpoints")
    found = [checkpoints.examine(one) for one in saved]
    yield from found
    newest = [one for one, state in zip(saved, found, strict=True) if state.state is Soundness.SOUND]
    yield from _metrics(run, newest[-1] if newest else None)
    if (path / FILE).exists():
        yield _model(path / FILE)


def _metrics(run: Run, saved: checkpoints.Saved | None) -> Iterator[Finding]:
    path = run.metrics_path
    if not path.exists():
        return
    found = _read(path, lambda p: sum(1 for _ in read_lines(p, Metric)))
    if found.state is Soundness.UNVERIFIABLE and saved is not None:
        state = run.metrics_state(saved)
        reason = "" if state is Soundness.SOUND else f"it is not as it was at update {saved.update}"
        found = Finding(path, state, reason)
    yield found


def _long_run(path: Path) -> Iterator[Finding]:
    yield _sealed(path / longrun.FACTS, longrun.Facts)
    yield from longrun.LongRun(path).findings()
    if (path / longrun.RESULT).exists():
        yield _sealed(path / longrun.RESULT, dict[str, Any])


def _map(path: Path) -> Iterator[Finding]:
    work = path / UNFINISHED
    if (path / "map.json").exists():
        yield _sealed(path / "map.json", dict[str, Any])
        yield _tensors(path / "states.safetensors")
    if work.is_dir():
        yield _sealed(work / "settings.json", store.Begun)
        if (work / "jobs.jsonl").exists():
            yield store.examine_jobs(work / "jobs.jsonl")
        for file in sorted(work.glob("*.safetensors")):
            yield _tensors(file)


def _sweep(path: Path) -> Iterator[Finding]:
    yield _sealed(path / SWEEP, dict[str, Any])
    for cell in sorted(path.glob("*/run.json")):
        yield from _run(cell.parent)


def _model_folder(path: Path) -> Iterator[Finding]:
    yield _model(path / FILE)


_KINDS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    SWEEP: _sweep,
    "run.json": _run,
    longrun.FACTS: _long_run,
    "map.json": _map,
    UNFINISHED: _map,
    checkpoints.FACTS: lambda path: iter([checkpoints.examine(checkpoints.Saved(_number(path), path))]),
    FILE: _model_folder,
}
"""What a folder is, by a file in it, and how it is read through; the first that fits."""


def _number(path: Path) -> int:
    name = path.resolve().name
    return int(name) if name.isdecimal() else -1


def _read(path: Path, reader: Callable[[Path], object]) -> Finding:
    """A file that can be read or not, and has no checksum of its own."""
    try:
        reader(path)
    except EBMError as error:
        return Finding(path, Soundness.DAMAGED, "; ".join((error.message, *error.details)))
    return Finding(path, Soundness.UNVERIFIABLE, NONE)


def _sealed(path: Path, schema: Any) -> Finding:
    found = _read(path, lambda p: read_sealed(p, schema))
    if found.state is Soundness.UNVERIFIABLE and seal_of(read_json(path, dict[str, Any])) is Soundness.SOUND:
        return Finding(path, Soundness.SOUND)
    return found


def _tensors(path: Path) -> Finding:
    try:
        tensors, _, state = read_sealed_tensors(path)
    except EBMError as error:
        return Finding(path, Soundness.DAMAGED, error.message)
    broken = not_finite(tensors)
    if broken:
        return Finding(path, Soundness.DAMAGED, f"{broken} is not finite")
    return Finding(path, state, "" if state is Soundness.SOUND else NONE)


def _model(path: Path) -> Finding:
    try:
        state = check_file(path)
    except EBMError as error:
        return Finding(path, Soundness.DAMAGED, error.message)
    return Finding(path, state, "" if state is Soundness.SOUND else NONE)

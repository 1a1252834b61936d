"""Numbered checkpoints of a run: written so that they vouch for themselves, and read through before they are believed.

000060/model.safetensors   the model
000060/state.safetensors   what else continues the run
000060/state.json          which update, and the checksums of the two, sealed with its own
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict

from ebmcli.errors import EBMError
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import make_folder, remove_tree, rename, write_whole, writing
from ebmcli.storage.reading import checked, parse_json, read_json
from ebmcli.storage.seals import Finding, Soundness, plain, seal_of, sealed, sum_of, sum_of_file
from ebmcli.storage.tensors import not_finite, pack, read_tensors

MODEL = "model.safetensors"
STATE = "state.safetensors"
FACTS = "state.json"
DIGITS = 6
OTHER = "its checksum is not that of its content"


class Saved(NamedTuple):
    """A checkpoint on the disk."""

    update: int
    folder: Path


class Lines(TypedDict):
    """A file of lines as it was when a checkpoint was written: what is added later is not part of this."""

    bytes: int
    sha256: str


class Facts(TypedDict, total=False):
    """`state.json`; what has no checksums was written before there were any."""

    update: int
    versions: dict[str, str]
    threads: int
    files: dict[str, str]
    metrics: Lines


def place(parent: Path, update: int) -> Path:
    """Where the checkpoint of this update belongs."""
    return parent / f"{update:0{DIGITS}d}"


def numbered(parent: Path) -> list[Saved]:
    """All checkpoints, whole or not, oldest first."""
    return sorted(Saved(int(f.name), f) for f in parent.glob("[0-9]*") if f.name.isdecimal() and f.is_dir())


def is_whole(saved: Saved) -> bool:
    """Whether all three files are there; what pruning has left half removed is not whole."""
    return all((saved.folder / name).is_file() for name in (MODEL, STATE, FACTS))


def save(saved: Saved, model: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        saved: its number and place; what is there, and is not whole, is replaced.
        model: a file on the same disk, which is moved into the checkpoint.
        state: tensors that continue the run.
        facts: whatever else does, as JSON can hold it.

    Raises:
        EBMError: it cannot be written; the model file is then still there, or in the temporary folder.
    """
    temporary = saved.folder.with_name(f".{saved.folder.name}.tmp")
    with writing(saved.folder):
        for left in (temporary, saved.folder):  # by a process that was killed while writing, or while pruning
            if left.exists():
                remove_tree(left, first=FACTS)
        make_folder(temporary)
        content = pack(state)
        write_whole(temporary / STATE, content)
        crash_point("state-written")
        rename(model, temporary / MODEL)
        files = {MODEL: sum_of_file(temporary / MODEL), STATE: sum_of(content)}
        whole = sealed({"update": saved.update, **facts, "files": files})
        write_whole(temporary / FACTS, json.dumps(whole) + "\n")
        crash_point("before-rename")
        rename(temporary, saved.folder)
        crash_point("after-rename")


def prune(saved: list[Saved]) -> None:
    """Remove checkpoints that are no longer wanted; what cannot be removed stays."""
    for old in saved:
        try:
            remove_tree(old.folder, first=FACTS)
        except OSError:  # newer ones are sound, so that this is only a matter of room
            shutil.rmtree(old.folder, ignore_errors=True)


def read_facts(saved: Saved) -> tuple[Facts, Soundness]:
    """`state.json`, and whether its seal holds.

    Raises:
        EBMError: it cannot be read, its seal is broken, or it is of another update than its folder.
    """
    path = saved.folder / FACTS
    raw = read_json(path, dict[str, Any])
    state = seal_of(raw)
    if state is Soundness.DAMAGED:
        raise EBMError(f"{path} is damaged: {OTHER}")
    facts = checked(plain(raw), Facts, str(path))
    if facts.get("update") != saved.update:
        raise EBMError(f"{path} is damaged: it is of update {facts.get('update')}, and its folder of {saved.update}")
    if state is Soundness.SOUND and not {MODEL, STATE} <= facts.get("files", {}).keys():
        raise EBMError(f"{path} is damaged: it lacks the checksums of {MODEL} and {STATE}")
    return facts, state


def examine(saved: Saved) -> Finding:
    """Read a checkpoint through; one without checksums is tried for contradictions."""
    try:
        missing = [name for name in (FACTS, STATE, MODEL) if not (saved.folder / name).is_file()]
        if missing:
            return Finding(saved.folder, Soundness.DAMAGED, f"{saved.folder / missing[0]} is missing")
        facts, state = read_facts(saved)
        for name, expected in facts.get("files", {}).items():
            path = saved.folder / name
            if Path(name).name != name or sum_of_file(path) != expected:
                return Finding(saved.folder, Soundness.DAMAGED, f"{path} is damaged: {OTHER}")
        if state is Soundness.SOUND:
            return Finding(saved.folder, state)
        wrong = next(_contradictions(saved), None)
    except (EBMError, OSError) as error:
        return Finding(saved.folder, Soundness.DAMAGED, _reason(error))
    if wrong is not None:
        return Finding(saved.folder, Soundness.DAMAGED, f"{saved.folder / STATE} is damaged: {wrong}")
    reason = "written by an earlier version of ebm, without checksums"
    return Finding(saved.folder, Soundness.UNVERIFIABLE, reason)


def _reason(error: EBMError | OSError) -> str:
    return error.message if isinstance(error, EBMError) else f"{error.filename} cannot be read: {error.strerror}"


def _contradictions(saved: Saved) -> Iterator[str]:
    """What the files of a checkpoint without checksums say twice, and not the same.

    A model file has always had a checksum of its own. It holds the weights, and some of the bank; and the guard keeps
    copies of states, of which the newest may be of this very update.
    """
    model, said = read_tensors(saved.folder / MODEL)
    state, _ = read_tensors(saved.folder / STATE)
    broken = not_finite(state)
    if broken:
        yield f"{broken} is not finite"
    about = parse_json(said.get("ebm", "{}"), dict[str, Any], f"the settings in {saved.folder / MODEL}")
    if about.get("updates", saved.update) != saved.update:
        yield f"the model beside it is of another update than {saved.update}"
    prefix = "last." if any(name.startswith("last.") for name in model) else "network."
    for name in sorted(model):
        own = "network." + name.removeprefix(prefix)
        if name.startswith(prefix) and not _equal(state.get(own), model[name]):
            yield f"{own} is not that of the model beside it"
    if "bank" in model and not _equal(_some(state.get("bank"), model["bank"]), model["bank"]):
        yield "bank is not that of the model beside it"
    averages = [model[name] for name in model if name.startswith("network.")]
    for name in sorted(state):
        if name.startswith("average.") and not any(_equal(state[name], a) for a in averages):
            yield f"{name} is not in the model beside it"
    for number in ("0", "1"):
        kept = state.get(f"guard.{number}")
        if kept is None or not kept.numel() or kept.flatten()[0] != saved.update:
            continue
        copies = f"guard.{number}."
        for name in sorted(state):
            own = name.removeprefix(copies)
            if name.startswith(copies) and own in state and not _equal(state[own], state[name]):
                yield f"{own} is not what the guard has kept of it"


def _some(bank: Tensor | None, few: Tensor) -> Tensor | None:
    return None if bank is None else bank[: len(few)].to(few.dtype)


def _equal(one: Tensor | None, two: Tensor) -> bool:
    return one is not None and one.dtype == two.dtype and one.shape == two.shape and bool(torch.equal(one, two))


def set_aside(saved: Saved) -> Path:
    """Rename a damaged checkpoint, which is then no longer one, so that it can be looked at; returns its new place.

    Raises:
        EBMError: it cannot be renamed.
    """
    number, target = 1, saved.folder.with_name(f"{saved.folder.name}.damaged")
    while target.exists():
        number += 1
        target = saved.folder.with_name(f"{saved.folder.name}.damaged-{number}")
    rename(saved.folder, target)
    return target

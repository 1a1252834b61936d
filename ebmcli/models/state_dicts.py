"""State dicts of others: found in whatever file a program wrote around them, and checked.

Files are opened with torch's `weights_only`, which builds tensors and nothing else; safetensors files hold nothing
else. A training program's file may hold several sets of weights, such as those of the last update and an average.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import EBMError, UsageError
from ebmcli.storage import kinds
from ebmcli.storage.tensors import read_tensors

DEEPEST_NESTING = 5
"""Dictionaries inside each other that are looked into, at most."""
_AGAIN = "get the file again"
_WRAPPERS = {
    "_orig_mod", "module", "model", "net", "network", "ebm", "energy", "online_model",
    "ema", "ema_model", "model_ema", "net_ema", "ema_net", "averaged", "swa_model", "average",
}  # fmt: skip
"""Attributes under which programs keep a network: the first words of its weights' names then."""
_AVERAGE = re.compile(r"(^|[._/])(ema|swa|shadow|averaged?|polyak)", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|callback|hyper|loop|rng|config|args", re.IGNORECASE)
"""Names of what else a training program keeps."""
_LAYERS = re.compile(r"(f|convs)\.\d+\.")
"""Layers of the networks that are known here."""


class Found(NamedTuple):
    """The weights that were taken from a file."""

    weights: dict[str, Tensor]
    """float32 on the CPU"""
    kind: Literal["average", "last"]
    notes: tuple[str, ...]
    """what was taken, left out and changed, for the user; empty where there was nothing to choose"""


class _Set(NamedTuple):
    """One set of weights in a file."""

    name: str
    """the words that lead to it; empty for the whole file"""
    tensors: dict[str, Tensor]
    counters: tuple[str, ...]
    """names of single whole numbers that lay among them"""

    @property
    def kind(self) -> Literal["average", "last"]:
        is_average = bool(_AVERAGE.search(self.name)) or any(c.endswith("n_averaged") for c in self.counters)
        return "average" if is_average else "last"


def read(path: Path, wanted: str | None = None) -> Found:
    """The state dict in a `.pth`, `.pt`, `.ckpt`, `.bin` or foreign safetensors file; nothing in it is run.

    Args:
        path: of the file.
        wanted: `average` or `last`, or the name in the file of the set of weights to take; left out, the average
            where there is one.

    Raises:
        EBMError: there is no such file, it needs code to be read, is damaged or something else, or holds no weights.
        UsageError: it does not hold those that are wanted, or several that may be meant.
    """
    content, notes = _content(path)
    sets = list(_sets(content))
    known = [one for one in sets if any(_LAYERS.match(name) for name in one.tensors)]
    sets = known or sets
    if not sets:
        raise EBMError(f"{path} holds no state dict", "expected names with tensors, as network.state_dict() gives them")
    taken = _chosen(path, sets, wanted)
    others = [f"{one.name or 'the rest'} ({one.kind})" for one in sets if one is not taken]
    if taken.name or others:
        notes += [f"taken: {taken.name or 'the weights'} ({taken.kind})"]
    notes += [f"left out: {', '.join(others)}; those can be chosen by name"] if others else []
    notes += [f"left out: {', '.join(taken.counters)}, which only counts"] if taken.counters else []
    types = {str(t.dtype).removeprefix("torch.") for t in taken.tensors.values()} - {"float32"}
    weights = _checked(taken.tensors, path)
    notes += [f"{' and '.join(sorted(types))} weights, kept as float32"] if types else []
    return Found(weights, taken.kind, tuple(notes))


def _content(path: Path) -> tuple[Any, list[str]]:
    """All that a file holds, and a note where it is of another kind than its name says."""
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise EBMError(f"{path} {what}", "give a .pth file with a state dict")
    if not path.is_file():
        raise EBMError(f"{path} is not a plain file", "give a .pth file with a state dict")
    try:
        kind = kinds.kind_of(path)
    except OSError as error:
        raise EBMError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    if kind is kinds.SAFETENSORS:
        tensors, metadata = read_tensors(path)
        if "ebm" in metadata:
            raise EBMError(f"{path} is a model of ours already", f"ebm sample {path}")
        return tensors, [] if path.suffix == ".safetensors" else ["it is a safetensors file"]
    if kind is None:
        raise EBMError(f"{path} is not a whole .pth file: nothing in its first bytes says what it is", _AGAIN)
    if kind not in (kinds.PICKLE, kinds.TORCH):
        raise EBMError(f"{path} is {kind.name}", kind.hint)
    return _unpickled(path), []


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes of the reader
        text = " ".join(str(error).split())
        if "weights_only" in text.lower() or "Unsupported" in text or "not allowed" in text:
            raise EBMError(
                f"{path} holds more than tensors: reading it would run code, which is not done",
                "save the weights alone where it comes from: torch.save(network.state_dict(), 'weights.pth')",
            ) from error
        raise EBMError(f"{path} is not a whole .pth file ({type(error).__name__})", _AGAIN) from error


def _sets(content: Any) -> Iterator[_Set]:
    """All sets of weights in what was read, each with the names that the network itself gives them."""
    dictionaries = list(_dictionaries(content))
    found: list[_Set] = []
    for name, inner in dictionaries:
        found += _unwrapped({k: v for k, v in inner.items() if isinstance(v, Tensor)}, name)
    yield from found
    for name, inner in dictionaries:  # averages that are kept as a list, without names
        shadow = inner.get("shadow_params")
        alike = (_in_order(shadow, one.tensors) for one in found) if isinstance(shadow, list) else ()
        named = next((tensors for tensors in alike if tensors), None)
        if named:
            yield _Set(f"{name}.shadow_params".lstrip("."), named, ())


def _dictionaries(content: Any, name: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """A dictionary and those in it that may hold weights, each with the words that lead to it."""
    if not isinstance(content, dict) or len(seen) > DEEPEST_NESTING or id(content) in seen:
        return
    words = {k: v for k, v in content.items() if isinstance(k, str)}
    yield name, words
    for key, inner in words.items():
        if not _NOT_WEIGHTS.search(key):
            yield from _dictionaries(inner, f"{name}.{key}" if name else key, (*seen, id(content)))


def _unwrapped(tensors: Mapping[str, Tensor], name: str) -> Iterator[_Set]:
    """A dictionary of tensors as one set, or as one for each wrapper that the names begin with."""
    counters = tuple(k for k, v in tensors.items() if v.dim() == 0 and not v.is_floating_point())
    weights = {k: v for k, v in tensors.items() if k not in counters}
    wrapped = {k.partition(".")[0] for k in weights if "." in k} & _WRAPPERS
    if not wrapped:
        if weights:
            yield _Set(name, weights, counters)
        return
    rest = {k: v for k, v in weights.items() if k.partition(".")[0] not in wrapped}
    if rest:
        yield _Set(name, rest, ())
    for word in sorted(wrapped, key=list(dict.fromkeys(k.partition(".")[0] for k in weights)).index):
        inner = {k.removeprefix(f"{word}."): v for k, v in tensors.items() if k.startswith(f"{word}.")}
        outer = {k: v for k, v in tensors.items() if k in counters and "." not in k}
        yield from _unwrapped({**outer, **inner}, f"{name}.{word}" if name else word)


def _in_order(tensors: list[Any], like: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """An average kept as a list, with the names of the weights that it is of; None where they are not alike."""
    if len(tensors) != len(like) or not all(isinstance(t, Tensor) for t in tensors):
        return None
    fits = all(t.shape == v.shape for t, v in zip(tensors, like.values(), strict=True))
    return dict(zip(like, tensors, strict=True)) if fits else None


def _chosen(path: Path, sets: list[_Set], wanted: str | None) -> _Set:
    there = ", ".join(f"{one.name or 'the weights'} ({one.kind})" for one in sets)
    if wanted is None:
        kind = "average" if any(one.kind == "average" for one in sets) else "last"
        found = [one for one in sets if one.kind == kind]
    else:
        found = [one for one in sets if wanted in (one.name, one.kind)]
    if not found:
        raise UsageError(
            f"{path} has no weights {wanted!r}: it has {there}", "leave out `weights`, or name one of these"
        )
    if any(not _same(found[0], one) for one in found[1:]):
        raise UsageError(f"{path} holds several networks: {there}", f"choose one, such as `weights` {found[0].name}")
    return found[0]


def _same(one: _Set, other: _Set) -> bool:
    """Whether two sets are the same weights, kept twice."""
    return one.tensors.keys() == other.tensors.keys() and all(
        v is other.tensors[k] or (v.layout == other.tensors[k].layout == torch.strided and v.equal(other.tensors[k]))
        for k, v in one.tensors.items()
    )


def _checked(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights as float32.

    Raises:
        EBMError: one is no plain tensor of finite numbers.
    """
    checked = {}
    for name, tensor in state.items():
        problem = _problem(tensor)
        if problem is None:
            checked[name] = tensor.detach().float().contiguous()
            problem = None if torch.isfinite(checked[name]).all() else "not finite"
        if problem is not None:
            raise EBMError(f"{path}: {name} is {problem}, expected finite floating point numbers", _AGAIN)
    return checked


def _problem(tensor: Tensor) -> str | None:
    """Why a tensor cannot be taken as it is, or None."""
    if tensor.is_quantized:
        return f"quantised ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.layout != torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.device.type == "meta" or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        return "not a plain tensor with all of its numbers"
    return None if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")

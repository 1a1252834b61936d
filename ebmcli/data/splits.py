"""Which pictures belong to which part of a set, by the folders that they lie in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ebmcli.data.source import SPLITS

_PART = {alias: part for part, aliases in SPLITS.items() for alias in aliases}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_NUMBERED = re.compile(r"(?:.*/)?([A-Za-z]+)[-_. ]?\d")
_NAMED = 5
"""Folders that a message names."""


class Choice(NamedTuple):
    """The pictures of one part.

    Attributes:
        which: their numbers, in order.
        notes: what was taken and what was left, one line.
        doubts: what may be meant otherwise, one line each.
    """

    which: list[int]
    notes: list[str]
    doubts: list[str]


def choose(names: Sequence[str], split: str) -> Choice | None:
    """The pictures of `split` among `names` (relative, with `/`); None where no folders tell of parts.

    Folders mean parts only where those of training and of test lie side by side, at any depth: a lone `train/`
    may hold pictures of trains. Of several such places on the way to a picture the outermost counts.
    """
    marks = _marks(names)
    if not marks:
        return None
    places = [_place(name, marks) for name in names]
    which = [i for i, place in enumerate(places) if marks.get(place) == split]
    taken = Counter(place for place in places if marks.get(place) == split)
    left = Counter(place or "elsewhere" for place in places if marks.get(place) != split)
    note = f"split {split}: {_shares(taken)}"
    return Choice(which, [f"{note}; left out: {_shares(left)}" if left else note], [])


def part_of(name: str) -> str | None:
    """The part, "train" or "test", that a file's name (without suffix) means, or else a folder that it lies in."""
    found = (_exact(piece) or _by_words(piece) for piece in reversed(name.split("/")))
    return next((part for part in found if part), None)


def doubts(names: Sequence[str]) -> list[str]:
    """What to say of names without parts that look as if there were some."""
    for what, those, find in (("folders", _all_folders(names), _exact), ("files", set(names), _numbered)):
        found: dict[str, str] = {}
        for name in sorted(those):
            part = find(name)
            if part:
                found.setdefault(part, name)
        if len(found) == len(SPLITS):
            shown = " and ".join(found.values())
            return [f"{what} are named after parts of a set ({shown}), and all are taken: give a folder of one part"]
    return []


def _marks(names: Iterable[str]) -> dict[str, str]:
    """The folders that are parts of a set, and which part each is."""
    children: dict[str, set[str]] = {}
    for folder in _all_folders(names):
        parent, _, own = folder.rpartition("/")
        children.setdefault(parent, set()).add(own)
    marks: dict[str, str] = {}
    for parent, owns in children.items():
        for find, least in ((_exact, 0.0), (_by_words, 0.5)):
            parts = {own: part for own in owns if (part := find(own))}
            # `train2017` and `val2017` are parts; `train_station` and `test_tube` among forty classes are not.
            if set(parts.values()) == set(SPLITS) and len(parts) >= least * len(owns):
                marks |= {f"{parent}/{own}".lstrip("/"): part for own, part in parts.items()}
                break
    return marks


def _all_folders(names: Iterable[str]) -> set[str]:
    parents = {name.rpartition("/")[0] for name in names}
    return {folder for parent in parents for folder in _folders(f"{parent}/") if folder}


def _folders(name: str) -> Iterator[str]:
    """The folders on the way to a picture, the outermost first."""
    for end in re.finditer("/", name):
        yield name[: end.start()]


def _place(name: str, marks: dict[str, str]) -> str:
    return next((folder for folder in _folders(name) if folder in marks), "")


def _exact(folder: str) -> str | None:
    return _PART.get(folder.rpartition("/")[2].lower())


def _by_words(folder: str) -> str | None:
    """The part that a word of the name means (`seg_train`, `testA`, `train2017`); None if it names both."""
    found = {_PART[word.lower()] for word in _WORDS.findall(folder) if word.lower() in _PART}
    return found.pop() if len(found) == 1 else None


def _numbered(name: str) -> str | None:
    """The part that a numbered file's name begins with (`train_0001.png`)."""
    match = _NUMBERED.match(name)
    return _PART.get(match[1].lower()) if match else None


def _shares(counts: Counter[str]) -> str:
    shown = ", ".join(f"{count:,} of {place}" for place, count in counts.most_common(_NAMED))
    return shown + (f" and {len(counts) - _NAMED} more folders" if len(counts) > _NAMED else "") or "none"

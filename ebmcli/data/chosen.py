"""Data with a choice of what is in it: `photos.parquet#column=image`, `user/name#config=full&column=img`.

The choice is part of the words that name the data, so that it goes wherever those go: into recipes, runs, models.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ebmcli.data.bundled import bundled
from ebmcli.data.toys import TOYS
from ebmcli.errors import UsageError
from ebmcli.storage.paths import typed_path


class Chosen(NamedTuple):
    """Data, and what of it is read.

    Attributes:
        place: a path, a name of a set, or an address on the Hub.
        column: of the images, in parquet files and sets of the Hub; the name of an array in an `.npz`.
        config: which of several sets that lie together.
    """

    place: str
    column: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        pairs = (("config", self.config), ("column", self.column))
        tail = "&".join(f"{key}={value}" for key, value in pairs if value)
        return f"{self.place}#{tail}" if tail else self.place

    def but(self, column: str | None, config: str | None) -> Chosen:
        """The same data with another choice, where one is given."""
        return self._replace(column=column or self.column, config=config or self.config)


def chosen(source: str | Path) -> Chosen:
    """What `source` names; a path that is there is meant as it is, whatever letters it has."""
    text = str(source)
    place, mark, tail = text.rpartition("#")
    pairs = [pair.partition("=") for pair in tail.split("&")]
    keys = [key for key, _, value in pairs if value]
    if not (mark and place) or len(keys) != len(pairs) or not {*keys} <= {"column", "config"}:
        return Chosen(text)
    if typed_path(text).exists():
        return Chosen(text)
    if len({*keys}) < len(keys):
        raise UsageError(f"{text} names {keys[0]} twice", "name each once")
    return Chosen(place, **{key: value for key, _, value in pairs})


def absolute(source: str | None) -> str | None:
    """Files on this machine with their full path, so that work goes on from another folder; None of a name."""
    choice = chosen(source or "")
    path = typed_path(choice.place)
    is_name = not source or choice.place in bundled() or choice.place in TOYS
    return None if is_name or not path.exists() else str(choice._replace(place=str(path.resolve())))

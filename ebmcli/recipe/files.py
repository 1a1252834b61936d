"""Recipes in files: those of the package by name, any by path, overrides on top."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ebmcli.errors import EBMError, UsageError
from ebmcli.recipe.checks import shown
from ebmcli.recipe.sections import Recipe
from ebmcli.storage.paths import typed_path
from ebmcli.storage.reading import LARGEST_RECIPE, parse_toml, read_bytes

_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
"""The wheel's folder, then the checkout's (an editable install has no other)."""

_HINT = "'ebm recipe schema' describes every key; 'ebm recipe show NAME' prints a whole recipe"


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def path_of(name: str) -> Path:
    """Where the recipe `name` (dashes count as underscores) of the package lies.

    Raises:
        UsageError: no recipe has that name; the hint has the nearest one.
    """
    path = _folder() / f"{_plain(name)}.toml"
    if path.is_file():
        return path
    raise _unknown(name)


def find(address: str | Path) -> Path:
    """The file behind an address: a name of the package, a path, or a run folder (its `recipe.toml`).

    `recipes/NAME.toml` and `NAME.toml` mean the package's recipe where there is no such file.

    Raises:
        UsageError: nothing is there.
    """
    text = os.fspath(address)
    if not _looks_like_path(text) and _plain(text) in names():
        return path_of(text)
    path = typed_path(text)
    if path.is_dir() and text:
        if (path / "recipe.toml").is_file():
            return path / "recipe.toml"
        raise UsageError(f"folder {text} has no recipe.toml", "give a recipe file, a run folder or a name")
    if path.exists() and text:
        return path
    if path.suffix == ".toml" and str(path.parent) in (".", "recipes") and _plain(path.stem) in names():
        return path_of(path.stem)
    if _looks_like_path(text):
        near = _nearest(path.stem)
        hint = f"'{near}' is a recipe of the package" if near else "'ebm recipe list' names those of the package"
        raise UsageError(f"no recipe file at {text}", hint)
    raise _unknown(text)


def read(address: str | Path) -> str:
    """The text of a recipe as it was written, comments too.

    Raises:
        UsageError: nothing is there, or it cannot be read as text.
    """
    path = find(address)
    try:
        return read_bytes(path, LARGEST_RECIPE).decode("utf-8-sig")
    except EBMError as error:
        raise UsageError(f"recipe {address} cannot be read: {error.message}", error.hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"recipe {address} is not text: byte {error.start} is not UTF-8",
            "a recipe is a TOML file; 'ebm recipe show NAME' prints one",
        ) from error


def load(address: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name (`mnist_shortrun`, dashes allowed), by path, or of a run folder.

    Args:
        address: what `find` takes.
        overrides: `section.key=value` with a TOML value, or plain text for a string; an empty value
            takes the key out, so that its default holds. They are noted in the provenance.

    Raises:
        UsageError: nothing at the address, no valid TOML, or mistakes in file and overrides, all of them.
    """
    return _parse(read(address), str(address), overrides)


def loads(text: str, where: str = "text", overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML text; `where` names it in errors (see `load`)."""
    return _parse(text, where, overrides)


def _parse(text: str, where: str, overrides: Sequence[str]) -> Recipe:
    try:
        raw = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(text, where, error) from None
    lines, changed = _override(raw, overrides)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        from ebmcli.recipe.mistakes import collect

        lines = collect(error, raw, changed) + lines
    if lines or recipe is None:
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise UsageError(f"recipe {where} has {count}", _HINT, details=tuple(lines))
    noted = {key: before for key, before in changed.items() if not key.startswith(("recipe.", "provenance."))}
    if not noted:
        return recipe
    provenance = {**recipe.provenance, **{key: f"set by hand; {before}" for key, before in noted.items()}}
    return recipe.model_copy(update={"provenance": provenance})


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Apply `key=value` texts to `raw`; mistakes, and for each changed key what the recipe had before."""
    lines: list[str] = []
    changed: dict[str, str] = {}
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        parts = re.findall(r"\[\d+\]|[^.\[\]]+", key)
        if not equals or not parts:
            lines.append(f"{override!r}: expected key=value, such as train.updates=100 (override)")
            continue
        if parts[0] == "provenance":
            parts = ["provenance", key.partition(".")[2]]
        target: Any = raw
        last: Any = None
        try:
            for i, part in enumerate(parts):
                last = int(part[1:-1]) if part[0] == "[" else part
                if i < len(parts) - 1:
                    target = target[last] if isinstance(last, int) else target.setdefault(last, {})
            before = target[last] if isinstance(last, int) else target.get(last)
            value = None if not text else _value(text)
            if value is None:
                target.pop(last, None) if isinstance(target, dict) else target.pop(last)
            else:
                target[last] = value
        except ValueError as error:
            lines.append(f"{key}: {error} (override)")
        except (AttributeError, IndexError, KeyError, TypeError):
            lines.append(f"{key}: there is no such place in the recipe (override)")
        else:
            if before != value:
                changed.setdefault(
                    key, "the recipe leaves it out" if before is None else f"the recipe has {shown(before)}"
                )
    return lines, changed


def _value(text: str) -> Any:
    """A TOML value; text that is none is a string, unless it begins like a quoted one or a list."""
    try:
        parsed = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if text[0] in "\"'[{":
            raise ValueError(f"{text} is no TOML value") from None
        return text
    value = parsed.get("value")
    return text if len(parsed) != 1 or isinstance(value, (date, datetime, time)) else value


def _syntax(text: str, where: str, error: tomllib.TOMLDecodeError) -> UsageError:
    message = str(error)
    place = re.search(r"\(at line (\d+), column (\d+)\)", message)
    reason = re.sub(r"\s*\(at .*\)$", "", message)
    reason = reason[:1].lower() + reason[1:]
    if place is None:
        end = " at its end" if "end of document" in message else ""
        return UsageError(f"recipe {where} is not valid TOML{end}: {reason}", _HINT)
    row, column = int(place[1]), int(place[2])
    lines = text.replace("\r\n", "\n").split("\n")
    source = lines[row - 1] if row <= len(lines) else ""
    details = (f"{row} | {source}", " " * (len(str(row)) + 2 + column) + "^") if len(source) <= 100 else ()
    return UsageError(
        f"recipe {where} is not valid TOML at line {row}, column {column}: {reason}",
        'text needs quotes ("uniform"), each key stands on a line of its own',
        details=details,
    )


def _folder() -> Path:
    for folder in _FOLDERS:
        if any(folder.glob("*.toml")):
            return folder
    raise UsageError("this installation has no recipes", "install the package again")


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _looks_like_path(text: str) -> bool:
    separators = [os.sep, "/"] + ([os.altsep] if os.altsep else [])
    return text.startswith((".", "~")) or text.endswith(".toml") or any(s in text for s in separators)


def _nearest(name: str) -> str | None:
    return next(iter(difflib.get_close_matches(_plain(name), names(), n=1, cutoff=0.5)), None)


def _unknown(name: str) -> UsageError:
    near = _nearest(name)
    listing = "'ebm recipe list' names them all"
    return UsageError(f"no recipe is called {name!r}", f"did you mean '{near}'? {listing}" if near else listing)

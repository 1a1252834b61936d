"""From a failed validation to one line a mistake: key, value, what is allowed, the nearest known key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from ebmcli.recipe.checks import Mistake, find_all, shown
from ebmcli.recipe.sections import Recipe

_MISSING = object()
_SYNONYMS = {
    "data.name": "data.source",
    "data.path": "data.source",
    "batch": "train.positives",
    "batch_size": "train.positives",
    "dataset": "data.source",
    "eps": "mcmc.step_size",
    "epsilon": "mcmc.step_size",
    "gamma": "optimizer.learning_rate",
    "iterations": "train.updates",
    "l": "mcmc.steps",
    "lr": "optimizer.learning_rate",
    "n_f": "potential.width",
    "nf": "potential.width",
    "tau": "mcmc.noise",
}


class Format:
    """The format of a recipe, read from its JSON Schema: which keys there are and what each allows."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = Recipe.json_schema()
        self.keys: dict[str, dict[str, Any]] = {}
        for section, fragment in self.root["properties"].items():
            properties = self.resolve(fragment).get("properties", {})
            self.keys.update({f"{section}.{key}": value for key, value in properties.items()})
        self.sections = [key for key in self.root["properties"] if key != "schema"]
        self._order = {key: i for i, key in enumerate(["schema", *self.keys])}

    def resolve(self, fragment: Mapping[str, Any]) -> Mapping[str, Any]:
        """Follow the reference of a fragment, if it is one."""
        references = [fragment, *fragment.get("allOf", ())]
        for candidate in references:
            if "$ref" in candidate:
                return self.root["$defs"][candidate["$ref"].rpartition("/")[2]]
        return fragment

    def locate(self, location: Iterable[int | str]) -> tuple[str, Mapping[str, Any], list[int | str]]:
        """The dotted key of an error's location, the schema there, and the path to its value.

        A location may go on into a value that is one to a reader (which kind of a union, which of two
        numbers): there it is cut.
        """
        fragment: Mapping[str, Any] = self.root
        key, path = "", []
        for part in location:
            fragment = self.resolve(fragment)
            if isinstance(part, int):
                if "items" not in fragment:
                    break
                key += f"[{part}]"
                fragment = fragment["items"]
            else:
                if "properties" in fragment:
                    fragment = fragment["properties"].get(part, {})
                elif isinstance(fragment.get("additionalProperties"), Mapping):
                    fragment = fragment["additionalProperties"]
                else:
                    break
                key = f"{key}.{part}" if key else part
            path.append(part)
        return key, self.resolve(fragment), path

    def rank(self, key: str) -> tuple[int, int, str]:
        """Sorts keys in the order of a recipe file, those it does not know last in their section."""
        section = key.partition(".")[0]
        first = self.sections.index(section) if section in self.sections else (-1 if key == "schema" else 99)
        return first, self._order.get(re.sub(r"\[.*", "", key), 999), key

    def nearest(self, key: str) -> str | None:
        """The known key that was probably meant: in its own section first, then anywhere."""
        section, _, last = key.rpartition(".")
        if key in _SYNONYMS:
            return _SYNONYMS[key]
        if not section and (near := _close(key, self.sections)):
            return near
        if "[" in section:
            _, fragment, _ = self.locate(_split(section))
            near = _close(last, fragment.get("properties", {}))
            return f"{section}.{near}" if near else None
        own = [known.partition(".")[2] for known in self.keys if known.startswith(f"{section}.")]
        if section and (near := _close(last, own)):
            return f"{section}.{near}"
        if last.lower() in _SYNONYMS:
            return _SYNONYMS[last.lower()]
        same = [known for known in self.keys if known.endswith(f".{last}")]
        return same[0] if same else _close(key, self.keys)


def _close(word: str, words: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)), None)


def _split(key: str) -> list[int | str]:
    """Inverse of the dotted form: "optimizer.stages[0].name" -> ["optimizer", "stages", 0, "name"]."""
    return [int(part[1:-1]) if part[0] == "[" else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", key)]


def allowed(fragment: Mapping[str, Any]) -> str:
    """What a schema fragment allows, in words."""
    if "allowed" in fragment:
        return fragment["allowed"]
    if "anyOf" in fragment:
        return " or ".join(allowed(part) for part in fragment["anyOf"] if part.get("type") != "null")
    if "enum" in fragment or "const" in fragment:
        words = [shown(value) for value in fragment.get("enum", [fragment.get("const")])]
        return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    kind = fragment.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(fragment)
    if kind == "array" and "prefixItems" in fragment:
        items = fragment["prefixItems"]
        return f"a list of {len(items)} numbers, each {allowed(items[0])}"
    texts = {"string": "text", "boolean": "true or false", "array": "a list of tables"}
    text = texts.get(str(kind), "a table")
    return "text that is not empty" if fragment.get("minLength") else text


def _range(fragment: Mapping[str, Any]) -> str:
    marks = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{mark} {fragment[name]:g}" for name, mark in marks.items() if name in fragment]
    limits = [limit for limit in limits if "e+" not in limit]
    return (" " + " and ".join(limits)) if limits else ""


def _value_at(raw: Any, path: Iterable[int | str]) -> Any:
    for part in path:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _field_mistake(form: Format, error: Mapping[str, Any], raw: Mapping[str, Any]) -> Mistake:
    key, fragment, path = form.locate(error["loc"])
    value = _value_at(raw, path)
    if error["type"] == "extra_forbidden":
        near = form.nearest(key)
        what = "unknown section" if "." not in key and isinstance(value, dict) else "unknown key"
        return Mistake(key, value, what + (f"; did you mean {near}?" if near else ""))
    expected = f"expected {allowed(fragment)}"
    if error["type"] == "missing" and "properties" in fragment:
        required = ", ".join(fragment.get("required", ()))
        return Mistake(f"[{key}]", None, f"expected a section with {required}")
    if error["type"] == "finite_number":
        expected += ", finite"
    near_word = _close(value, re.findall(r'"([\w-]+)"', expected)) if isinstance(value, str) else None
    return Mistake(key, value, expected + (f"; did you mean {shown(near_word)}?" if near_word else ""))


def collect(error: ValidationError, raw: Mapping[str, Any], overridden: Collection[str] = ()) -> list[str]:
    """Every mistake of a recipe, a line each, in the order of a recipe file.

    Args:
        error: what pydantic found.
        raw: what it was given.
        overridden: dotted keys that were set on top of the file; their lines say so.
    """
    form = Format()
    found: dict[str, Mistake] = {}
    for detail in error.errors(include_url=False, include_context=False):
        if detail["loc"]:
            mistake = _field_mistake(form, detail, raw)
            found.setdefault(mistake.key, mistake)
    for mistake in find_all(_valid_values(form, raw, found)):
        found.setdefault(mistake.key, mistake)
    ordered = sorted(found.values(), key=lambda m: form.rank(m.key.strip("[]")))
    return [m.line() + (" (override)" if m.key in overridden else "") for m in ordered]


def _valid_values(form: Format, raw: Mapping[str, Any], bad: Iterable[str]) -> dict[str, Any]:
    """Values under dotted keys, defaults too, without those that are invalid by themselves."""
    spoiled = {re.sub(r"\[\d.*", "", key).strip("[]") for key in bad}
    values: dict[str, Any] = {}
    for key, fragment in form.keys.items():
        section, _, name = key.partition(".")
        table = raw.get(section, {})
        if section in spoiled or key in spoiled or not isinstance(table, Mapping):
            continue
        value = table.get(name, fragment.get("default", _MISSING))
        if value is not _MISSING:
            values[key] = value
    return values

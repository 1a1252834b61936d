"""JSON, lines of JSON and TOML that others may have written or damaged, read within limits.

Whatever is in a file, what comes of reading it is a value that fits the schema, or one EBMError that names the file,
the field and what was expected there.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain

T = TypeVar("T")

LARGEST_FILE = 64 << 20
"""Bytes of a JSON file, or of one line of a file of lines, that are read at most."""
LARGEST_RECIPE = 1 << 20
"""Bytes of a TOML text."""
DEEPEST = 48
"""Levels of lists and objects inside each other that are taken at most."""
HINT = "was it changed by hand, damaged, or written by a newer version of ebm?"


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """The content of a plain file.

    Raises:
        EBMError: it is missing, no plain file (a pipe or a device would never end), too large, or cannot be read.
    """
    try:
        check_plain(path, largest, hint=HINT)
        return path.read_bytes()
    except FileNotFoundError:
        raise EBMError(f"no such file: {path}", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise EBMError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", HINT) from error


def read_json(path: Path, schema: type[T], *, largest: int = LARGEST_FILE) -> T:
    """What a JSON file holds, as `schema`.

    Args:
        path: of the file, UTF-8.
        schema: a pydantic model, or any type that pydantic can check, such as a TypedDict or `dict[str, int]`.
        largest: bytes of the file.

    Raises:
        EBMError: it cannot be read, is no JSON, nested too deep, or does not fit the schema.
    """
    return parse_json(read_bytes(path, largest), schema, str(path))


def parse_json(text: str | bytes, schema: type[T], where: str) -> T:
    """As `read_json`, of a text or its bytes; `where` names it in errors.

    Raises:
        EBMError: as `read_json`.
    """
    try:
        value = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise EBMError(f"{where} is nested more than {DEEPEST} levels deep", HINT) from None
    except ValueError as error:  # no JSON, no UTF-8, or a number with thousands of digits
        raise EBMError(f"{where} is not JSON: {_without_document(error)}", HINT) from error
    _check_depth(value, where)
    return checked(value, schema, where)


def checked(value: object, schema: type[T], where: str) -> T:
    """`value` as `schema`; `where` names it in errors.

    Raises:
        EBMError: it does not fit; the message has the field, what was received and what was expected.
    """
    try:
        return _adapter(cast(Hashable, schema)).validate_python(value)
    except ValidationError as error:
        raise EBMError(f"{where}: {mistake(error)}", HINT) from error
    except RecursionError:
        raise EBMError(f"{where} is nested too deep", HINT) from None


def read_lines(path: Path, schema: type[T]) -> Iterator[tuple[int, T]]:
    """Each whole line of a file of JSON lines, as `schema`, with the byte at which it ends.

    A last line without its end was cut off by a kill while it was written, and is left out; so is a missing file.

    Raises:
        EBMError: a whole line is no JSON or does not fit the schema; the message has its number.
    """
    if not path.is_file():
        return
    end = 0
    with open(path, "rb") as file:
        for number in range(1, 1 << 62):
            line = file.readline(LARGEST_FILE + 1)
            if not line.endswith(b"\n"):
                if len(line) > LARGEST_FILE:
                    raise EBMError(f"line {number} of {path} has more than {LARGEST_FILE:,} bytes", HINT)
                return
            end += len(line)
            yield end, parse_json(line, schema, f"line {number} of {path}")


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text within limits.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML, too long, or nested too deep.
    """
    if len(text) > LARGEST_RECIPE:
        raise tomllib.TOMLDecodeError(f"it has {len(text):,} characters, expected at most {LARGEST_RECIPE:,}")
    try:
        value = tomllib.loads(text)
        _check_depth(value, "it")
    except RecursionError:
        raise tomllib.TOMLDecodeError(f"it is nested more than {DEEPEST} levels deep") from None
    except EBMError as error:
        raise tomllib.TOMLDecodeError(error.message) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a number with thousands of digits, a date that is none
        raise tomllib.TOMLDecodeError(str(error)) from None
    return value


def mistake(error: ValidationError) -> str:
    """The first thing wrong, in words: the field, what was received, what was expected."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    if first["type"] == "missing":
        return f"{field} is missing"
    if first["type"] == "extra_forbidden":
        return f"{field} is not known"
    return f"{field} is {_shown(first['input'])}, expected {_expected(first['type'], first.get('ctx', {}))}"


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "an object",
    "model": "an object",
    "typed": "an object",
    "dataclass": "an object",
    "none": "null",
    "is": "another kind",
}
"""What a type's errors ask for, by the first word of their name."""
_LIMITS = {
    "greater_than": ("more than {}", "gt"),
    "greater_than_equal": ("{} or more", "ge"),
    "less_than": ("less than {}", "lt"),
    "less_than_equal": ("at most {}", "le"),
    "too_short": ("{} values or more", "min_length"),
    "too_long": ("at most {} values", "max_length"),
    "string_too_short": ("text of {} characters or more", "min_length"),
    "string_too_long": ("text of at most {} characters", "max_length"),
    "string_pattern_mismatch": ("text of the form {}", "pattern"),
    "literal_error": ("{}", "expected"),
    "enum": ("{}", "expected"),
    "value_error": ("{}", "error"),
}
"""What errors with a limit ask for: words, and the name of the limit."""


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        return words.format(context.get(name, "another"))
    return _EXPECTED.get(kind.partition("_")[0], "a value of another kind")


def _shown(value: object) -> str:
    """A value as JSON writes it, cut to a readable length."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = json.dumps(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _check_depth(value: object, where: str) -> None:
    """Nothing, if lists and objects are at most `DEEPEST` levels inside each other; level by level, never recursive."""
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    raise EBMError(f"{where} is nested more than {DEEPEST} levels deep", HINT)


def _without_document(error: ValueError) -> str:
    """What is wrong, as Python's reader says it, without the text itself."""
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg[:1].lower() + error.msg[1:]
        return f"{reason} (line {error.lineno}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return "a number has too many digits"


@cache
def _adapter(schema: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, schema))

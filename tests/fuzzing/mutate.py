"""Damage to files and words: by accident (bits, cuts), by another program (other types), by intent (sizes, depths).

Each function takes a generator of random numbers and a valid sample and returns a mutant. `formats` has those that set
lengths and checksums right again.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

Random = random.Random
Mutator = Callable[[Random, bytes], bytes]

INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    10**30,
)
WORDS = (
    "",
    " ",
    "\0",
    "\n",
    "\x1b[2J\x1b]0;title\x07",
    "\u202e\u200b",
    "\ud800",
    "é\u0301",
    "$x^{$",
    "../../../../tmp/x",
    "/",
    "a/b@main",
    "<script>alert(1)</script>",
    "%s%n{0}{}",
    "nan",
    "-inf",
    "1e400",
    "-1",
    "0x10",
    "true",
    "[]",
    "os:system",
    "x" * 5000,
)
NUMBERS = (*INTEGERS, 0.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf"))
OTHERS = (
    b"",
    b"\0" * 64,
    b"\xff" * 64,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    b"<!DOCTYPE html><html><title>404</title></html>",
    b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06getcwd\x94\x93\x94)R\x94.",
    b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
    b"\x89PNG\r\n\x1a\n",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "\ufeff{}".encode(),
    "{}".encode("utf-16"),
)
DEEP = 3000
"""Levels of a nest that is deeper than Python's stack; parsers in C take some thousands more."""


# Bytes of any kind


def raw(r: Random, data: bytes) -> bytes:
    """One to three of the changes below, or another file altogether."""
    if r.random() < 0.06:
        return r.choice(OTHERS)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        data = r.choice(_RAW)(r, data)
    return data


def _flip(r: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 4, 32)) if data else 0):
        changed[_place(r, data)] ^= 1 << r.randrange(8)
    return bytes(changed)


def _set(r: Random, data: bytes) -> bytes:
    at = _place(r, data)
    return data[:at] + bytes([r.choice((0, 1, 0x7F, 0x80, 0xFF, r.randrange(256)))]) + data[at + 1 :]


def _cut(r: Random, data: bytes) -> bytes:
    return data[: _place(r, data)]


def _behead(r: Random, data: bytes) -> bytes:
    return data[_place(r, data) :]


def _remove(r: Random, data: bytes) -> bytes:
    at = _place(r, data)
    return data[:at] + data[at + _length(r, data) :]


def _repeat(r: Random, data: bytes) -> bytes:
    at, length = _place(r, data), _length(r, data)
    return data[:at] + data[at : at + length] * r.choice((2, 2, 3, 50)) + data[at + length :]


def _insert(r: Random, data: bytes) -> bytes:
    at = _place(r, data)
    return data[:at] + r.randbytes(_length(r, data)) + data[at:]


def _swap(r: Random, data: bytes) -> bytes:
    a, b = sorted((_place(r, data), _place(r, data)))
    length = _length(r, data)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def _number(r: Random, data: bytes) -> bytes:
    """A number of 1 to 8 bytes written over what is there: a length, a count, an offset."""
    at, size = _place(r, data), r.choice((1, 2, 4, 4, 8))
    value = r.choice(INTEGERS) % 256**size
    return data[:at] + value.to_bytes(size, r.choice(("little", "big"))) + data[at + size :]


def _digits(r: Random, data: bytes) -> bytes:
    """A number that is spelled out replaced by another one."""
    found = list(re.finditer(rb"\d+", data[:20_000]))
    if not found:
        return _number(r, data)
    match = r.choice(found)
    return data[: match.start()] + str(r.choice(NUMBERS)).encode() + data[match.end() :]


def _foreign(r: Random, data: bytes) -> bytes:
    """Words that no reader expects, in the middle."""
    at = _place(r, data)
    return data[:at] + r.choice(WORDS).encode("utf-8", "surrogatepass") + data[at:]


_RAW = (
    _flip,
    _flip,
    _flip,
    _set,
    _cut,
    _cut,
    _behead,
    _remove,
    _repeat,
    _insert,
    _swap,
    _number,
    _number,
    _digits,
    _foreign,
)


def _place(r: Random, data: bytes) -> int:
    """Anywhere, the beginning (headers) and the end (directories) more often."""
    size = max(1, len(data))
    where = r.random()
    if where < 0.4:
        return min(r.randrange(256), size - 1)
    return max(0, size - 1 - r.randrange(128)) if where < 0.5 else r.randrange(size)


def _length(r: Random, data: bytes) -> int:
    return r.randrange(1, max(2, min(len(data), r.choice((4, 64, 4096)))))


def splice(r: Random, one: bytes, other: bytes) -> bytes:
    """The beginning of one valid file and the end of another."""
    return one[: _place(r, one)] + other[_place(r, other) :]


# Values in JSON and TOML


def value(r: Random, old: Any = None) -> Any:
    """Something else in the place of a value: another number, another type, nested or long things."""
    kind = r.randrange(10)
    if kind < 4 and isinstance(old, int | float) and not isinstance(old, bool):
        return r.choice((*NUMBERS, old + 1, old - 1, -old, float(old), str(old), [old]))
    if kind < 4 and isinstance(old, str):
        return r.choice((*WORDS, old + "\0", old * 3, old[:-1], old.upper(), [old]))
    if kind == 4:
        return nested(r.choice((40, 200)), r.random() < 0.5)
    if kind == 5:
        return [old] * r.choice((2, 1000))
    if kind == 6:
        return {"": old, "a": {"b": old}}
    return r.choice((None, True, False, [], {}, "", 0, -1, *NUMBERS, *WORDS))


def nested(depth: int, objects: bool = False) -> Any:
    """Lists in lists, or objects in objects."""
    inner: Any = 0
    for _ in range(depth):
        inner = {"a": inner} if objects else [inner]
    return inner


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs of a JSON tree."""
    found, todo = [], [tree]
    while todo and len(found) < 5000:
        here = todo.pop()
        pairs = (
            list(here.items()) if isinstance(here, dict) else list(enumerate(here)) if isinstance(here, list) else []
        )
        found += [(here, key) for key, _ in pairs]
        todo += [child for _, child in pairs]
    return found


def tree(r: Random, whole: Any) -> Any:
    """A tree of JSON values with one to three places changed: another value, a key gone, renamed or new."""
    whole = json.loads(json.dumps(whole))
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        spots = _spots(whole)
        if not spots or r.random() < 0.04:
            whole = value(r, whole)
            continue
        place, key = r.choice(spots)
        how = r.randrange(10)
        if how < 7:
            place[key] = value(r, place[key])
        elif how == 7:
            del place[key]
        elif isinstance(place, dict):
            old = place.pop(key) if how == 8 else place[key]
            place[r.choice((f"{key}x", "", "\0", *list(place)[:3], *WORDS[:6]))] = old
        else:
            place.insert(0, value(r, place[key]))
    return whole


def json_text(r: Random, data: bytes) -> bytes:
    """A JSON document with another tree, or written in an odd way."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return raw(r, data)
    odd = r.randrange(24)
    if odd == 0:
        bracket, close = r.choice((("[", "]"), ('{"a":', "}")))
        nest = bracket * DEEP + "0" + close * DEEP
        return data.replace(b"0", nest.encode(), 1) if r.random() < 0.5 and b"0" in data else nest.encode()
    if odd == 1:
        return b"[" * 200_000
    if odd == 2 and isinstance(whole, dict) and whole:  # the same key twice
        key = r.choice(list(whole))
        return (data.rstrip()[:-1].decode() + f", {json.dumps(key)}: {json.dumps(value(r, whole[key]))}}}").encode()
    if odd == 3:
        return re.sub(rb"\d+", b"9" * 5000, data, count=1)
    changed = tree(r, whole)
    escaped = odd != 4
    text = json.dumps(changed, indent=r.choice((None, 1)), ensure_ascii=escaped)
    return text.encode("utf-16" if odd == 5 else "utf-8", "surrogatepass")


def json_lines(r: Random, data: bytes) -> bytes:
    """One line of several changed, doubled, moved or cut."""
    lines = data.split(b"\n")
    at = r.randrange(max(1, len(lines) - 1))
    how = r.randrange(8)
    if how < 5:
        lines[at] = json_text(r, lines[at])
    elif how == 5:
        lines.insert(at, lines[r.randrange(len(lines))])
    elif how == 6:
        del lines[at]
    else:
        lines[at] = raw(r, lines[at])
    return b"\n".join(lines)


TOML_VALUES = (
    *(str(n) for n in (0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, -1e308)),
    *(
        "1e-320",
        "nan",
        "-inf",
        "inf",
        "true",
        "[]",
        "{}",
        '""',
        '"nan"',
        "1979-05-27",
        "07:32:00",
        "0x7fffffffffffffff",
    ),
    *('"x"', '"\\u0000"', '"\\u001b[2J"', "'../../x'", "[[1], [2]]", "{a = {b = 1}}", "1_000_000_000_000", "9" * 5000),
    "[" * 200 + "]" * 200,
    "[" * DEEP + "]" * DEEP,
    "{a = " * 300 + "1" + "}" * 300,
    '"' + "x" * 5000 + '"',
    '"os:system"',
    '"langevin"',
)


KEYS = ("a", "a.b", '""', "x" * 300)


def toml_text(r: Random, data: bytes) -> bytes:
    """Lines of a TOML document with other values, keys gone, doubled, renamed, in other tables."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(r.choice((1, 1, 2, 3))):
        at = r.randrange(len(lines))
        key, equals, _old = lines[at].partition("=")
        how = r.randrange(12)
        if how < 7 and equals:
            lines[at] = f"{key}= {r.choice(TOML_VALUES)}"
        elif how == 7:
            lines.insert(at, lines[r.randrange(len(lines))])
        elif how == 8:
            del lines[at]
        elif how == 9 and equals:
            lines[at] = f"{key.strip()}.{r.choice(KEYS)} ={_old}"
        elif how == 10:
            lines.insert(
                at, r.choice(("[", "[[recipe]]", "[a" + ".a" * 2000 + "]", "[recipe]", "x", "\0", '"""', "a.b.c = 1"))
            )
        else:
            lines.insert(at, f"{r.choice(('x', 'schema', 'name', 'steps'))} = {r.choice(TOML_VALUES)}")
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def words(r: Random, data: bytes) -> bytes:
    """Words of a command line, one a line: one of them changed, or another one in its place."""
    lines = data.split(b"\n")
    at = r.randrange(len(lines))
    how = r.randrange(6)
    if how < 2:
        lines[at] = raw(r, lines[at])
    elif how == 2:
        key, equals, _ = lines[at].partition(b"=")
        lines[at] = key + equals + r.choice((*TOML_VALUES, *WORDS)).encode("utf-8", "surrogatepass")
    elif how == 3:
        lines[at] = str(r.choice(NUMBERS)).encode()
    else:
        lines[at] = re.sub(rb"[\d.]+", lambda _: str(r.choice(NUMBERS)).encode(), lines[at], count=1)
    return b"\n".join(line.replace(b"\n", b" ") for line in lines)

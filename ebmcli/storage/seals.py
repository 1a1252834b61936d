"""Checksums: facts that are sealed with their own, and what a file turned out to be.

Sealed facts are a JSON object that holds under `sha256` the checksum of everything else in it, and says that it does.
They may hold the checksums of other files in turn, so one sealed file vouches for a whole folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ebmcli.errors import EBMError
from ebmcli.storage.reading import checked, read_json

MARK, KEY = "sealed", "sha256"
NONE = "it has no checksum"
"""Why something is unverifiable."""
T = TypeVar("T")


class Soundness(StrEnum):
    """What reading something through came to."""

    SOUND = "sound"
    """every checksum is right"""
    DAMAGED = "damaged"
    """a checksum is wrong, or it cannot be read"""
    UNVERIFIABLE = "unverifiable"
    """it can be read, and has no checksum"""


class Finding(NamedTuple):
    """One file, or part of a folder, that was read through."""

    path: Path
    state: Soundness
    reason: str = ""
    """what is wrong, or why it cannot be told; empty where it is sound"""


def sum_of(content: bytes) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sum_of_file(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without their seal."""
    return {k: v for k, v in facts.items() if k not in (MARK, KEY)}


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, as JSON can hold them, with their own checksum."""
    own = plain(facts)
    return {**own, MARK: True, KEY: _sum_of_facts(own)}


def seal_of(facts: Mapping[str, Any]) -> Soundness:
    """Whether facts read from a file are those that were sealed."""
    if MARK not in facts and KEY not in facts:
        return Soundness.UNVERIFIABLE
    # Both have to be there, so that no single changed letter makes a seal disappear.
    whole = facts.get(MARK) is True and facts.get(KEY) == _sum_of_facts(plain(facts))
    return Soundness.SOUND if whole else Soundness.DAMAGED


def dumps(facts: Mapping[str, Any]) -> str:
    """A file's text of sealed facts, a line each."""
    return json.dumps(sealed(facts), indent=2) + "\n"


def read_sealed(path: Path, schema: type[T]) -> T:
    """Sealed facts of a file, without their seal, as `schema`; those that never had one are taken as they are.

    Raises:
        EBMError: it cannot be read, has another content than was sealed, or does not fit the schema.
    """
    raw = read_json(path, dict[str, Any])
    if seal_of(raw) is Soundness.DAMAGED:
        raise EBMError(
            f"{path} is damaged: its checksum is not that of its content",
            f"if you changed it by hand, take the lines {MARK} and {KEY} out of it too",
        )
    return checked(plain(raw), schema, str(path))


def _sum_of_facts(own: Mapping[str, Any]) -> str:
    text = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return sum_of(text.encode())

"""Checksums: facts that are sealed with their own, and what a file turned out to be (floor 2).

Sealed facts are a JSON object that holds under `sha256` the checksum of everything else in it. They may hold the
checksums of other files in turn, so one sealed file vouches for a whole folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

KEY = "sha256"


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


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, as JSON can hold them, with their own checksum."""
    plain = {k: v for k, v in facts.items() if k != KEY}
    return {**plain, KEY: _sum_of_facts(plain)}


def seal_of(facts: Mapping[str, Any]) -> Soundness:
    """Whether facts read from a file are those that were sealed."""
    if KEY not in facts:
        return Soundness.UNVERIFIABLE
    plain = {k: v for k, v in facts.items() if k != KEY}
    return Soundness.SOUND if _sum_of_facts(plain) == facts[KEY] else Soundness.DAMAGED


def _sum_of_facts(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return sum_of(text.encode())

"""A reader with every fault that is looked for, by which the search itself is tested."""

from __future__ import annotations

import ctypes
import time
import zlib
from pathlib import Path

from ebmcli.errors import EBMError
from fuzzing.table import Files, reader

VALID = b"valid"
FAULTS = ("none", "known", "unknown", "memory", "crash", "endless")


def _sample() -> list[Files]:
    return [{"a.fault": VALID}]


@reader("faulty", _sample, share=0, group="faulty")
def read_faulty(folder: Path) -> None:
    """Fails in one way or another, as the damaged content has it."""
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    fault = "none" if data == VALID else FAULTS[zlib.crc32(data) % len(FAULTS)]
    if fault == "known":
        raise EBMError("as it should be")
    if fault == "unknown":
        raise KeyError("a key")
    if fault == "memory":
        bytearray(2**31)
    if fault == "crash":
        ctypes.string_at(0)
    while fault == "endless":
        time.sleep(0.1)

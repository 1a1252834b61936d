"""Only plain files of a believable size are opened.

A named pipe would be waited for, a device read for ever, and a file beyond all measure would fill the memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ebmcli.errors import EBMError

HINT = "check that the path is the one that you mean"

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_plain(path: Path, largest: int | None = None, *, hint: str = HINT) -> os.stat_result:
    """The status of a plain file, links followed; the file is not opened.

    Args:
        path: of the file.
        largest: bytes beyond which it is not read; None for any size.
        hint: what to do about a file that is too large.

    Raises:
        EBMError: it is a folder, a named pipe, a socket or a device, or it is larger than `largest`.
        OSError: it is missing, or its folder cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for matches, name in _KINDS if matches(status.st_mode)), "of another kind")
        raise EBMError(f"{path} is {kind}, not a plain file", "give the path of a file")
    if largest is not None and status.st_size > largest:
        raise EBMError(f"{path} has {status.st_size:,} bytes, expected at most {largest:,}", hint)
    return status

"""The one gate through which code that somebody names is imported.

A model's `network` and a recipe's `potential.network` may name code, `package.module:factory`. Files travel, so a
file that names code is no reason to run it: only the person at the keyboard is, anew each time (`--trust-code`, or
`trusted=True` in Python). No file, no stored setting and no variable of the environment can give that consent.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

from ebmcli.errors import ConsentError


def is_code(name: str) -> bool:
    """Whether a network's name means code to import, `package.module:factory`, and not a network of the package."""
    return ":" in name


def unasked(name: str) -> str:
    """What is said of a file that names code as its network, where the user has not allowed that."""
    return f"this file names code to run as its network ({name}), which is not done unasked"


def import_named(name: str, *, trusted: bool, refusal: str) -> Any:
    """What `package.module:attribute` names; of the present folder too, which a user who names code means as well.

    Args:
        name: where the code is, as `package.module:attribute`.
        trusted: whether the user has allowed this import, in this very call or command.
        refusal: message of the error where the user has not.

    Raises:
        ConsentError: not `trusted`; nothing was looked for, and `sys.path` is as it was.
        Exception: whatever the import does.
    """
    if not trusted:
        raise ConsentError(refusal)
    module, _, attribute = name.partition(":")
    with contextlib.suppress(FileNotFoundError):  # a folder that was removed
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: no file here may stand in for a module of Python's
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found

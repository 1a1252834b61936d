"""Messages of the library in the words of the command line.

Below the command line a message names a field as a Python caller knows it, in backquotes: choose another `out`. Here
it becomes the option of that name of the command that runs: choose another --out.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

FIELDS = {"start": "from", "n_leapfrog": "leapfrog", "trusted": "trust-code", "count": "count", "columns": "column"}
"""Fields whose option has another name than theirs."""

_FIELD = re.compile(r"`([a-z][a-z0-9_]*)`")


def options_of(command: Any, words: list[str]) -> Set[str]:
    """The options of a command, or of the one under it that the words after its name call."""
    for word in words:
        under = getattr(command, "commands", {}).get(word)
        if under is None:
            break
        command = under
    return {option for param in command.params for option in (*param.opts, *param.secondary_opts)}


def in_options(text: str, options: Set[str]) -> str:
    """`text` with each field in backquotes as the option of its name; without quotes where there is no such option."""

    def option(found: re.Match[str]) -> str:
        names = (found[1], FIELDS.get(found[1], found[1]))
        return next((o for n in names if (o := f"--{n.replace('_', '-')}") in options), found[1])

    return _FIELD.sub(option, text)

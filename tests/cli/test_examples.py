"""The examples that end each command's help: there are two or three everywhere, and they work as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.hub_server import Hub, online
from helpers.quick import ebm

from ebmcli.cli._app import COMMANDS, load
from ebmcli.cli._examples import EXAMPLES

ON_THE_HUB = ("push", "pull")
"""Commands whose examples need a Hub: here a stand-in, whose user is another than `you`."""


def paths() -> Iterator[tuple[str, Any]]:
    """Every command, and every command under one, by the words after `ebm`."""
    for name in COMMANDS:
        command = load(name)
        yield name, command
        for under, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                yield f"{name} {under}", child


def test_every_command_ends_with_examples() -> None:
    """Two or three of its own, and no others are kept."""
    found = dict(paths())
    assert EXAMPLES.keys() == found.keys()
    for path, command in found.items():
        lines = EXAMPLES[path]
        assert 1 <= len(lines) <= 3
        assert all(f"  {line}" in command.epilog for line in lines)
        assert any(line.startswith(f"ebm {path}") for line in lines), path


@pytest.mark.slow
def test_the_examples_work_as_they_stand(tmp_path: Path) -> None:
    """One after the other in one empty folder, as a person would try them."""
    with Hub(cdn=True) as hub:
        for path, lines in EXAMPLES.items():
            for line in lines:
                words = [word.replace("you/", "tester/") for word in shlex.split(line)[1:]]
                if path in ON_THE_HUB:
                    online(hub, *words, cwd=tmp_path, check=0)
                else:
                    ebm(*words, cwd=tmp_path, check=0)


def test_the_quick_examples_work_as_they_stand(tmp_path: Path) -> None:
    """Those that take no chain and no network, in every run of the tests."""
    for path in ("recipe list", "recipe show", "recipe copy", "recipe schema", "models", "data list", "inspect", "env"):
        for line in EXAMPLES[path]:
            if "runs/" not in line and "digits.png" not in line:
                ebm(*shlex.split(line)[1:], cwd=tmp_path, check=0)

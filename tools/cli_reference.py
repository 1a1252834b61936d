"""Every command with its options on one page, in Markdown, made from the commands themselves.

`python tools/cli_reference.py` prints it; `--write docs/cli.md` writes it, and `--check docs/cli.md` exits 1 where the
file is out of date. It reads the commands' parameters, not Typer's help text, so it hardly depends on Typer's version;
a test holds the page against what `--help` prints.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ebmcli.cli._app import COMMANDS, build, load, report
from ebmcli.errors import EBMError, Exit, UsageError

HEAD = """# Commands

Every command with its options, as `--help` prints them. This page is made by `make docs`.
"""
WIDTH = 100


def reference() -> str:
    """The whole page: the root's options, then every command, then every subcommand."""
    lines = [HEAD, "```text", *_entry("ebm", build()), "```", ""]
    for name in COMMANDS:
        for path, command in _walk(f"ebm {name}", load(name)):
            lines += [f"## `{path}`", "", "```text", *_entry(path, command), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str]) -> int:
    """`[--write FILE | --check FILE]`; returns the exit code."""
    if not arguments:
        print(reference(), end="")
        return int(Exit.DONE)
    if len(arguments) != 2 or arguments[0] not in ("--write", "--check"):
        raise UsageError("expected nothing, --write FILE or --check FILE", "make docs writes docs/cli.md")
    path = Path(arguments[1])
    made = reference()
    if arguments[0] == "--write":
        path.write_text(made, encoding="utf-8")
        return int(Exit.DONE)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if made != text:
        raise EBMError(
            f"{path} is out of date",
            "make docs writes it anew",
            details=_difference(text, made),
        )
    return int(Exit.DONE)


def _difference(old: str, new: str) -> tuple[str, ...]:
    """The first lines that differ."""
    import difflib

    changes = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))
    return tuple(line for line in changes[2:] if not line.startswith("@@"))[:12]


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and the commands under it, the hidden ones left out."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _walk(f"{path} {name}", child)


def _entry(path: str, command: Any) -> list[str]:
    """Synopsis, help and parameters of one command."""
    params = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in params if p.param_type_name == "argument"]
    options = [p for p in params if p.param_type_name == "option"]
    group = hasattr(command, "list_commands")
    words = [path, *(["[OPTIONS]"] if options else []), *(_argument(p) for p in arguments)]
    lines = [" ".join([*words, *(["COMMAND …"] if group else [])])]
    for paragraph in (command.help or "").replace("\b", "").split("\n\n"):
        if paragraph.strip():
            lines += [
                "",
                *textwrap.wrap(" ".join(paragraph.split()), WIDTH - 2, initial_indent="  ", subsequent_indent="  "),
            ]
    rows = [(_label(p), _help(p)) for p in [*arguments, *options]]
    if rows:
        lines += ["", *_columns(rows)]
    examples = (getattr(command, "epilog", None) or "").replace("\b\n", "").splitlines()
    return lines + ([""] + [f"  {line}" for line in examples] if examples else [])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Labels on the left, texts wrapped on the right."""
    indent = min(max(len(label) for label, _ in rows), 30) + 4
    lines = []
    for label, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - indent) or [""]
        if len(label) > indent - 4:
            lines.append(f"  {label}")
        else:
            lines.append(f"  {label}".ljust(indent) + wrapped.pop(0))
        lines += [" " * indent + line for line in wrapped]
    return [line.rstrip() for line in lines]


def _argument(param: Any) -> str:
    name = _label(param) + ("…" if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _label(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    names = ", ".join([*param.opts, *param.secondary_opts])
    if param.is_flag or getattr(param, "count", False):
        return names
    return f"{names} {param.metavar or _choices(param) or param.name.upper()}"


def _choices(param: Any) -> str:
    """`a|b|c` of a parameter that takes one of a few values."""
    described = getattr(param, "type_descriptor", None) or getattr(param, "type", None)
    return "|".join(str(getattr(c, "value", c)) for c in getattr(described, "choices", None) or ())


def _help(param: Any) -> str:
    notes = []
    if param.envvar:
        notes.append(f"env: {param.envvar if isinstance(param.envvar, str) else ', '.join(param.envvar)}")
    shown, default = param.show_default, param.default
    if isinstance(default, Enum):
        default = None if type(default).__name__ == "Sentinel" else default.value
    if isinstance(shown, str):
        notes.append(f"default: {shown}")
    elif shown is not False and isinstance(default, str | int | float | Path) and not isinstance(default, bool):
        notes.append(f"default: {default}")
    if param.required:
        notes.append("required")
    text = " ".join((param.help or "").split())
    return f"{text} [{'; '.join(notes)}]".strip() if notes else text


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EBMError as problem:
        report(problem.message, problem.hint, problem.details)
        sys.exit(int(problem.code))

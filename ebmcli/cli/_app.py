"""The command line `ebm`: one file per command, imported when that command is run, not before.

`COMMANDS` names every command with its one-line help and the place it lives in, so `ebm --help` and shell
completion of command names import neither torch nor any command. `run` turns every failure into `error:` and
`hint:` lines on stderr and the exit codes of `ebmcli.errors.Exit`; the console script is `ebmcli.__main__`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
import typer.core
import typer.main

from ebmcli._version import __version__
from ebmcli.cli._examples import epilogue
from ebmcli.cli._streams import secure
from ebmcli.cli._words import in_options, options_of
from ebmcli.errors import ConsentError, EBMError, Exit, UsageError, of_memory, of_system
from ebmcli.text import one_line, visible


class Command(NamedTuple):
    """A command's one-line help and where its function or Typer application is: `module:attribute`."""

    help: str
    target: str


COMMANDS: dict[str, Command] = {
    "train": Command("Learn an energy from images or 2-D points (Algorithm 1).", "ebmcli.cli.train:train"),
    "sample": Command("Draw samples from a learned energy by Langevin dynamics.", "ebmcli.cli.sample:sample"),
    "longrun": Command("Run chains long enough to judge an energy by, and judge it.", "ebmcli.cli.longrun:longrun"),
    "chain-video": Command("Film the chains of a model, or of two side by side.", "ebmcli.cli.chain_video:chain_video"),
    "compare": Command("Compare energies, ours and others', on the same noise.", "ebmcli.cli.compare:compare"),
    "map": Command("Map an energy: its basins, and the hills between them.", "ebmcli.cli.map:map_"),
    "diagnose": Command("Show how a run learns, and what its energy is.", "ebmcli.cli.diagnose:diagnose"),
    "sweep": Command("Learn a recipe at many settings, and draw what r came to.", "ebmcli.cli.sweep:sweep"),
    "interpolate": Command("Walk between starts of a short run.", "ebmcli.cli.interpolate:interpolate"),
    "reconstruct": Command("Find the start that leads to an image.", "ebmcli.cli.reconstruct:reconstruct"),
    "data": Command("List, fetch, show and clear sets of images.", "ebmcli.cli.data:app"),
    "runs": Command("List runs, and draw their curves.", "ebmcli.cli.runs:runs"),
    "inspect": Command("Say what a model, a run or a picture of ours is.", "ebmcli.cli.inspect:inspect"),
    "models": Command("List the models of the package, or those on the Hub.", "ebmcli.cli.models:models"),
    "export": Command("Write a model as a folder that stands alone.", "ebmcli.cli.export:export"),
    "convert": Command("Turn the authors' .pth into a model of ours, or back.", "ebmcli.cli.convert:convert"),
    "push": Command("Publish a model on the Hugging Face Hub.", "ebmcli.cli.push:push"),
    "pull": Command("Fetch a model from the Hugging Face Hub.", "ebmcli.cli.pull:pull"),
    "recipe": Command("List, show, copy and check recipes.", "ebmcli.cli.recipe:app"),
    "bench": Command("Time a Langevin step here, against the plain loop.", "ebmcli.cli.bench:bench"),
    "env": Command("Show versions, devices, the engine and folders, for a report.", "ebmcli.cli.env:env"),
}

_HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def load(name: str) -> Any:
    """Import the command `name` and build it, with the one-line help of the table where it has none."""
    entry = COMMANDS[name]
    module, _, attribute = entry.target.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
        command.no_args_is_help = True
        command.params = [p for p in command.params if p.name not in {"install_completion", "show_completion"}]
    else:
        single = typer.Typer(add_completion=False, context_settings=_HELP_NAMES, rich_markup_mode=None)
        single.command(name)(target)
        command = typer.main.get_command(single)
    command.name = name
    command.help = command.help or entry.help
    _end_with_examples(command, name)
    _refuse_empty_words(command)
    return command


def _end_with_examples(command: Any, path: str) -> None:
    """Let the help of a command, and of the commands under it, end with examples."""
    command.epilog = epilogue(path)
    for name, under in getattr(command, "commands", {}).items():
        _end_with_examples(under, f"{path} {name}")


def _refuse_empty_words(command: Any) -> None:
    """Let no parameter of a command, or of the commands under it, take a word without a letter.

    Such a word is a variable of the shell that is not set: as a model it would mean the default, as a path the
    present folder, and neither was asked for.
    """
    for param in command.params:
        param.process_value = _refusing_empty_words(param)
    for under in getattr(command, "commands", {}).values():
        _refuse_empty_words(under)


def _refusing_empty_words(param: Any) -> Any:
    """The parameter's `process_value`, asked only after the words as they were typed: as a path, "" is "."."""
    process = param.process_value

    def checked(ctx: Any, value: Any) -> Any:
        words = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(word, str) and not word.strip() for word in words):
            what = param.opts[0] if param.param_type_name == "option" else (param.metavar or param.name.upper())
            raise UsageError(
                f"{what.strip('[].')} is an empty word",
                "is a variable of the shell not set? give a value, or leave it out",
            )
        return process(ctx, value)

    return checked


class LazyGroup(typer.core.TyperGroup):
    """A group that lists commands from `COMMANDS` and imports one only when it is to run."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A name and a help line, enough for `--help` and completion."""
        if cmd_name not in COMMANDS:
            return None
        return typer.core.TyperCommand(cmd_name, help=COMMANDS[cmd_name].help, rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, imported; an unknown name is a usage error with the nearest known name."""
        name = args[0]
        if name in COMMANDS:
            return name, load(name), args[1:]
        if ctx.resilient_parsing:
            return None, None, args[1:]
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean 'ebm {near[0]}'?" if near else "'ebm --help' lists the commands"
        raise UsageError(f"no such command: {name!r}", hint)


app = typer.Typer(
    cls=LazyGroup,
    name="ebm",
    help="Energy-based models of images: learn them, sample them, judge them.",
    context_settings=_HELP_NAMES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ebm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def build() -> Any:
    """The whole command tree's root, as Typer builds it (the commands under it are still unimported)."""
    return typer.main.get_command(app)


def report(message: str, hint: str = "", details: Sequence[str] = ()) -> None:
    """Print a failure on stderr: `error:`, its detail lines, `hint:`."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    red, cyan, plain = ("\033[1;31m", "\033[36m", "\033[0m") if colour else ("", "", "")
    lines = [f"{red}error:{plain} {visible(message)}", *(f"  {visible(line)}" for line in details)]
    if hint:
        lines.append(f"{cyan}hint:{plain} {visible(hint)}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _report_usage(error: Any) -> None:
    """A usage error of Typer's parser, in our form."""
    text = error.format_message().strip()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text, file=sys.stderr)
        return
    near = list(getattr(error, "possibilities", None) or ())
    message, _, question = (error.message if near else text).partition(" Did you mean ")
    message = " ".join(message.split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if near or question:
        hint = f"did you mean {question or ' or '.join(sorted(near)) + '?'}"
    elif context is not None:
        hint = f"'{context.command_path} --help' shows what it takes"
    else:
        hint = ""
    report(message, hint)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; everything that goes wrong is reported here.

    Args:
        arguments: the words after `ebm`; `sys.argv[1:]` when left out.
    """
    debug = os.environ.get("EBM_DEBUG", "") not in ("", "0")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            result = build().main(args=words, prog_name="ebm", standalone_mode=False)
        finally:
            sys.stdout.flush()
        if result == Exit.INTERRUPTED:  # newer Typer turns Ctrl-C into an exit code of its own
            report("interrupted")
        return int(result) if isinstance(result, int) and not isinstance(result, bool) else int(Exit.DONE)
    except BrokenPipeError:  # of stdout: its reader has what it wanted
        return int(Exit.FAILED)
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        report("interrupted")
        return int(Exit.INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _report_usage(error)
            return int(error.exit_code)
        if debug:
            import traceback

            print(visible(traceback.format_exc(), keep="\n"), file=sys.stderr)
        known = _as_known(error, words)
        options = options_of(load(words[0]), words[1:]) if words[:1] and words[0] in COMMANDS else frozenset()
        message, hint = in_options(known.message, options), in_options(known.hint, options)
        report(message, "" if debug and not isinstance(error, EBMError) else hint, known.details)
        return int(known.code)


def _as_known(error: Exception, words: Sequence[str]) -> EBMError:
    """A failure in our form: ours as it is, one of the system with its file and a hint, any other by its type."""
    if isinstance(error, ConsentError):  # the hint in words of the command line: consent is given anew, and only here
        how = f"if you know where the file and that code come from, allow it: ebm {shlex.join(words)} --trust-code"
        return EBMError(error.message, how, code=error.code)
    if isinstance(error, EBMError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return of_system(error)
    if no_room := of_memory(error):
        return no_room
    text = one_line(error)
    name = type(error).__name__
    return EBMError(f"{name}: {text}" if text else name, "set EBM_DEBUG=1 for the traceback")


def main() -> None:
    """Run the command line and end the process with its exit code; `ebmcli.__main__` sees to Ctrl-C besides."""
    secure()
    sys.exit(run())

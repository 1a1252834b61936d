"""What a terminal, a pipe and a shell may do to the command line: odd letters, closed and full streams, empty words."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ebmcli
from ebmcli.cli import _app as cli
from ebmcli.cli._output import Output, result_json
from ebmcli.errors import EBMError, Exit, UsageError, of_memory, of_system
from ebmcli.text import markdown, shortened, visible

HOSTILE = "name\x1b]0;title\x07\x1b[31m\r\nerror: forged\x9b2J\x7f\u202eevil\udce9"
"""A name that moves the cursor, forges a line, turns the direction, and is no UTF-8."""
SHOWN = r"name\x1b]0;title\x07\x1b[31m\r\nerror: forged\x9b2J\x7f\u202eevil\udce9"


def shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of sh in which `ebm` is this package's command."""
    own = {**os.environ, **env, "PYTHONPATH": str(Path(cli.__file__).resolve().parents[2])}
    line = f'ebm() {{ "{sys.executable}" -m ebmcli "$@"; }}; {line}'
    return subprocess.run(["sh", "-c", line], cwd=cwd, env=own, capture_output=True, check=False, timeout=120)


def test_what_is_shown_of_hostile_text() -> None:
    """Escapes in its place; letters of all languages as they are."""
    assert visible(HOSTILE) == SHOWN
    assert visible("ε × 漢字 naïve 👩‍🔬") == "ε × 漢字 naïve 👩‍🔬"
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"
    assert len(shortened("x" * 5000)) == 201


def test_output_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Every way of saying something shows hostile text on one line."""
    out = Output(verbose=True)
    out.say(HOSTILE)
    out.detail(HOSTILE)
    out.warn(HOSTILE)
    out.data(HOSTILE)
    out.table([(HOSTILE, 1)], (HOSTILE, "n"))
    with out.progress(HOSTILE, total=2, every=0.0) as bar:
        bar.update(name=HOSTILE)
    cli.report(HOSTILE, HOSTILE, [HOSTILE])
    told = capsys.readouterr()
    assert told.out.count(SHOWN) == 3
    assert told.err.count(SHOWN) == 8
    assert len((told.out + told.err).splitlines()) == 10
    assert not {c for c in told.out + told.err if c < " " or c in "\x7f\x9b\u202e"} - {"\n"}


def test_json_holds_hostile_text_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """What is read back is what was there; what is printed is safe."""
    result_json({HOSTILE: [HOSTILE, "漢"]})
    told = capsys.readouterr().out
    assert json.loads(told) == {HOSTILE: [HOSTILE, "漢"]}
    assert "漢" in told
    assert not {c for c in told if c < " " or c in "\x7f\x9b\u202e\udce9"} - {"\n"}


def test_json_in_letters_that_stdout_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow stream gets escapes of JSON, not stand-ins that change the value."""
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    result_json({"set": "ε漢"})
    narrow.flush()
    assert json.loads(narrow.buffer.getvalue().decode("ascii")) == {"set": "ε漢"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_letter_is_too_much_for_a_stream(encoding: str, tmp_path: Path) -> None:
    """Help, tables and errors in stand-ins, in the stream's own encoding."""
    line = "ebm sample --help && ebm recipe show mnist_shortrun && ebm recipe show \"$(printf 'x\\351')\""
    ran = shell(line, tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert ran.returncode == Exit.USAGE
    told, error = ran.stdout.decode(encoding), ran.stderr.decode(encoding)
    assert ("eps, pixel units" in told) == (encoding != "utf-8")
    assert r"x\udce9" in error
    assert len(error.splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&-"])
def test_a_closed_stream_costs_nothing(closed: str, tmp_path: Path) -> None:
    """The picture is written and whole, the exit code is 0, and nothing is complained of."""
    ran = shell(f"ebm sample gmm-shortrun --steps 1 -n 4 -o a.png {closed}", tmp_path)
    assert ran.returncode == Exit.DONE
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"Traceback" not in ran.stderr
    assert ran.stdout == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
@pytest.mark.parametrize("words", ["recipe list", "recipe list --json", "env --help", "--version"])
def test_a_full_stdout_is_said(words: str, tmp_path: Path) -> None:
    """One error, exit 1, no traceback at the end either."""
    ran = shell(f"ebm {words} >/dev/full", tmp_path)
    assert ran.returncode == Exit.FAILED
    assert ran.stderr.decode().splitlines()[0] == "error: the result cannot be printed: No space left on device"
    assert len(ran.stderr.splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
def test_a_full_stderr_costs_nothing(tmp_path: Path) -> None:
    """Words to the user are lost, the result is not."""
    ran = shell("ebm sample gmm-shortrun --steps 1 -n 4 -o a.png 2>/dev/full", tmp_path)
    assert ran.returncode == Exit.DONE
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["inspect", ""], "MODEL|FILE"),
        (["sample", " "], "MODEL"),
        (["sample", "--out", ""], "--out"),
        (["sample", "--from="], "--from"),
        (["sample", "--seed", ""], "--seed"),
        (["compare", "gmm-shortrun", "\t"], "MODEL"),
        (["train", "x", "--set", "train.updates=1", "--set", ""], "--set"),
        (["data", "show", ""], "DATA"),
        (["recipe", "copy", "mnist_shortrun", ""], "DEST"),
        (["runs", "one", ""], "FOLDER"),
        (["push", "", "me/mine"], "MODEL"),
    ],
    ids=" ".join,
)
def test_empty_words_are_refused(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the argument's name, with exit 2: an unset variable must not mean the default or the present folder."""
    assert cli.run(words) == Exit.USAGE
    told = capsys.readouterr()
    assert told.err.splitlines()[0] == f"error: {name} is an empty word"
    assert told.out == ""


def test_every_parameter_refuses_empty_words() -> None:
    """All commands and all commands under them are built with the refusal."""

    def commands(command):
        yield command
        for under in getattr(command, "commands", {}).values():
            yield from commands(under)

    for name in cli.COMMANDS:
        for command in commands(cli.load(name)):
            for param in command.params:
                with pytest.raises(UsageError, match="empty word"):
                    param.process_value(None, "")


def test_an_empty_name_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python too; an empty EBM_MODEL is as an unset one."""
    with pytest.raises(UsageError, match="empty"):
        ebmcli.load("")
    monkeypatch.setenv("EBM_MODEL", "")
    assert ebmcli.load().config.name


def test_errors_of_the_system_have_one_form() -> None:
    """The file, why, and what to do; a long name is shortened."""
    error = of_system(OSError(28, "No space left on device", "runs/a"))
    assert error.message == "runs/a: No space left on device"
    assert error.hint == "make room on the disk, or choose another place"
    assert len(of_system(OSError(36, "File name too long", "x" * 4000)).message) < 300
    assert isinstance(error, EBMError)


def test_raw_errors_of_the_system_are_caught_at_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder should be, a name too long: an error with a hint, whatever the command."""
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "a.toml", tmp_path / ("x" * 300), Path("/proc/none/a.toml")):
        assert cli.run(["recipe", "copy", "mnist_shortrun", str(target)]) == Exit.FAILED
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("error: ")
        assert "Error:" not in first
        assert second.startswith("hint: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
def test_results_are_written_before_tables_are_printed(tmp_path: Path) -> None:
    """What took long to compute is in its file, whatever becomes of stdout."""
    words = "compare gmm-shortrun gmm-convergent --steps 4 --count 4 --html page.html --png page.png -q"
    ran = shell(f"ebm {words} >/dev/full", tmp_path)
    assert ran.returncode == Exit.FAILED
    assert b"cannot be printed" in ran.stderr
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")
    assert (tmp_path / "page.png").is_file()


@pytest.mark.parametrize("words", [["sample", "--out"], ["compare", "--png"], ["reconstruct", "--out"]], ids=" ".join)
def test_places_that_cannot_be_written_are_said_first(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is computed: these would take hours."""
    (tmp_path / "file").write_text("x")
    long = ["--iterations" if words[0] == "reconstruct" else "--steps", "9999999"]
    for target in (tmp_path / "file" / "a.png", tmp_path / f"{'x' * 300}.png", Path("/proc/none/a.png")):
        assert cli.run([*words, str(target), *long]) == Exit.FAILED
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("error: ")
        assert "Error:" not in first
        assert second.startswith("hint: ")


def test_markdown_reads_as_itself() -> None:
    """No tag, link, table cell, heading or line of its own."""
    made = markdown("<img src=x onerror=alert(1)> [a](javascript:x) `b` | c\n# d *e*")
    assert "<" not in made
    assert "\n" not in made
    assert "](" not in made
    for mark in "`|*#":
        assert f"\\{mark}" in made


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_commands_are_imported(python) -> None:
    """From the first line of the console script on: one line and exit 130, whatever is being imported."""
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from ebmcli.__main__ import main
main()
"""
    for moment in ("typer", "ebmcli.cli._app", "pydantic"):
        ran = python("-c", code.format(moment=moment), "recipe", "list")
        assert (ran.code, ran.stderr, ran.stdout) == (130, "error: interrupted\n", "")


def test_memory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What cannot be held is said as that, with the amount; other failures stay what they are."""
    import numpy as np
    import torch

    from ebmcli.cli import _app as cli

    for call in (
        lambda: torch.empty(2**50),
        lambda: torch.empty(2**62, 4),
        lambda: np.empty(2**45),
        lambda: np.empty((2**62, 4)),
        lambda: bytearray(2**50),
    ):
        with pytest.raises((MemoryError, RuntimeError, ValueError)) as raised:
            call()
        known = of_memory(raised.value)
        assert known is not None, raised.value
        assert "not enough memory" in known.message
    assert of_memory(RuntimeError("shapes do not fit")) is None
    model = Path(__file__).parents[1] / "helpers" / "weights" / "gmm_shortrun.safetensors"
    assert cli.run(["sample", str(model), "--count", str(2**45), "--out", str(tmp_path / "a.png")]) == Exit.FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: there is not enough memory"), said
    assert "EBM_DEBUG" not in said

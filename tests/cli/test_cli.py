"""The command line's frame: help without torch, errors in one form, exit codes, streams, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmcli import __version__
from ebmcli.cli import _app as cli
from ebmcli.cli._app import load
from ebmcli.cli._options import check_device
from ebmcli.cli._output import Output, plain, result_json
from ebmcli.cli._words import in_options, options_of
from ebmcli.errors import Exit

HEAVY = ("torch", "numpy", "PIL", "huggingface_hub", "safetensors", "rich.progress")


@pytest.fixture
def boom(tmp_path: Path, python):
    """`boom(body, *words)` runs `ebm boom` with a command whose function has that body."""

    def run(body: str, *words: str, env: dict[str, str] | None = None):
        source = "from ebmcli.errors import *\nimport sys\ndef boom(times: int = 1) -> None:\n    'Fail.'\n"
        (tmp_path / "boom.py").write_text(source + textwrap.indent(textwrap.dedent(body), "    "))
        code = (
            "from ebmcli.cli import _app as cli; cli.COMMANDS['boom'] = cli.Command('Fail.', 'boom:boom'); cli.main()"
        )
        return python(
            "-c",
            code,
            "boom",
            *words,
            env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{cli_root()}", **(env or {})},
        )

    return run


def cli_root() -> str:
    """Where the package is imported from."""
    return str(Path(cli.__file__).resolve().parents[2])


def test_help_lists_every_command_and_is_quick(run_cli) -> None:
    """One line each, and the best of a few runs is under 0.4 s."""
    best = 9.0
    for _ in range(4):
        began = time.monotonic()
        ran = run_cli("--help", check=0)
        best = min(best, time.monotonic() - began)
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in ran.stdout
        assert command.help.rstrip(".")[:40] in ran.stdout
    assert not ran.stderr
    assert best < 0.4, f"ebm --help took {best:.2f} s"
    assert run_cli("-h", check=0).stdout == ran.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["smaple"], *([n, "--help"] for n in cli.COMMANDS)], ids=" ".join
)
def test_help_imports_nothing_heavy(words: list[str], python) -> None:
    """Neither the root's help nor a command's own imports torch."""
    heavy = HEAVY if len(words) == 1 else ("torch",)
    code = (
        f"import sys; from ebmcli.cli._app import run; code = run(); "
        f"print([m for m in {heavy!r} if m in sys.modules], code)"
    )
    ran = python("-c", code, *words, check=0)
    assert ran.stdout.splitlines()[-1] == f"[] {2 if words == ['smaple'] else 0}", ran.stderr


def test_recipe_list_does_not_import_torch(python) -> None:
    """Listing recipes is as light as help."""
    ran = python(
        "-c",
        "import sys; from ebmcli.cli import _app as cli; assert cli.run() == 0; assert 'torch' not in sys.modules",
        "recipe",
        "list",
    )
    assert ran.code == 0, ran.stderr


def test_version(run_cli) -> None:
    """The version on stdout."""
    assert run_cli("--version", check=0).stdout == f"ebm {__version__}\n"


def test_nothing_given_shows_help_and_is_a_usage_error(run_cli) -> None:
    """`ebm` alone says what there is, on stderr."""
    ran = run_cli(check=2)
    assert "Commands:" in ran.stderr
    assert not ran.stdout


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["smaple"], "no such command: 'smaple'", "did you mean 'ebm sample'?"),
        (["zzz"], "no such command: 'zzz'", "'ebm --help' lists the commands"),
        (["env", "--jsn"], "no such option: --jsn", "did you mean --json?"),
        (["--zzz"], "no such option: --zzz", "'ebm --help' shows what it takes"),
        (["recipe", "shwo"], "no such command 'shwo'", "did you mean 'show'?"),
        (["recipe", "show"], "missing argument 'RECIPE'", "'ebm recipe show --help' shows what it takes"),
    ],
)
def test_usage_errors_have_one_form(words: list[str], error: str, hint: str, run_cli) -> None:
    """`error:` and `hint:` on stderr, nothing on stdout, exit 2."""
    ran = run_cli(*words, check=2)
    told = re.sub(r"no such option:? '?(--\w+)'?", r"no such option: \1", ran.stderr)  # Typer's versions differ
    assert told == f"error: {error}\nhint: {hint}\n"
    assert not ran.stdout


def test_a_value_of_the_wrong_kind(boom) -> None:
    """The parser's own complaint, in the same form."""
    ran = boom("pass", "--times", "many")
    assert ran.code == 2
    first, second = ran.stderr.splitlines()
    assert first.startswith("error: invalid value for '--times': ")
    assert second == "hint: 'ebm boom --help' shows what it takes"


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("raise EBMError('it broke', 'mend it')", 1, "error: it broke\nhint: mend it\n"),
        ("raise EBMError('it broke')", 1, "error: it broke\n"),
        (
            "raise UsageError('2 mistakes', 'see x', details=('a: 1', 'b: 2'))",
            2,
            "error: 2 mistakes\n  a: 1\n  b: 2\nhint: see x\n",
        ),
        (
            "raise DivergedError('energies are not finite', 'smaller steps')",
            3,
            "error: energies are not finite\nhint: smaller steps\n",
        ),
        ("raise EBMError('offline', code=Exit.HUB)", 4, "error: offline\n"),
        ("raise KeyboardInterrupt", 130, "error: interrupted\n"),
        (
            "raise ValueError('odd\\nthing')",
            1,
            "error: ValueError: odd thing\nhint: set EBM_DEBUG=1 for the traceback\n",
        ),
        ("import typer; raise typer.Exit(1)", 1, ""),
        ("return Exit.DIVERGED", 3, ""),
        ("sys.exit(4)", 4, ""),
        ("pass", 0, ""),
    ],
)
def test_failures_and_exit_codes(body: str, code: int, stderr: str, boom) -> None:
    """Known errors as they are; unexpected ones on one line; never a traceback."""
    ran = boom(body)
    assert (ran.code, ran.stderr, ran.stdout) == (code, stderr, "")


@pytest.mark.parametrize("body", ["raise EBMError('it broke')", "raise ValueError('odd')"])
def test_debug_shows_the_traceback(body: str, boom) -> None:
    """EBM_DEBUG=1 shows where it came from, the exit code stays."""
    ran = boom(body, env={"EBM_DEBUG": "1"})
    assert ran.code == 1
    assert "Traceback (most recent call last)" in ran.stderr
    assert "boom.py" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`ebm … | head -1` is quiet."""
    (tmp_path / "boom.py").write_text("def boom() -> None:\n    for i in range(200000):\n        print(i)\n")
    code = "from ebmcli.cli import _app as cli; cli.COMMANDS['boom'] = cli.Command('Print.', 'boom:boom'); cli.main()"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{cli_root()}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "boom"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 1


def test_completion(run_cli, tmp_path: Path) -> None:
    """Command names complete, and the script installs into the user's shell files."""
    env = {"_EBM_COMPLETE": "complete_bash", "COMP_WORDS": "ebm s", "COMP_CWORD": "1"}
    assert run_cli(env=env, check=0).stdout.split() == ["sample", "sweep"]
    env = {"_EBM_COMPLETE": "complete_bash", "COMP_WORDS": "ebm env --js", "COMP_CWORD": "2"}
    assert run_cli(env=env, check=0).stdout.split() == ["--json"]
    env = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run_cli("--install-completion", "bash", env=env, check=0)
    assert "_EBM_COMPLETE" in "".join(p.read_text() for p in tmp_path.rglob("*.sh"))


def test_env_tells_all_but_the_token(run_cli) -> None:
    """Versions, devices, engine, folders; of the token only that there is one."""
    ran = run_cli("env", "--json", env={"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "https://me:pw@hub.example"}, check=0)
    facts = json.loads(ran.stdout)
    assert facts["ebm"] == __version__
    assert facts["packages"]["torch"] == torch.__version__
    assert "cpu" in facts["torch"]["devices"]
    assert facts["native_engine"]["available"] in (True, False)
    assert facts["native_engine"]["available"] or facts["native_engine"]["why_not"]
    assert facts["folders"]["cache"] == os.environ["EBM_CACHE"]
    assert facts["hub"]["token"] == "set by HF_TOKEN"
    assert "hf_secret" not in ran.stdout
    assert "pw" not in facts["hub"]["endpoint"]
    assert "packages.torch" in run_cli("env", check=0).stdout


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_device_names(name: str) -> None:
    """All of the words that users may know are taken."""
    assert check_device(name) == name


def test_json_holds_what_json_can(capsys: pytest.CaptureFixture[str]) -> None:
    """Tensors, arrays, paths and numbers that JSON has no word for."""
    value = {
        "r": np.float32(0.5),
        "x": torch.ones(2),
        "nan": float("nan"),
        "out": Path("a.png"),
        "code": Exit.HUB,
    }
    result_json(value)
    assert json.loads(capsys.readouterr().out) == {
        "r": 0.5,
        "x": [1.0, 1.0],
        "nan": None,
        "out": "a.png",
        "code": 4,
    }
    assert plain({1: (np.int64(2), {"b", "a"})}) == {"1": [2, ["a", "b"]]}


def test_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Data on stdout, everything else on stderr, and each switch does what it says."""
    out = Output(verbose=True)
    out.say("said")
    out.detail("detail")
    out.data("row")
    out.table([("a", 1), ("bcd", 22)], header=("name", "n"))
    out.result({"no": 1})
    told = capsys.readouterr()
    assert told.out == "row\nname  n\na     1\nbcd   22\n"
    assert told.err == "said\ndetail\n"
    out = Output(json=True, quiet=True, verbose=True)
    out.say("said")
    out.detail("detail")
    out.data("row")
    out.table([("a", 1)])
    out.warn("careful")
    out.result({"yes": 1})
    told = capsys.readouterr()
    assert json.loads(told.out) == {"yes": 1}
    assert told.err == "warning: careful\n"
    Output().table([])
    assert capsys.readouterr().out == ""


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """No bar; plain lines where they were asked for; the count is kept."""
    with Output().progress("learning", total=4, unit="updates", every=0.0) as bar:
        for _ in range(2):
            time.sleep(0.01)
            bar.update(d=0.125, r=3.0)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0].startswith("learning: 1 of 4, ")
    assert told.err.splitlines()[1].endswith("updates/s d 0.125 r 3")
    assert (bar.done, bar.drawn) == (2, False)
    with Output().counter("decoding") as count:
        count(3, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
def test_progress_on_a_terminal(python) -> None:
    """On a terminal a bar with rate, time left and fields is drawn, and lines said meanwhile stay whole."""
    import pty

    code = """
import time
from ebmcli.cli._output import Output
out = Output()
with out.progress("learning", total=20, unit="updates") as bar:
    for i in range(12):
        time.sleep(0.1)
        bar.update(d=0.25, r=1.5)
        if i == 9:
            out.say("saved [update 9]")
"""
    master, slave = pty.openpty()
    env = {**os.environ, "PYTHONPATH": cli_root(), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE, env=env)
    os.close(slave)
    drawn = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    os.close(master)
    assert process.stdout is not None
    assert process.stdout.read() == b""
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    text = drawn.decode()
    assert "learning" in text
    assert "updates/s" in text
    assert "d 0.25 r 1.5" in text
    assert "saved [update 9]" in text


def test_fields_become_options() -> None:
    """In the words of the command that runs: its own options, those of a command under it, and no others."""
    of_sample = options_of(load("sample"), ["mnist-shortrun"])
    assert in_options("choose another `out`, `start` or `step_size`", of_sample) == (
        "choose another --out, --from or --step-size"
    )
    assert in_options("raise `bank_size` of a recipe", of_sample) == "raise bank_size of a recipe"
    assert in_options("`crop`", options_of(load("data"), ["show", "emoji-1k"])) == "--crop"
    assert in_options("`crop`", options_of(load("data"), ["list"])) == "crop"


def test_an_error_of_the_library_names_options(run_cli) -> None:
    """What is printed is what can be typed."""
    ran = run_cli("sample", "mnist-shortrun", "--backend", "nonsense", "--steps", "0", check=1)
    assert "`" not in ran.stderr

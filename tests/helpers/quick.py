"""`ebm` in processes forked from one that has torch imported: real processes and signals, without the wait.

A test of the interpreter's own start uses `run_cli` of conftest.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran

from ebmcli.storage.tensors import read_tensors

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["pytest", "numpy.random", "PIL.Image", "torch._dynamo", "ebmcli.cli.train", "ebmcli.training.session"]
)

RECIPE = """
schema = 1
[recipe]
name = "tiny"
regime = "convergent"
[data]
source = "mnist-10k"
image_size = 16
channels = 1
noise_std = 0.04
[potential]
network = "vanilla"
width = 4
energy_scale = "langevin"
[mcmc]
init = "persistent"
bank_size = 32
rejuvenation = 0.1
steps = 3
step_size = 0.02
[train]
updates = 40
positives = 8
negatives = 8
ema = 0.9
[optimizer]
name = "adam"
learning_rate = 0.001
stages = [{from_update = 20, name = "sgd", learning_rate = 0.00001, momentum = 0.5}]
[log]
samples_every = 20
checkpoint_every = 20
keep_last = 2
"""
NOISE = RECIPE.replace('init = "persistent"\nbank_size = 32\nrejuvenation = 0.1', 'init = "uniform"').replace(
    'name = "tiny"', 'name = "tiny_noise"'
)


class Running:
    """A command under way."""

    def __init__(self, words: tuple[object, ...], cwd: Path, env: Mapping[str, str]) -> None:
        folder = cwd / ".streams"
        folder.mkdir(exist_ok=True)
        stem = folder / str(time.monotonic_ns())
        self.out, self.err = Path(f"{stem}.out"), Path(f"{stem}.err")
        arguments = (list(map(str, words)), str(cwd), dict(env), str(self.out), str(self.err))
        self.process = _forks.Process(target=_command, args=arguments)
        self.process.start()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        assert self.process.pid is not None
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until `condition`, or the end of the process."""
        end = time.monotonic() + timeout
        while not condition() and self.process.exitcode is None:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.002)

    def end(self, timeout: float = 120.0) -> Ran:
        """Wait for the end."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "still runs"
        texts = [p.read_text() if p.exists() else "" for p in (self.out, self.err)]
        return Ran(self.process.exitcode, *texts)


def _command(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """In the forked process: what the console script does."""
    # As in a shell's foreground: a job in the background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.update(env)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    from ebmcli.cli import _app as cli

    code = cli.run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ebm(*words: object, cwd: Path, check: int | None = None, **env: str) -> Ran:
    """Run a command to its end; with `check`, fail unless that is the exit code."""
    ran = Running(words, cwd, env).end()
    if check is not None:
        assert ran.code == check, f"{words} exited {ran.code}, not {check}\n{ran.stdout}\n{ran.stderr}"
        assert "Traceback" not in ran.stderr
    return ran


def fails(ran: Ran, *parts: str, code: int = 1) -> None:
    """One `error:` line, one `hint:` line, nothing else; each of `parts` is in them."""
    lines = ran.stderr.splitlines()
    assert ran.code == code, ran
    assert len(lines) == 2, ran.stderr
    assert lines[0].startswith("error: "), ran.stderr
    assert lines[1].startswith("hint: "), ran.stderr
    assert "EBM_DEBUG" not in ran.stderr, f"an unforeseen error: {ran.stderr}"
    for part in parts:
        assert part in ran.stderr, ran.stderr


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics, without the times."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run has come to, but for times."""
    newest = max((run / "checkpoints").glob("[0-9]*"))
    result: dict[str, Any] = {"metrics": metrics(run), "kept": sorted(p.name for p in newest.parent.iterdir())}
    result["left over"] = [p.name for p in run.rglob(".*.tmp")]
    result |= {p.name: p.read_bytes() for p in sorted((run / "samples").glob("*.png"))}
    for path in (run / "model.safetensors", newest / "model.safetensors", newest / "state.safetensors"):
        tensors, metadata = read_tensors(path)  # the order of metadata in the file is not fixed
        name = str(path.relative_to(run))
        result[name] = {k: (v.dtype, v.shape, v.numpy().tobytes()) for k, v in tensors.items()}
        result[f"{name} metadata"] = metadata
    return result


def same(run: Path, other: Path) -> None:
    """Two runs have come to the same, bit for bit."""
    one, two = outcome(run), outcome(other)
    assert one.keys() == two.keys()
    different = [k for k in one if one[k] != two[k]]
    assert not different, f"not the same: {different}"


def _folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "quick"
    if not folder.exists():
        folder.mkdir()
        (folder / "tiny.toml").write_text(RECIPE)
        (folder / "tiny_noise.toml").write_text(NOISE)
    return folder


def trained(factory: pytest.TempPathFactory, name: str = "tiny") -> Path:
    """A finished run of 40 updates, `tiny` (persistent, averaged) or `tiny_noise`; not to be changed."""
    folder = _folder(factory)
    if not (folder / name).exists():
        ebm("train", f"{name}.toml", "--out", name, "--threads", 1, cwd=folder, check=0)
    return folder / name


def recipe(factory: pytest.TempPathFactory, name: str = "tiny") -> Path:
    """The recipe file of `trained`."""
    return _folder(factory) / f"{name}.toml"

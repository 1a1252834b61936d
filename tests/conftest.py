"""What all tests share: a cache folder of their own, no network, two threads, and `run_cli`."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

_caches: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module is imported; subprocesses inherit it."""
    _caches.append(tempfile.mkdtemp(prefix="ebm-tests-"))
    os.environ["EBM_CACHE"] = _caches[-1]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["COLUMNS"] = "100"
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    for name in ("EBM_MODEL", "EBM_DEBUG", "FORCE_COLOR", "CLICOLOR_FORCE", "HF_TOKEN"):
        os.environ.pop(name, None)
    import torch

    torch.set_num_threads(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache folder."""
    while _caches:
        shutil.rmtree(_caches.pop(), ignore_errors=True)


class Ran(NamedTuple):
    """What a subprocess came to."""

    code: int
    stdout: str
    stderr: str


def run_python(
    *words: str,
    env: Mapping[str, str] | None = None,
    check: int | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 300.0,
) -> Ran:
    """Run the interpreter with `words`; with `check`, fail unless that is the exit code."""
    own = dict(os.environ)
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH", "")]))
    own.update(env or {})
    done = subprocess.run(
        [sys.executable, *words],
        env=own,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    if check is not None:
        assert ran.code == check, f"{words} exited {ran.code}, not {check}\n{ran.stdout}\n{ran.stderr}"
    return ran


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., Ran]:
    """`run_cli("sample", "--steps", "5", check=0, cwd=tmp_path)` runs `ebm` in a process of its own."""

    def run(
        *arguments: object,
        env: Mapping[str, str] | None = None,
        check: int | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 300.0,
    ) -> Ran:
        return run_python("-m", "ebmcli", *map(str, arguments), env=env, check=check, cwd=cwd, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def python() -> Callable[..., Ran]:
    """`python("-c", code, check=0)` runs the interpreter in a process of its own."""
    return run_python


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(autouse=True)
def _library_is_heard() -> None:
    """What the library logs reaches `caplog`, also after a command that ran in this process and took it for itself."""
    library = logging.getLogger("ebmcli")
    library.handlers[:], library.propagate = [], True
    library.setLevel(logging.NOTSET)

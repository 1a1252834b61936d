"""The table of readers, which the modules beside this one fill, and what they share.

A sample is a folder's files by name; one of them (at times two) is damaged, and the folder is read. What may come of
it is success or a known error. Commands are run as the console script runs them, but in this process.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MODELS = Path(__file__).resolve().parents[1] / "helpers" / "weights"

Files = dict[str, bytes]


class Unknown(Exception):
    """A command ended in an error that it did not foresee; its last words are the message."""


class Reader(NamedTuple):
    """One reader.

    Attributes:
        name: for reports and the command line.
        samples: valid folders.
        read: takes the folder (which is the working folder too); raises EBMError, or returns False, for what it does
            not take.
        damaged: endings of the names of files that are damaged; all by default.
        share: how many inputs it gets, against others; 0 keeps it out of what is tried by default.
        group: readers of one group share a process.
        seal: sets checksums right after the damage, for every other input, so that what they guard is tried too.
        patience: seconds after which it is interrupted as by Ctrl-C, where reading leads to work; 0 for never.
    """

    name: str
    samples: Callable[[], list[Files]]
    read: Callable[[Path], bool | None]
    damaged: tuple[str, ...] = ("",)
    share: float = 1.0
    group: str = "files"
    patience: float = 0.0
    seal: Callable[[Files], Files] | None = None


READERS: dict[str, Reader] = {}


def reader(name: str, samples: Callable[[], list[Files]], **more: Any) -> Callable[[Any], Any]:
    """Enter the function below into the table."""

    def enter(read: Callable[[Path], bool | None]) -> Callable[[Path], bool | None]:
        READERS[name] = Reader(name, samples, read, **more)
        return read

    return enter


def takes(*words: object) -> bool:
    """Whether a command, run as `command` does, ends well."""
    return command(*words) == 0


def command(*words: object) -> int:
    """Run `ebm` in this process; its exit code.

    Raises:
        Unknown: it ended in an error that nobody foresaw.
    """
    from ebmcli.cli import _app as cli

    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), _Stderr(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(word) for word in words])
    err.flush()
    said = err.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]
    if "set EBM_DEBUG=1 for the traceback" in said:
        raise err.handled or Unknown(said[-4000:])
    if code not in (0, 1, 2, 3, 4, 130):
        raise Unknown(f"exit {code}: {said[-4000:]}")
    return code


class _Stderr(io.TextIOWrapper):
    """Notes which exception was being handled when something was last written."""

    handled: BaseException | None = None

    def write(self, text: str) -> int:
        """As a stream's."""
        self.handled = sys.exception() or self.handled
        return super().write(text)


def folder_files(folder: Path, skip: tuple[str, ...] = (".lock",)) -> Files:
    """A folder's files by their names relative to it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skip
    }


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-sample-") as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def known(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """The result, or None for a known error: several calls are tried on one input."""
    from ebmcli.errors import EBMError

    try:
        return call(*arguments, **keywords)
    except EBMError:
        return None


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    before = os.environ["EBM_CACHE"]
    os.environ["EBM_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ["EBM_CACHE"] = before


def _quiet() -> None:
    """What libraries say of damaged files is not of interest here."""
    warnings.simplefilter("ignore")
    import logging

    logging.disable(logging.CRITICAL)


def interrupt_after(seconds: float) -> None:
    """Ctrl-C, as often as it takes; 0 calls it off."""

    def strike(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    if seconds:
        signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def prepare() -> None:
    """Once in a process, before anything is read: quiet, and no waiting for the disk."""
    _quiet()
    os.fsync = lambda *_: None
    from ebmcli.longrun import report

    report.figure = report.html = lambda *_, **__: None  # drawing is not reading
    sys.setrecursionlimit(1000)


def write(folder: Path, files: Files) -> None:
    """Make `folder` hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    add(folder, files)


def add(folder: Path, files: Files) -> None:
    """Write these files into `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

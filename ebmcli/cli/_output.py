"""What a command prints, and where: data on stdout, everything else on stderr, bars only on a terminal.

A command makes one `Output` from its shared options and speaks through it alone::

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress("sampling", total=steps, unit="steps") as bar:
        for record in records:
            bar.update(d=record.d, r=record.r)
    out.say("digits.png: 64 images")
    out.result({"out": "digits.png"})
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from ebmcli.text import json_visible, visible

_PATIENCE = 0.5
"""Seconds before a bar is drawn: what is over sooner needs none."""


def plain(value: Any) -> Any:
    """`value` as what JSON can hold: tensors and arrays become lists, paths text, NaN and infinities null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


class Bar:
    """A running progress bar; where none is drawn, `update` only counts.

    Attributes:
        done: how many units are done.
        total: how many there will be, or None.
        drawn: whether a bar is on the screen, or may come to be.
    """

    def __init__(
        self, out: Output, description: str, total: int | None, unit: str, start: int, every: float | None
    ) -> None:
        self.done = start
        self.total = total
        self.drawn = out.draws
        self._out = out
        self._description = visible(description)
        self._unit = unit
        self._start = start
        self._every = every
        self._began = self._said = time.monotonic()
        self._live: Any = None
        self._task: Any = None

    def update(self, advance: int = 1, *, done: int | None = None, **fields: object) -> None:
        """Count `advance` more units, or `done` in all, and show `fields` (d, r, …) beside the bar."""
        self.done = self.done + advance if done is None else done
        now = time.monotonic()
        if self.drawn:
            if self._live is None and now - self._began >= _PATIENCE:
                self._open()
            if self._live is not None:
                rate = self._rate(now)
                self._live.update(self._task, completed=self.done, rate=rate, fields=self._text(fields))
        elif self._every is not None and now - self._said >= self._every:
            self._said = now
            of = f" of {self.total}" if self.total is not None else ""
            self._out.say(f"{self._description}: {self.done}{of}, {self._rate(now)} {self._text(fields)}".rstrip())

    def describe(self, description: str) -> None:
        """Change the words before the bar."""
        self._description = visible(description)
        if self._live is not None:
            self._live.update(self._task, description=self._description)

    def resize(self, total: int | None) -> None:
        """Change how many units there are in all."""
        if self.total != total:
            self.total = total
            if self._live is not None:
                self._live.update(self._task, total=total)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._out._console = None
        self.drawn = False

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, highlight=False)
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[fields]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=8,
            speed_estimate_period=60.0,
        )
        self._live.start()
        self._task = self._live.add_task(self._description, total=self.total, completed=self._start, rate="", fields="")
        self._out._console = console

    def _rate(self, now: float) -> str:
        seconds = now - self._began
        count = self.done - self._start
        if seconds <= 0 or count <= 0:
            return ""
        rate = count / seconds
        return f"{rate:.3g} {self._unit}/s" if rate >= 0.1 else f"{1 / rate:.3g} s each"

    @staticmethod
    def _text(fields: dict[str, object]) -> str:
        return visible(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items()))


class Output:
    """Where a command's words go. A line is one line: what it quotes of names and files moves no cursor.

    Args:
        json: the result is one JSON document on stdout, and nothing else is.
        quiet: nothing on stderr but warnings and errors.
        verbose: details too.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose and not quiet
        self._console: Any = None
        listen(self)

    @property
    def draws(self) -> bool:
        """Whether bars are drawn: stderr is a terminal that can, and nobody asked for quiet."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, line: str) -> None:
        """A line for the user on stderr; silent with `--quiet`."""
        if not self.quiet:
            self._stderr(line)

    def detail(self, line: str) -> None:
        """A line for those who asked with `--verbose`."""
        if self.verbose:
            self._stderr(line)

    def warn(self, line: str) -> None:
        """A warning on stderr, `--quiet` or not."""
        self._stderr(line, paint("warning:", "33", sys.stderr) + " ")

    def data(self, line: str) -> None:
        """A line of the result on stdout; left out with `--json`, where `result` says it."""
        if not self.json:
            print(visible(line))

    def document(self, text: str) -> None:
        """A text of many lines on stdout, such as a recipe; left out with `--json`."""
        if not self.json:
            print(visible(text, keep="\n\t"), end="")

    def table(self, rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> None:
        """Rows on stdout in aligned columns, a header above them; left out with `--json`."""
        if self.json:
            return
        cells = [[visible(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
        widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(max(map(len, cells), default=0))]
        for number, row in enumerate(cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            print(paint(line, "1", sys.stdout) if header and number == 0 else line)

    def result(self, value: Any) -> None:
        """The command's result as JSON on stdout, with `--json` only."""
        if self.json:
            result_json(value)

    @contextmanager
    def progress(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: str = "steps",
        start: int = 0,
        every: float | None = None,
    ) -> Iterator[Bar]:
        """A bar with rate and time left, drawn once half a second has passed, gone at the end.

        Args:
            description: words before the bar.
            total: how many units there are in all; None if unknown.
            unit: what the rate counts.
            start: units already done before this sitting (a resumed run); they do not count for the rate.
            every: where no bar can be drawn, say a plain line every so many seconds; None: never.
        """
        bar = Bar(self, description, total, unit, start, every)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def counter(self, description: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
        """`progress` for code that reports through a function `(done, total)`."""
        with self.progress(description, unit=unit) as bar:

            def report(done: int, total: int) -> None:
                bar.resize(total)
                bar.update(done=done)

            yield report

    def _stderr(self, line: str, before: str = "") -> None:
        if self._console is not None:
            from rich.text import Text

            self._console.print(Text.from_ansi(before) + Text(visible(line)), soft_wrap=True)
        else:
            print(before + visible(line), file=sys.stderr, flush=True)


class _Listener(logging.Handler):
    """What the library logs, said as the command's own words."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.INFO)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        speak = self._output.warn if record.levelno >= logging.WARNING else self._output.say
        speak(record.getMessage())


def listen(output: Output) -> None:
    """From now on `output` says what the library has to tell: downloads, further tries, what serves instead."""
    library = logging.getLogger("ebmcli")
    library.handlers[:] = [_Listener(output)]
    library.setLevel(logging.INFO)
    library.propagate = False


def paint(text: str, code: str, stream: Any) -> str:
    """`text` in an ANSI style where `stream` is a terminal and NO_COLOR is not set; else as it is."""
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\033[{code}m{text}\033[0m"
    return text


def result_json(value: Any) -> None:
    """Print `value` as one JSON document on stdout, in letters that stdout has; the rest as \\uXXXX."""
    document = json_visible(jsonlib.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))
    try:
        document.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        document = jsonlib.dumps(plain(value), indent=2, allow_nan=False)
    print(document)

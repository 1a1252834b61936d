"""The process's standard streams, made to bear what happens to them: closed, full, or of few letters.

`secure` is called once, by the console script. After it stdin, stdout and stderr are open (on nothing, where the
caller closed them), no letter is too much for them, a stdout that takes no more is an error that says so, and what
stderr does not take is dropped: a lost line of progress is no reason to lose the result.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ebmcli.errors import EBMError

_STAND_INS = {
    "×": "x", "−": "-", "–": "-", "—": "-", "‖": "||", "…": "...", "·": "*", "±": "+-", "≥": ">=", "≤": "<=",
    "→": "->", "α": "alpha", "ε": "eps", "τ": "tau", "θ": "theta", "√": "sqrt", "²": "^2", "ö": "oe", "é": "e",
    "’": "'", "▁": "_", "█": "#", **dict.fromkeys("▂▃▄▅▆▇", "-"),
}  # fmt: skip
"""What our own words use, for streams without those letters. Everything else is shown as an escape."""


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    r"""What is written for letters that the stream's encoding lacks: ours as in the table, others as \u4e2d."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    words = (_STAND_INS.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in letters)
    return "".join(words), error.end


class Stream(io.TextIOBase):
    """A standard stream to write text to. There are no bytes beneath it for anyone to write past it.

    Args:
        beneath: the stream as the interpreter opened it.
        needed: what is written here is the result: that it cannot be written is an error.
    """

    def __init__(self, beneath: io.TextIOWrapper, needed: bool) -> None:
        beneath.reconfigure(errors="ebm")
        self._beneath = beneath
        self._needed = needed

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream's beneath."""
        return self._beneath.encoding

    def write(self, text: str) -> int:
        """Write `text`, with stand-ins for letters that the encoding lacks; returns how many characters it had.

        Raises:
            EBMError: it cannot be written, and is needed.
            BrokenPipeError: its reader has gone, and it is needed.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        if text:  # Typer writes nothing to try a stream out, and hides what comes of it
            with self._bearing():
                self._beneath.write(text)
        return len(text)

    def flush(self) -> None:
        """Send what was written on its way; raises as `write`."""
        with self._bearing():
            self._beneath.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._beneath.isatty()

    def fileno(self) -> int:
        """Number of the file beneath."""
        return self._beneath.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @contextmanager
    def _bearing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer goes nowhere, now and when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not self._needed:
                return
            if isinstance(error, BrokenPipeError):
                raise
            raise EBMError(
                f"the result cannot be printed: {error.strerror or error}", "is the disk full that stdout goes to?"
            ) from None


def _open_closed() -> None:
    """Open the standard streams that the caller closed on nothing: else the next file opened would be one of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest free one: that of the stream
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def secure() -> None:
    """Open what is closed, and put a `Stream` in the place of stdout and stderr."""
    codecs.register_error("ebm", _stand_in)
    _open_closed()
    for name in ("stdout", "stderr"):
        beneath: Any = getattr(sys, name)
        if isinstance(beneath, io.TextIOWrapper):
            setattr(sys, name, Stream(beneath, needed=name == "stdout"))

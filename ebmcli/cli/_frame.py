"""The frame of long work: how it is asked to stop, how it ends, and what is said when it goes on.

    go_on = command_to_go_on("ebm longrun --resume", folder, network)
    with long_work(go_on, lambda: f"what there is stays in {folder}") as asked:
        for record in follow(walk, run, lambda: bool(asked)):
            ...
    if asked and not finished:
        raise interrupted("step 100 of 1,000 is saved", go_on)

What the work keeps in its folder is the matter of `ebmcli.storage.folders`.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ebmcli.cli import _options as options
from ebmcli.errors import DivergedError, EBMError, Exit

T = TypeVar("T")


@contextmanager
def asked_to_stop(force: bool = True) -> Iterator[list[int]]:
    """Let SIGINT, SIGTERM and SIGHUP ask instead of ending the process.

    A SIGHUP that the process was told to ignore, as by nohup, stays ignored. The handlers of before are put back at
    the end.

    Args:
        force: whether the second signal raises KeyboardInterrupt, for files that are whole at any moment.

    Yields:
        The numbers of the signals that came so far; empty until one asks.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        if force and len(asked) > 1:
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def long_work(go_on: str, sound_state: Callable[[], str]) -> Iterator[list[int]]:
    """`asked_to_stop` for work that saves what it has and goes on later.

    Args:
        go_on: the command that goes on with it.
        sound_state: a clause that says where the last sound state is, for work that diverged.

    Raises:
        DivergedError: as the work raised it, with `sound_state()` added to its hint.
        EBMError: a second signal came; the hint has the command that goes on.
    """
    with asked_to_stop() as asked:
        try:
            yield asked
        except DivergedError as error:
            error.hint += f"; {sound_state()}"
            raise
        except KeyboardInterrupt as error:
            raise interrupted("what was saved before is kept", go_on) from error


def interrupted(saved: str, go_on: str) -> EBMError:
    """The error of work that was asked to stop, exit code 130.

    Args:
        saved: a clause that says what is saved: `step 100 of 1,000 is saved`.
        go_on: the command that goes on.
    """
    return EBMError(f"interrupted: {saved}", f"go on with {go_on}", code=Exit.INTERRUPTED)


def until_asked(records: Iterable[T], asked: list[int]) -> Iterator[T]:
    """The records of work that saves each piece when it is done, until the work is asked to stop.

    Raises:
        KeyboardInterrupt: it was asked, as `long_work` takes it.
    """
    for record in records:
        if asked:
            raise KeyboardInterrupt
        yield record


def command_to_go_on(command: str, folder: Path, network: str = "") -> str:
    """The command that goes on with the work in a folder, as it can be typed.

    Args:
        command: all but the folder: `ebm longrun --resume`.
        folder: of the work.
        network: of its model; where that is code, consent to import it is part of the command.
    """
    return f"{command} {shlex.quote(str(folder))}{options.consent_again(network)}"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each fact on which the bits of a result depend, and which is not what it was.

    Args:
        before: the facts of the start; what they lack is not compared.
        now: the same facts now. A part of a key after the first `_` is not shown.
    """
    for key, value in now.items():
        if before.get(key) not in (None, value):
            name = key.partition("_")[0]
            yield f"{name} was {before[key]} and is {value}: the run goes on, but not bit for bit"

"""The frame of long work: signals that ask, what an end says, and what is not bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ebmcli.cli import _frame as frame
from ebmcli.errors import DivergedError, EBMError, Exit

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_and_the_second_forces(number: int) -> None:
    """The first is only noted, the second ends the work at once; the handlers of before come back."""
    before = [signal.getsignal(each) for each in SIGNALS]
    seen: list[int] = []
    with pytest.raises(EBMError) as caught, frame.long_work("ebm go on", lambda: "") as asked:  # noqa: PT012
        os.kill(os.getpid(), number)
        seen += asked
        os.kill(os.getpid(), number)
        pytest.fail("it went on")
    assert seen == [number]
    assert caught.value.code == Exit.INTERRUPTED
    assert caught.value.hint == "go on with ebm go on"
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_further_signals_can_be_counted() -> None:
    """Work that passes signals on gets each of them."""
    with frame.asked_to_stop(force=False) as asked:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert asked == [signal.SIGTERM] * 3


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with frame.asked_to_stop() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_diverged_work_says_where_the_last_sound_state_is() -> None:
    """The hint of the work stays, and the place is added."""
    with pytest.raises(DivergedError) as caught, frame.long_work("", lambda: "the last one is in a"):
        raise DivergedError("left the finite numbers", "take a smaller step")
    assert caught.value.hint == "take a smaller step; the last one is in a"


def test_records_end_when_asked() -> None:
    """The record that was being made is the last."""
    taken = []
    with pytest.raises(EBMError, match="interrupted"), frame.long_work("ebm", lambda: "") as asked:  # noqa: PT012
        for record in frame.until_asked(range(9), asked):
            taken.append(record)
            if record == 3:
                os.kill(os.getpid(), signal.SIGINT)
    assert taken == [0, 1, 2, 3]


def test_the_command_to_go_on_can_be_typed() -> None:
    """Names with spaces are quoted, and consent to import code is part of it."""
    command = frame.command_to_go_on("ebm train --resume", Path("my run"), "package.module:net")
    assert command == "ebm train --resume 'my run' --trust-code"
    assert frame.command_to_go_on("ebm train --resume", Path("run"), "vanilla") == "ebm train --resume run"


def test_changes_are_told() -> None:
    """Facts that are another now; those that were not kept are not compared."""
    before = {"threads": 1, "device_used": "cpu", "torch": "2.0"}
    now = {"threads": 2, "device_used": "cuda", "torch": "2.0", "backend": "native"}
    assert [line.partition(":")[0] for line in frame.changes(before, now)] == [
        "threads was 1 and is 2",
        "device was cpu and is cuda",
    ]

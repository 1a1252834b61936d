"""Numbers of threads: what is beyond reason is refused, and what the system does not give is done without."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from ebmcli.engine.stack import Stack
from ebmcli.errors import UsageError
from ebmcli.native import cores
from ebmcli.native import stack as native
from ebmcli.native.stack import NativeStack
from ebmcli.native.threads import Crew, count


@pytest.fixture
def own() -> Iterator[int]:
    """torch's number of threads, put back at the end."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`scarce(3)`: the system lets no more than three further threads live at a time."""

    def set_(left: int) -> None:
        start = threading.Thread.start
        given: list[threading.Thread] = []

        def some(thread: threading.Thread) -> None:
            if sum(one.is_alive() for one in given) >= left:
                raise RuntimeError("can't start new thread")
            start(thread)
            given.append(thread)

        monkeypatch.setattr(threading.Thread, "start", some)

    return set_


WRONG = [0, -1, cores.MOST + 1, 100_000, 10**30, True, 2.0, float("nan"), "2", [2], {}]


@pytest.mark.parametrize("number", WRONG, ids=repr)
def test_a_number_that_is_none_or_beyond_reason_is_refused(number: object, own: int) -> None:
    with pytest.raises(UsageError, match=f"threads: expected a whole number from 1 to {cores.MOST}") as asked:
        cores.use(number)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="record of this run"):
        cores.use(None, number)
    assert str(cores.MOST) in asked.value.hint
    assert torch.get_num_threads() == own


def test_what_is_asked_for_goes_before_what_a_record_says(own: int) -> None:
    cores.use(1, "nonsense")
    assert torch.get_num_threads() == 1
    cores.use(None, 2)
    assert torch.get_num_threads() == 2
    cores.use(None)
    assert torch.get_num_threads() == 2


def test_threads_that_cannot_be_had_are_refused_before_torch_hears_of_them(
    own: int, scarce: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    scarce(20)
    with pytest.raises(UsageError, match="64 cannot be had, this system gives the process no more than 10") as wrong:
        cores.use(64)
    assert "`threads` 4" in wrong.value.hint
    assert torch.get_num_threads() == own


def test_a_python_caller_beyond_reason_is_taken_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 100_000)
    assert count() == cores.MOST


@pytest.mark.parametrize("command", ["sample", "train", "longrun"])
def test_the_option_is_refused_before_anything_begins(command: str, run_cli) -> None:
    ran = run_cli(command, "--threads", 100_000, check=2)
    assert "error: invalid value for '--threads'" in ran.stderr
    assert f"{cores.MOST}" in ran.stderr
    assert "hint:" in ran.stderr


# --- the threads that chains are spread over --------------------------------------------------------------------------


def test_a_crew_has_as_many_threads_as_the_system_gives(
    scarce: Callable[[int], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ebmcli"), "propagate", True)
    crew, done = Crew("test"), []
    assert crew.ready(2) == 2
    scarce(5)
    assert crew.ready(9) == 5
    # Other crews of this process may have to say the same.
    assert {record.getMessage() for record in caplog.records} == {
        "the system gives 5 threads of 9: the work is done by fewer"
    }
    scarce(0)
    assert crew.ready(12) == 5  # those that there are stay
    assert (crew.ready(9), crew.ready(4)) == (5, 4)  # not tried again
    for future in [crew.submit(done.append, number) for number in range(20)]:
        future.result(timeout=10)
    assert sorted(done) == list(range(20))
    assert len({record.getMessage() for record in caplog.records}) == 2


def test_a_crew_of_nobody_says_so(scarce: Callable[[int], None]) -> None:
    scarce(0)
    crew = Crew("test")
    assert crew.ready(3) == 0
    with pytest.raises(RuntimeError, match="no threads"):
        crew.submit(print)


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("kind", [NativeStack, Stack])
def test_chains_have_the_same_bits_with_fewer_threads_than_wanted(
    kind: type, left: int, own: int, scarce: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is NativeStack and not native.available():
        pytest.skip(native.why_not())
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 1, 28))
    network.requires_grad_(False)
    x, more = torch.randn(80, 1, 28, 28), {} if kind is NativeStack else {"device": torch.device("cpu")}
    settings = {"steps": 2, "step_size": 0.1, "scale": 2.0, "noise": 1.0, "temperature": 1.0, "key": 9}
    monkeypatch.setattr("ebmcli.engine.stack._crew", Crew("test"))
    torch.set_num_threads(1)
    expected = kind(network, (1, 28, 28), **more).langevin(x, chains=torch.arange(80), **settings)
    torch.set_num_threads(4)
    scarce(left)
    got = kind(network, (1, 28, 28), **more).langevin(x, chains=torch.arange(80), **settings)
    assert all(map(torch.equal, got, expected))

"""Damaged and hostile inputs for every reader of the package: success or a known error, in 1 GB and 20 s.

An input is a valid one with seeded damage (`fuzzing.mutate`, `fuzzing.formats`); the failure says how to see it again:
`python -m fuzzing READER --seed S --only N`, with the repository's root and `tests` in PYTHONPATH. EBM_FUZZ_SEED tries
other ones.
"""

from __future__ import annotations

import contextlib
import os
import sys

import pytest
from fuzzing import run
from fuzzing.readers import READERS
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmcli import recipe
from ebmcli.errors import EBMError
from ebmcli.hub import parse
from ebmcli.models import lookup

SEED = int(os.environ.get("EBM_FUZZ_SEED", "0"))
NAMES = [name for name, reader in READERS.items() if reader.share]
INPUTS, MANY = 2_000, 50_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits on memory are Linux's")


@pytest.fixture(scope="module")
def report() -> run.Report:
    """2,000 inputs, shared by all readers."""
    found = run.run(run.shares(NAMES, INPUTS), SEED)
    print(found.text(SEED))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs(name: str, report: run.Report) -> None:
    """A reader's inputs come to success or a known error; some of them to the one, some to the other."""
    own = run.Report([d for d in report.done if d.reader == name], [f for f in report.failures if f.reader == name])
    assert not own.failures, own.text(SEED)
    assert sum(d.inputs for d in own.done) == next(j.end for j in run.shares(NAMES, INPUTS) if j.reader == name)
    assert max(d.memory for d in own.done) <= run.MEMORY
    assert max(d.slowest for d in own.done) <= run.SECONDS


@pytest.mark.slow
def test_many_damaged_inputs() -> None:
    """The same with 50,000 inputs of another seed."""
    found = run.run(run.shares(NAMES, MANY), SEED + 1)
    print(found.text(SEED + 1))
    assert not found.failures, found.text(SEED + 1)
    assert max(d.memory for d in found.done) <= run.MEMORY


@pytest.mark.slow
def test_the_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of fault is found, and what comes after a death is still tried."""
    monkeypatch.setenv("FUZZ_SECONDS", "5")
    found = run.run([run.Job("faulty", 0, 20)], SEED)
    ways = {failure.what.partition(":")[0] for failure in found.failures}
    assert ways == {"KeyError", "MemoryError", "the process ended with -11", "took too long"}, found.text(SEED)
    assert sum(d.inputs for d in found.done) == 20
    assert 0 < len(found.failures) < 20


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_word(word: str) -> None:
    """Any text as an address, a model's name, a recipe, an override: taken, or a known error."""
    parsed = recipe.read("gmm_shortrun")
    with contextlib.suppress(EBMError):
        parse(word)
    with contextlib.suppress(EBMError):
        lookup.look_up(word)
    for text, overrides in ((word, ()), (parsed, (word,)), (parsed, (f"train.updates={word}",))):
        with contextlib.suppress(EBMError):
            taken = recipe.loads(text, overrides=overrides)
            assert recipe.loads(taken.dumps()).hash() == taken.hash()


def test_inputs_are_the_same_again() -> None:
    """The same seed and number give the same input, another number another one."""
    reader = READERS["recipe"]
    samples = reader.samples()
    one, same, other = (run.made(reader, samples, SEED, number) for number in (1, 1, 2))
    assert one == same
    assert one != other

"""Killed fifty times each, whenever it happens: a run, a long run and a map come to what they come to undisturbed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.quick import Running, ebm, recipe, same

KILLS = 50
LONG_RUN = ("longrun", "gmm-convergent", "--chains", 8, "--steps", 3000, "--moments", 30, "--compared", 40)
MAP = ("map", "gmm", "--samples", 30, "--steps", 40, "--quench", 300, "--trials", 2, "--temperature", 0.2, "--alpha", 6)


def killed(
    words: tuple[object, ...], begun: Callable[[Path], bool], check: Callable[[Path, Path], None], place: Path
) -> None:
    """Kill `words` at any instant of the time it takes, and go on, until it was killed `KILLS` times in all.

    Args:
        words: of the command, without `--out`.
        begun: whether a folder is to be gone on with, and not begun.
        check: that what was killed has come to what was not.
        place: where the folders are made.
    """
    since = time.monotonic()
    ebm(*words, "--threads", 1, "--out", "whole", cwd=place, check=0)
    needed, luck, kills, number = time.monotonic() - since, random.Random(str(words[0])), 0, 0
    while True:
        name = f"killed-{number}"
        more = ("--resume", name) if begun(place / name) else (*words[1:], "--out", name)
        running = Running((words[0], *more, "--threads", 1), place, {})
        if kills < KILLS:
            running.process.join(luck.uniform(0, needed))
            running.signal(signal.SIGKILL)
        ran = running.end()
        assert ran.code in (0, -signal.SIGKILL), ran
        assert "warning: " not in ran.stderr.replace("still moving", ""), ran.stderr
        kills += ran.code != 0
        if ran.code == 0:
            check(place / name, place / "whole")
            number += 1
            if kills >= KILLS:
                break
    print(f"{words[0]}: killed {kills} times, {number} of {number} are as the one that was not")


def files(folder: Path) -> dict[str, bytes]:
    """Every file, but for the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def are_equal(one: Path, two: Path) -> None:
    """To the byte, and nothing is left over."""
    a, b = files(one), files(two)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name]] == []


@pytest.mark.slow
def test_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Weights, bank, optimiser, metrics and pictures."""
    words = ("train", recipe(tmp_path_factory), "--set", "log.checkpoint_every=3", "--set", "train.updates=120")
    killed(words, lambda folder: (folder / "run.json").exists(), same, tmp_path)


@pytest.mark.slow
def test_a_long_run(tmp_path: Path) -> None:
    """Records, images, state, verdict and report."""
    killed(LONG_RUN, lambda folder: (folder / "longrun.json").exists(), are_equal, tmp_path)


@pytest.mark.slow
def test_a_map(tmp_path: Path) -> None:
    """Basins, barriers, paths, figure and page."""

    def begun(folder: Path) -> bool:
        return (folder / "unfinished" / "settings.json").exists()

    killed(MAP, begun, are_equal, tmp_path)

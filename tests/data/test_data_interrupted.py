"""Decoding that is interrupted goes on, two processes spoil nothing, and a full disk leaves no half file."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers.public_sets import picture
from helpers.quick import Running, ebm, fails

from ebmcli.data import cache, load


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """6,000 small pictures, more than the journal's stretch."""
    path = tmp_path / "many.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (6000, 8, 8), dtype=np.uint8))
    return path


class Stop(BaseException):
    """What Ctrl-C raises is no Exception; neither is this."""


def stopped_at(array: Path, n: int) -> None:
    """Begin to decode, and be interrupted after `n` images or a little more."""

    def progress(done: int, total: int) -> None:
        if done >= n:
            raise Stop

    with pytest.raises(Stop):
        load(array, image_size=8, channels=1, progress=progress)


def test_an_interrupted_decoding_goes_on(array: Path, cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopped_at(array, 3000)
    assert not list(cached.glob("*.npy"))
    assert cache.entries() == []
    firsts: list[int] = []
    with caplog.at_level("INFO", logger="ebmcli"):
        got = load(array, image_size=8, channels=1, progress=lambda done, _: firsts.append(done))
    assert firsts[0] > 3000
    np.testing.assert_array_equal(got.pixels[:, 0], np.load(array))
    assert sorted(p.suffix for p in cached.iterdir()) == [".json", ".npy"]
    fresh = load(Path(array.rename(array.with_name("x.npy"))), image_size=8, channels=1, limit=6000)
    assert fresh.identity == got.identity


@pytest.mark.parametrize("damage", ["journal gone", "journal torn", "data short", "digests short"])
def test_what_is_not_sound_is_begun_anew(array: Path, cached: Path, damage: str) -> None:
    stopped_at(array, 3000)
    [part], [journal], [sums] = (list(cached.glob(f".*.{kind}")) for kind in ("part", "journal", "sums"))
    if damage == "journal gone":
        journal.unlink()
    elif damage == "journal torn":
        journal.write_text(journal.read_text()[:-9])
    else:
        cut = part if damage == "data short" else sums
        cut.write_bytes(cut.read_bytes()[:-64])
    firsts: list[int] = []
    got = load(array, image_size=8, channels=1, progress=lambda done, _: firsts.append(done))
    assert firsts[0] < 3000
    np.testing.assert_array_equal(got.pixels[:, 0], np.load(array))


def test_a_killed_process_is_gone_on_with(array: Path, cached: Path, tmp_path: Path) -> None:
    """SIGKILL after the first entry of the journal: the next process takes up from there."""
    code = (
        "import os, signal; from ebmcli.data import cache, load\n"
        "def stop(done, total):\n    if done > 4200: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"load({str(array)!r}, image_size=8, channels=1, progress=stop)"
    )
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    [journal] = cached.glob(".*.journal")
    assert json.loads(journal.read_text())["items"] >= 2048
    firsts: list[int] = []
    got = load(array, image_size=8, channels=1, progress=lambda done, _: firsts.append(done))
    assert firsts[0] > 2048
    np.testing.assert_array_equal(got.pixels[:, 0], np.load(array))


@pytest.mark.slow
def test_ctrl_c_in_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    one = picture(1, 700, 700)
    for i in range(300):
        (folder / f"{i:03d}.jpg").write_bytes(one)
    own = {"EBM_CACHE": str(tmp_path / "cache")}
    command = Running(("data", "fetch", "photos", "--quiet"), tmp_path, own)
    command.until(lambda: any(p.stat().st_size > 10_000 for p in (tmp_path / "cache").rglob(".*.part")))
    command.signal(signal.SIGINT)
    ran = command.end()
    if ran.code != 0:  # it may have been quicker than the signal
        assert ran.code == 130
        assert list((tmp_path / "cache").rglob(".*.journal"))
    ebm("data", "fetch", "photos", "--quiet", cwd=tmp_path, check=0, **own)
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 2


def test_a_second_process_waits_and_takes_the_result(array: Path, cached: Path) -> None:
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO); from ebmcli.data import load\n"
        f"d = load({str(array)!r}, image_size=8, channels=1); print(d.identity, len(d))"
    )
    command = [sys.executable, "-c", code]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    held: list[subprocess.Popen[str]] = []

    def progress(done: int, total: int) -> None:
        if done > 5900 and not held:  # the other one begins to wait before this one ends
            held.append(subprocess.Popen(command, env=own, stdout=-1, stderr=-1, text=True))
            while "waiting" not in held[0].stderr.readline():
                assert held[0].poll() is None

    here = load(array, image_size=8, channels=1, progress=progress)
    assert held[0].communicate(timeout=120)[0] == f"{here.identity} 6000\n"
    assert len(list(cached.iterdir())) == 2


def test_a_full_disk_is_one_line_and_no_half_file(array: Path, cached: Path, tmp_path: Path) -> None:
    """A write that fails in the middle (a limit on the size of files), through the command line."""
    command = f"ulimit -f 100; exec {sys.executable} -m ebmcli data fetch {array} --quiet"
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    from conftest import Ran

    fails(Ran(done.returncode, done.stdout, done.stderr), "cannot keep the decoded images", "EBM_CACHE")
    assert list(cached.iterdir()) == []


def test_what_is_too_large_for_memory_is_refused_without_a_cache(
    array: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder can be made under it")
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache, "_MEMORY", 1000)
    from ebmcli.errors import EBMError

    with pytest.raises(EBMError, match=r"cannot be written: .*too much for memory"):
        load(array, image_size=8, channels=1)


@pytest.mark.slow
def test_twenty_thousand_faces(tmp_path: Path) -> None:
    """JPEGs of CelebA's size: under 1 GB of memory, on all cores, killed once and gone on with."""
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    kinds = [picture(i) for i in range(100)]
    for i in range(20_000):
        (folder / f"{i:06d}.jpg").write_bytes(kinds[i % 100])
    words = [sys.executable, "-m", "ebmcli", "data", "fetch", str(folder), "--image-size", "64", "--crop", "140"]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(words, env=own, stderr=-1, text=True)
    while not list((tmp_path / "cache").rglob(".*.journal")):
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    again = subprocess.run(words, env=own, capture_output=True, text=True, timeout=900, check=True)
    wall, used = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "going on after" in again.stderr
    assert used.ru_maxrss < 1024**2, f"{used.ru_maxrss / 1024:.0f} MB"
    cpu = used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime
    print(f"{wall:.1f} s of wall time, {cpu:.1f} s of CPU time, {used.ru_maxrss / 1024:.0f} MB at most")
    assert len(load(folder, image_size=64, channels=3, crop=140)) == 20_000

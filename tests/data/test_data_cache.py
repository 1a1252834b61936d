"""The cache: used when nothing changed, renewed when something did, safe from two processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebmcli.data import cache, images, load
from ebmcli.errors import EBMError


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(6):
        Image.new("L", (10, 10), 10 * i).save(path / f"{i}.png")
    return path


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(images, "decode", refuse)


def grey(folder: Path, size: int = 10) -> images.ImageSet:
    return load(folder, image_size=size, channels=1)


def test_a_second_load_decodes_nothing(folder: Path, no_decoding: Callable[[], None]) -> None:
    first = grey(folder)
    no_decoding()
    again = grey(folder)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert (first.identity, first.notes, first.name) == (again.identity, again.notes, "pictures")
    with pytest.raises(AssertionError, match="decoded again"):
        grey(folder, size=8)


def test_a_changed_file_is_decoded_anew(folder: Path) -> None:
    before = grey(folder)
    Image.new("L", (10, 10), 99).save(folder / "3.png")
    after = grey(folder)
    assert after.pixels[3, 0, 0, 0] == 99
    assert before.pixels[3, 0, 0, 0] == 30
    assert after.identity != before.identity
    (folder / "0.png").unlink()
    assert len(grey(folder)) == 5


def test_a_touched_file_has_the_same_identity(folder: Path) -> None:
    before = grey(folder)
    os.utime(folder / "3.png", (1, 1))
    assert grey(folder).identity == before.identity


def test_neither_identity_nor_cache_depends_on_the_location(
    folder: Path, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    before = grey(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / "other"))
    no_decoding()
    assert grey(moved).identity == before.identity
    assert grey(moved).name == "other"


def test_a_copied_single_file_shares_the_entry(tmp_path: Path, no_decoding: Callable[[], None]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.uint8))
    load(tmp_path / "a.npy", image_size=8, channels=1)
    shutil.copyfile(tmp_path / "a.npy", tmp_path / "b.npy")
    no_decoding()
    assert load(tmp_path / "b.npy", image_size=8, channels=1).name == "b"


def test_an_entry_is_an_npy_and_a_json_and_nothing_else_stays(folder: Path, cached: Path) -> None:
    first = grey(folder)
    [array], [meta] = cached.glob("*.npy"), cached.glob("*.json")
    assert len(list(cached.iterdir())) == 2
    np.testing.assert_array_equal(np.load(array), first.pixels)
    said = json.loads(meta.read_text())
    assert said["shape"] == [6, 1, 10, 10]
    assert (said["name"], said["identity"], said["skipped"]) == ("pictures", first.identity, [])
    assert str(folder) not in meta.read_text()


@pytest.mark.parametrize("damage", ["no json", "bad json", "short array", "another shape"])
def test_a_damaged_entry_is_replaced(folder: Path, cached: Path, damage: str) -> None:
    before = np.array(grey(folder).pixels)
    [array], [meta] = cached.glob("*.npy"), cached.glob("*.json")
    if damage == "no json":
        meta.unlink()
    elif damage == "bad json":
        meta.write_text("{")
    elif damage == "short array":
        array.write_bytes(array.read_bytes()[:-50])
    else:
        np.save(array, np.zeros((2, 1, 10, 10), np.uint8))
    np.testing.assert_array_equal(grey(folder).pixels, before)
    assert cache.find(array.stem) is not None


def test_what_fails_leaves_nothing_behind(folder: Path, cached: Path) -> None:
    for i in range(4):
        (folder / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(EBMError):
        grey(folder)
    assert list(cached.iterdir()) == []


def test_leftovers_of_killed_processes_are_swept(folder: Path, cached: Path) -> None:
    cached.mkdir(parents=True)
    old, young = cached / ".old.npy.tmp", cached / ".young.npy.tmp"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 1e6,) * 2)
    grey(folder)
    assert (old.exists(), young.exists()) == (False, True)


def test_two_processes_at_once(folder: Path, cached: Path) -> None:
    code = (
        "import sys; from ebmcli.data import load\n"
        "d = load(sys.argv[1], image_size=10, channels=1); print(d.identity, d.pixels[:, 0, 0, 0].tolist())"
    )
    command = [sys.executable, "-c", code, str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    here = grey(folder)
    assert said == [f"{here.identity} {[0, 10, 20, 30, 40, 50]}\n"] * 2
    assert len(list(cached.iterdir())) == 2


def test_without_a_cache_folder_memory_serves_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file, so no folder can be made under it")
    monkeypatch.setenv("EBM_CACHE", str(tmp_path / "file"))
    kept = grey(folder)
    assert kept.pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert not isinstance(kept.pixels, np.memmap)
    assert not kept.pixels.flags.writeable
    assert kept.notes[-1].startswith("decoded into memory: the cache folder")


def test_a_full_disk_is_an_error_with_a_hint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(EBMError, match="room for 0 MB, 0 MB are free") as full:
        grey(folder)
    assert "EBM_CACHE" in full.value.hint


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("EBM_CACHE", "/own")
    assert cache.folder() == Path("/own/data")
    monkeypatch.delenv("EBM_CACHE")
    assert cache.folder() == Path("/xdg/ebmcli/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache/ebmcli/data"

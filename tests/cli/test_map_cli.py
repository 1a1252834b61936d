"""`ebm map`: what it writes, killed and resumed, any batch size, paths between pictures, recall, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.quick import Running, ebm, fails, trained
from PIL import Image

from ebmcli.landscape.report import FILES
from ebmcli.media import read_metadata
from ebmcli.storage.locks import hold
from ebmcli.storage.tensors import read_tensors

SMALL = ("--samples", 5, "--steps", 0, "--quench", 40, "--trials", 1, "--neighbours", 1, "--temperature", 0.2)
GMM = ("map", "gmm", *SMALL, "--alpha", 6, "--threads", 1)


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A persistent model of digits, hardly trained, `run`, in the working folder."""
    return Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))


@pytest.fixture(scope="module")
def gmm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small map of the true gmm."""
    folder = tmp_path_factory.mktemp("gmm")
    ebm(*GMM, "--out", "map", cwd=folder, check=0)
    return folder / "map"


def contents(folder: Path) -> dict[str, object]:
    """All files of a map; the order of a safetensors file's metadata is not fixed."""
    files: dict[str, object] = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".safetensors"}
    tensors, metadata = read_tensors(folder / "states.safetensors")
    return files | {"tensors": {k: v.numpy().tobytes() for k, v in tensors.items()}, "metadata": metadata}


def test_what_a_map_is(gmm: Path) -> None:
    """Five files that agree with each other, and nothing else."""
    assert sorted(p.name for p in gmm.iterdir()) == sorted(FILES)
    numbers = json.loads((gmm / "map.json").read_text())
    assert sorted(state for basin in numbers["basins"] for state in basin["members"]) == list(range(5))
    assert 3 <= len(numbers["basins"]) <= 5
    for basin in numbers["basins"]:
        assert basin["energy"] == min(numbers["energies"][i] for i in basin["members"])
        assert basin["energy"] == pytest.approx(0.123, abs=0.02)
    assert min(b["barrier"] for b in numbers["barriers"]) > 2.684 * 0.99  # the lowest saddle there is
    assert numbers["model"] == "gmm: true density"
    tensors, _ = read_tensors(gmm / "states.safetensors")
    assert tensors["states"].shape == (5, 2, 1, 1)
    assert tensors["paths"].shape[0] == len(numbers["barriers"])
    assert [[i for i in range(5) if tensors["basins"][i] == b] for b in range(len(numbers["basins"]))] == [
        basin["members"] for basin in numbers["basins"]
    ]
    assert read_metadata(gmm / "tree.png")["start"] == "data"
    with Image.open(gmm / "tree.png") as picture:
        assert picture.width > 600
    page = (gmm / "map.html").read_text()
    assert page.count('class="leaf"') == len(numbers["basins"])
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_killed_and_resumed(gmm: Path, tmp_path: Path) -> None:
    """Killed while grouping, while searching barriers, while paths come down; in other batches: the same map."""
    words = (*GMM, "--out", "map")
    for number, crash in enumerate(("map-basins", "map-barriers", "map-paths-40")):
        more = ("--resume", "map", "--threads", 1, "--batch-size", 8 + 40 * number)
        first = words if number == 0 else ("map", *more)
        ran = ebm(*first, cwd=tmp_path, EBM_CRASH_AT=crash)
        assert ran.code not in (0, 1, 2), ran
        assert not (tmp_path / "map" / "map.json").exists()
    fails(ebm(*words, cwd=tmp_path), "map holds a map under way", "ebm map --resume map")
    ebm("map", "--resume", "map", "--threads", 1, cwd=tmp_path, check=0)
    assert contents(tmp_path / "map") == contents(gmm)
    fails(ebm("map", "--resume", "map", cwd=tmp_path), "is finished", "nothing to go on with")


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C says how to go on, and exits 130."""
    running = Running((*GMM[:2], *SMALL, "--out", "map", "--steps", 100000), tmp_path, {})
    running.until((tmp_path / "map" / "unfinished" / "chains.safetensors").exists)
    running.signal(2)
    ran = running.end()
    assert ran.code in (130, 0), ran  # 0: it was faster than the signal
    if ran.code == 130:
        assert "ebm map --resume map" in ran.stderr.splitlines()[-1]


def test_two_at_once(tmp_path: Path) -> None:
    """A map that another process is at work on is left alone, with --force too."""
    assert ebm(*GMM, "--out", "map", cwd=tmp_path, EBM_CRASH_AT="map-basins").code not in (0, 1, 2)
    before = {p.name: p.read_bytes() for p in (tmp_path / "map" / "unfinished").iterdir()}
    lock = hold(tmp_path / "map" / "unfinished")
    for words in (("map", "--resume", "map"), (*GMM, "--out", "map", "--force")):
        fails(ebm(*words, cwd=tmp_path), "another process is at work in map/unfinished")
    assert {p.name: p.read_bytes() for p in (tmp_path / "map" / "unfinished").iterdir()} == before
    del lock
    ebm("map", "--resume", "map", cwd=tmp_path, check=0)


def test_a_model_of_images(run: Path) -> None:
    """From bank and data; the settings chosen on a grid are told; JSON; what is there is not replaced."""
    words = ("map", "run", "--samples", 8, "--steps", 20, "--quench", 20, "--trials", 1, "--temperature", 1)
    ran = ebm(*words, "--out", "map", "--json", cwd=run.parent, check=0)
    result = json.loads(ran.stdout)
    assert sum(result["members"]) == 8
    assert len(result["grid"]) == 6
    assert {cell["temperature"] for cell in result["grid"]} == {1.0}
    numbers = json.loads((run.parent / "map" / "map.json").read_text())
    assert numbers["start"] == "bank+data"
    assert numbers["alpha"] in [cell["strength"] for cell in numbers["grid"]]
    assert len(numbers["model_sha256"]) == 64
    fails(ebm(*words, "--out", "map", cwd=run.parent), "map holds a map already", "--force")
    (run.parent / "map" / "notes.txt").write_text("mine")
    fails(ebm(*words, "--out", "map", "--force", cwd=run.parent), "map holds")
    assert (run.parent / "map" / "notes.txt").read_text() == "mine"


def pictures(folder: Path) -> tuple[Path, Path]:
    """Two pictures of one's own."""
    for name, column in (("one", 4), ("two", 11)):
        pixels = np.zeros((16, 16), dtype=np.uint8)
        pixels[3:13, column : column + 2] = 255
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder / "one.png", folder / "two.png"


def test_from_one_picture_to_another(run: Path) -> None:
    """A model that has hardly learned has no basins to hold an end: no path is found, which is said, and no file."""
    pictures(run.parent)
    words = ("map", "run", "--from", "one.png", "--to", "two.png", "--trials", 1)
    fails(ebm(*words, cwd=run.parent), "no path was found", "--alpha")
    assert not (run.parent / "run-one-two.png").exists()


def test_recall(run: Path) -> None:
    """A picture relaxes: its energy falls; the strip and the curve are there."""
    pictures(run.parent)
    words = ("map", "run", "--recall", "one.png", "--steps", 50, "--quench", 50, "--json")
    result = json.loads(ebm(*words, cwd=run.parent, check=0).stdout)
    assert result["energy"][1] < result["energy"][0]
    assert (run.parent / "run-recall-one.png").is_file()
    assert read_metadata(run.parent / "run-recall-one.png")["steps"][-1] == 100


def test_bad_input(run: Path) -> None:
    """One error, one hint, nothing written."""
    cwd = run.parent
    one, _ = pictures(cwd)
    fails(ebm("map", "run", "--from", "one.png", cwd=cwd), "two ends", "--to", code=2)
    fails(ebm("map", "run", "--recall", "one.png", "--resume", "map", cwd=cwd), "exclude each other", code=2)
    fails(ebm("map", "run", "--start", "nowhere", cwd=cwd), "--start 'nowhere'", "bank", code=2)
    fails(ebm("map", "--resume", "nothing", cwd=cwd), "no map was begun in nothing")
    fails(ebm("map", "gmm", "--recall", "one.png", cwd=cwd), "of points, not of pictures", code=2)
    fails(ebm("map", "run", "--recall", "none.png", cwd=cwd), "none.png")
    fails(ebm("map", "run", "--recall", "one.png", "--out", "a.jpg", cwd=cwd), "does not end in .png", code=2)
    fails(ebm("map", "run", "--out", "one.png", cwd=cwd), "one.png is a file")
    fails(ebm("map", "gmn", cwd=cwd), "no model 'gmn'")
    fails(ebm("map", "run", "--from", "one.png", "--to", "one.png", cwd=cwd), "relax into the same state")
    shutil.copy(one, cwd / "mine.png")
    fails(ebm("map", "run", "--recall", "one.png", "--out", "mine.png", cwd=cwd), "was not written by ebm", "--force")
    assert not list(cwd.glob("run-map*"))

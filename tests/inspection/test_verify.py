"""`ebm inspect --verify`: whole folders read through."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.quick import ebm, fails, trained

from ebmcli.errors import EBMError
from ebmcli.inspection.verify import verify
from ebmcli.models.checkpoint import FILE
from ebmcli.models.lookup import bundled
from ebmcli.storage.seals import Soundness, sealed
from ebmcli.storage.tensors import pack, read_tensors

SMALL = ("--threads", 1, "--steps", 20)


def states(folder: Path) -> dict[str, Soundness]:
    """By file."""
    return {str(found.path.relative_to(folder)): found.state for found in verify(folder)}


def damage(path: Path) -> None:
    """A change in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def test_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sound as it was written, but for the recipe, which has no checksum; every file is missed when it changes."""
    folder = Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))
    files = ["checkpoints/000020", "checkpoints/000040", "metrics.jsonl", "model.safetensors", "run.json"]
    assert states(folder) == {**dict.fromkeys(files, Soundness.SOUND), "recipe.toml": Soundness.UNVERIFIABLE}
    for name in files:
        path = folder / name
        path = path / "state.safetensors" if path.is_dir() else path
        before = path.read_bytes()
        damage(path)
        assert states(folder)[name] is Soundness.DAMAGED, name
        path.write_bytes(before)
    (folder / "recipe.toml").write_text("schema = [")
    damage(folder / "checkpoints" / "000040" / FILE)
    ran = ebm("inspect", "--verify", "run", "--json", cwd=tmp_path)
    assert ran.code == 1
    rows = {Path(row["file"]).name: row["state"] for row in json.loads(ran.stdout)}
    assert rows["000040"] == rows["recipe.toml"] == "damaged"
    assert "error: 2 of 6 are damaged" in ran.stderr


def test_models(tmp_path: Path) -> None:
    """Those of the package are sound, by name too; one without a checksum is unverifiable, and told when it is used."""
    for folder in bundled().values():
        assert set(states(folder).values()) == {Soundness.SOUND}
    tensors, said = read_tensors(bundled()["gmm-convergent"] / FILE)
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack(tensors, {k: v for k, v in said.items() if k != "sha256"}))
    assert [found.state for found in verify(path)] == [Soundness.UNVERIFIABLE]
    ran = ebm("sample", path, "--steps", 1, "-n", 2, "--out", "o.png", cwd=tmp_path, check=0)
    assert sum("has no checksum" in line for line in ran.stderr.splitlines()) == 1
    name = next(name for name in tensors if name.startswith("network."))
    tensors[name].view(-1)[0] = float("inf")
    path.write_bytes(pack(tensors, {k: v for k, v in said.items() if k != "sha256"}))
    assert [found.state for found in verify(path)] == [Soundness.DAMAGED]
    fails(ebm("sample", path, "--steps", 1, "--out", "p.png", cwd=tmp_path), f"{name} is not finite")
    assert not (tmp_path / "p.png").exists()


def test_long_runs_and_maps(tmp_path: Path) -> None:
    """Every file of theirs."""
    words = ("longrun", "gmm-shortrun", "--step-size", 0.01, "--chains", 4, "--moments", 3, "--compared", 20)
    ebm(*words, *SMALL, "--out", "long", cwd=tmp_path, check=0)
    found = states(tmp_path / "long")
    assert set(found.values()) == {Soundness.SOUND}
    images = sorted((tmp_path / "long" / "images").iterdir())
    assert {f"images/{p.name}" for p in images} < found.keys()
    damage(images[0])
    damage(tmp_path / "long" / "longrun.json")
    ran = ebm("inspect", "--verify", "long", cwd=tmp_path)
    assert ran.code == 1
    assert "2 of" in ran.stderr
    words = ("map", "gmm", "--samples", 4, "--quench", 20, "--alpha", 1, "--temperature", 1, "--trials", 1)
    assert ebm(*words, *SMALL, "--out", "map", cwd=tmp_path, EBM_CRASH_AT="map-basins").code not in (0, 1, 2)
    found = states(tmp_path / "map")
    assert {"unfinished/jobs.jsonl", "unfinished/chains.safetensors", "unfinished/settings.json"} <= found.keys()
    assert set(found.values()) == {Soundness.SOUND}
    damage(tmp_path / "map" / "unfinished" / "states.safetensors")
    damage(tmp_path / "map" / "unfinished" / "jobs.jsonl")
    assert list(states(tmp_path / "map").values()).count(Soundness.DAMAGED) == 2
    ran = ebm("map", "--resume", "map", "--threads", 1, cwd=tmp_path, check=0)
    assert "damaged lines in map/unfinished/jobs.jsonl: 1; their jobs are done again" in ran.stderr
    assert ran.stderr.count("it is set aside, and that part is done again") == 1
    assert set(states(tmp_path / "map").values()) == {Soundness.SOUND}
    damage(tmp_path / "map" / "map.json")
    assert states(tmp_path / "map")["map.json"] is Soundness.DAMAGED


def test_a_sweep_and_what_is_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A sweep's own facts and each of its runs; a folder of other things."""
    shutil.copytree(trained(tmp_path_factory), tmp_path / "grid" / "cell")
    (tmp_path / "grid" / "sweep.json").write_text(json.dumps(sealed({"recipe": "tiny"})))
    assert states(tmp_path / "grid")["cell/checkpoints/000040"] is Soundness.SOUND
    assert states(tmp_path / "grid")["sweep.json"] is Soundness.SOUND
    with pytest.raises(EBMError, match="nothing that can be verified"):
        list(verify(tmp_path))

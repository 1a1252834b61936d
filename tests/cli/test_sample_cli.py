"""`ebm sample`: the same bytes for the same seed, where chains start, what is written and what it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick import ebm, fails, trained
from PIL import Image

from ebmcli.cli.sample import TRACE_MOMENTS, TRACE_ROWS
from ebmcli.media import read_metadata
from ebmcli.models import checkpoint, lookup
from ebmcli.training.run_folder import Run


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A persistent model with averaged weights, `run`, in the working folder."""
    return Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))


@pytest.fixture
def noise(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model learned from noise starts, `noise`, in the working folder."""
    return Path(shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "noise"))


def draw(folder: Path, *words: object, name: str = "a.png") -> bytes:
    """The bytes that `ebm sample` writes."""
    ebm("sample", *words, "--out", name, cwd=folder, check=0)
    return (folder / name).read_bytes()


def arrays(folder: Path, *words: object) -> np.ndarray:
    """The images that `ebm sample --format npz` writes, uint8 [n c h w]."""
    draw(folder, *words, "--format", "npz", name="a.npz")
    with np.load(folder / "a.npz") as opened:
        return np.array(opened["images"])


# The same bytes


@pytest.mark.parametrize(("backend", "steps"), [("auto", 40), ("generic", 2)])
def test_the_same_seed_gives_the_same_bytes(backend: str, steps: int, run: Path) -> None:
    """Twice, in batches of 3 and 64, on one thread and two; another seed gives others."""
    words = ("run", "--from", "noise", "--steps", steps, "--count", 35, "--backend", backend)
    first = draw(run.parent, *words, "--seed", 7)
    variants: list[tuple[object, ...]] = [
        (),
        ("--batch-size", 3),
        ("--batch-size", 64),
        ("--threads", 1),
        ("--threads", 2),
        ("--threads", 1, "--batch-size", 7),
    ]
    for more in variants if backend == "auto" else variants[-1:]:
        assert draw(run.parent, *words, "--seed", 7, *more) == first, more
    assert draw(run.parent, *words, "--seed", 8) != first
    assert draw(run.parent, *words) != first


def test_a_process_of_its_own_gives_the_same_bytes(run: Path, run_cli) -> None:
    """As from the shell; and a copy of the model at another place does, too."""
    first = draw(run.parent, "run", "--seed", 7, "--count", 5)
    shutil.copytree(run, run.parent / "elsewhere" / "again")
    words = ("sample", "elsewhere/again", "--seed", 7, "--count", 5, "--out", "b.png")
    run_cli(*words, cwd=run.parent, check=0)
    assert (run.parent / "b.png").read_bytes() == first


def test_fewer_chains_are_the_first_of_many(run: Path) -> None:
    """A chain does not depend on how many others there are."""
    words = ("run", "--from", "noise", "--steps", 30)
    assert (arrays(run.parent, *words, "--count", 3) == arrays(run.parent, *words, "--count", 20)[:3]).all()


def test_a_trace_changes_nothing(run: Path) -> None:
    """Chains that are looked at on the way end at the same energies; its bytes are the same in any batch."""
    words = ("run", "--from", "noise", "--steps", 60, "--count", 10)
    results = [
        json.loads(ebm("sample", *words, *more, "--out", "b.png", "--json", cwd=run.parent, check=0).stdout)
        for more in ((), ("--trace",), ("--trace", "--batch-size", 3))
    ]
    assert results[0] == results[1] == results[2]
    first = draw(run.parent, *words, "--trace")
    assert draw(run.parent, *words, "--trace", "--batch-size", 3) == first
    grid = draw(run.parent, *words, name="grid.png")
    assert grid != first
    with Image.open(run.parent / "a.png") as trace:
        columns, rows = TRACE_MOMENTS + 1, TRACE_ROWS
        cell = (trace.width - 2) // columns
        assert trace.size == (columns * cell + 2, rows * cell + 2)
    assert read_metadata(run.parent / "a.png")["trace"] is True


# Where chains start


def test_starts(run: Path, noise: Path) -> None:
    """The bank for persistent models, noise for others; --steps 0 shows the starts themselves."""
    model = checkpoint.load(run / checkpoint.FILE)
    assert model.bank is not None
    bank = model.bank.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()
    folder, words = run.parent, ("--steps", 0, "--count", 40)
    left_out = arrays(folder, "run", *words)
    assert np.abs(left_out[:32].astype(int) - bank).max() <= 1
    assert (left_out[32:] == left_out[:8]).all()  # 40 chains, 32 states
    assert (arrays(folder, "run", "--from", "bank", *words) == left_out).all()

    from_noise = arrays(folder, "run", "--from", "noise", *words)
    assert (arrays(folder, "noise", *words) == from_noise).all()
    assert abs(from_noise.mean() - 127.5) < 3
    assert abs(from_noise.std() - 255 / 12**0.5) < 3  # uniform

    digits = arrays(folder, "run", "--from", "data", *words)
    assert len(np.unique(digits.reshape(40, -1), axis=0)) > 35
    assert (digits == 0).mean() > 0.3  # black around strokes
    other = arrays(folder, "run", "--from", "data", "--seed", 1, *words)
    assert (digits != other).any()
    fashion = arrays(folder, "run", "--from", "data", "--data", "fashion-1k", *words)
    assert (fashion != digits).any()


def test_starts_from_files(run: Path) -> None:
    """Images of a folder in their order, again from the first where there are too few; no path is kept."""
    folder = run.parent
    (folder / "mine").mkdir()
    for i, value in enumerate((0, 100, 200)):
        Image.new("L", (16, 16), value).save(folder / "mine" / f"{i}.png")
    images = arrays(folder, "run", "--from", "mine", "--steps", 0, "--count", 5)
    assert images[:, 0, 8, 8].tolist() == [0, 100, 200, 0, 100]
    made = read_metadata(folder / "a.npz")
    assert made["settings"]["start"] == "files"
    assert "mine" not in json.dumps(made)
    assert (arrays(folder, "run", "--from", "mine", "--count", 5, "--force") != images).any()


def test_starts_that_are_not_there(run: Path, noise: Path) -> None:
    """No bank, no such file, a word that is none, data of another machine: a line and a hint each."""
    fails(ebm("sample", "noise", "--from", "bank", cwd=run.parent), "keeps no bank", "--from noise or data")
    ran = ebm("sample", "run", "--from", "nosie", cwd=run.parent)
    fails(ran, "no data at nosie", "--from takes noise, data, bank, or a path")
    fails(ebm("sample", "run", "--from", "data", "--data", "missing", cwd=run.parent), "no data at missing")
    fails(ebm("sample", "run", "--precision", "bf16", cwd=run.parent), "was learned to be a density", "float32")
    fails(ebm("sample", "--precision", "bf16", cwd=run.parent), "is for CUDA devices", "float32")
    fails(ebm("sample", "noise", "--precision", "half", cwd=run.parent), "unknown precision 'half'", "tf32")
    assert not list(run.parent.glob("*.png"))


# Settings


def test_settings_take_effect(run: Path) -> None:
    """Each one changes the bytes and is in the metadata; what is left out is the model's own."""
    words = ("run", "--from", "noise", "--count", 4)
    first = draw(run.parent, *words)
    own = read_metadata(run.parent / "a.png")["settings"]
    assert own == {
        "count": 4,
        "noise": 1.0,
        "seed": 0,
        "start": "noise",
        "step_size": 0.02,
        "steps": 3,
        "temperature": 1.0,
    }
    for key, value in (("steps", 9), ("step_size", 0.05), ("noise", 0.0), ("temperature", 50.0)):
        assert draw(run.parent, *words, f"--{key.replace('_', '-')}", value) != first, key
        assert read_metadata(run.parent / "a.png")["settings"] == {**own, key: value}
    for key, value in (("steps", 3), ("step_size", 0.02), ("noise", 1), ("temperature", 1)):
        assert draw(run.parent, *words, f"--{key.replace('_', '-')}", value) == first, key


def test_last_weights(run: Path) -> None:
    """Of a run that averages both can be sampled; the line says which."""
    words = ("sample", "run", "--from", "noise", "--count", 4, "--out")
    average = ebm(*words, "a.png", cwd=run.parent, check=0)
    last = ebm(*words, "b.png", "--weights", "last", cwd=run.parent, check=0)
    assert "average weights of update 40" in average.stderr
    assert "last weights of update 40" in last.stderr
    assert (run.parent / "a.png").read_bytes() != (run.parent / "b.png").read_bytes()
    fails(ebm(*words, "c.png", "--weights", "best", cwd=run.parent), "--weights 'best'", code=2)


def test_runaway_chains(run: Path) -> None:
    """Chains that leave the finite numbers are an error, and no picture is written; far ones are warned of."""
    words = ("sample", "run", "--from", "noise", "--count", 4, "--steps", 60, "--step-size")
    ran = ebm(*words, 1e20, cwd=run.parent)
    fails(ran, "left the finite numbers within 60 steps", "trained with step size 0.02", code=3)
    assert not list(run.parent.glob("*.png"))
    ran = ebm(*words, 100, cwd=run.parent, check=0)
    assert "warning: chains went far from the data's range: largest |pixel| " in ran.stderr
    assert "warning" not in ebm(*words, 0.02, "--force", cwd=run.parent, check=0).stderr


# What is written


def test_the_line_and_the_names(run: Path, noise: Path) -> None:
    """One line on stderr says model, settings and where the picture is; the name is the run's and the seed's."""
    ran = ebm("sample", "run", "--seed", 3, "--count", 2, cwd=run.parent, check=0)
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    for part in ("run: 2 chains from bank, 3 steps, ε 0.02, τ 1, T 1, seed 3", "update 40", "run-seed3.png"):
        assert part in line
    assert ebm("sample", "run", "--count", 2, "--quiet", cwd=run.parent, check=0).stderr == ""
    for model, cwd, name in ((".", run, "run"), ("noise/model.safetensors", run.parent, "noise")):
        ebm("sample", model, "--count", 1, cwd=cwd, check=0)
        assert (cwd / f"{name}-seed0.png").is_file()


def test_json(run: Path) -> None:
    """One document on stdout: where it is, what made it, the energies."""
    ran = ebm("sample", "run", "--count", 3, "--out", "b.png", "--json", cwd=run.parent, check=0)
    result = json.loads(ran.stdout)
    assert result["out"] == "b.png"
    assert result["settings"] == read_metadata(run.parent / "b.png")["settings"]
    assert result["model_sha256"] == checkpoint.load(run / checkpoint.FILE).digest
    assert np.isfinite([result["energy_mean"], result["energy_sd"]]).all()
    assert result["energy_sd"] > 0


def test_formats(run: Path) -> None:
    """A grid, an array and a folder hold the same images."""
    folder = run.parent
    words = ("run", "--count", 5, "--seed", 2)
    images = arrays(folder, *words)
    assert (images.dtype, images.shape) == (np.uint8, (5, 1, 16, 16))
    ebm("sample", *words, "--format", "folder", cwd=folder, check=0)
    written = sorted((folder / "run-seed2").iterdir())
    assert [p.name for p in written] == [f"{i:04d}.png" for i in range(5)]
    for image, path in zip(images, written, strict=True):
        with Image.open(path) as opened:
            assert (np.asarray(opened) == image[0]).all()
    assert read_metadata(written[3])["index"] == 3
    draw(folder, *words)
    with Image.open(folder / "a.png") as grid:
        scale = (grid.width - 2) // 5 // 16
        cell = np.asarray(grid)[2 : 2 + 16 * scale : scale, 2 : 2 + 16 * scale : scale]
    assert (cell == images[0, 0]).all()
    fails(ebm("sample", *words, "--trace", "--format", "npz", cwd=folder), "--trace makes a picture", code=2)


def test_what_is_there_is_not_lost(run: Path) -> None:
    """Samples replace samples; foreign files, full folders and wrong names are refused before any sampling."""
    folder = run.parent
    words = ("sample", "run", "--count", 2, "--out")
    ebm(*words, "a.png", cwd=folder, check=0)
    ebm(*words, "a.png", "--seed", 1, cwd=folder, check=0)
    Image.new("L", (4, 4)).save(folder / "holiday.png")
    (folder / "notes.png").write_text("mine")
    for name in ("holiday.png", "notes.png"):
        before = (folder / name).read_bytes()
        fails(ebm(*words, name, cwd=folder), f"{name} exists and was not written by ebm", "--force")
        assert (folder / name).read_bytes() == before
    ebm(*words, "holiday.png", "--force", cwd=folder, check=0)
    assert read_metadata(folder / "holiday.png")["model"] == "tiny"

    fails(ebm(*words, "a.png", "--steps", 0, cwd=folder), "a.png holds something else than these samples", "--force")

    words = ("sample", "run", "--count", 2)  # and no name: the one that is taken then is that of other settings too
    first = draw(folder, *words[1:], name="run-seed0.png")
    ebm(*words, cwd=folder, check=0)
    for other in (("--steps", 0), ("--count", 3), ("--trace",)):
        fails(ebm(*words, *other, cwd=folder), "run-seed0.png holds samples with other settings", "--force")
    assert (folder / "run-seed0.png").read_bytes() == first
    ebm(*words, "--steps", 0, "--force", cwd=folder, check=0)
    assert read_metadata(folder / "run-seed0.png")["settings"]["steps"] == 0

    words = ("sample", "run", "--count", 2, "--out")
    more = ("--format", "folder")
    ebm(*words, "many", *more, cwd=folder, check=0)
    fails(ebm(*words, "many", *more, cwd=folder), "many is not empty", "--force")
    (folder / "many" / "notes.txt").write_text("mine")
    ebm(*words, "many", *more, "--count", 1, "--force", cwd=folder, check=0)
    assert sorted(p.name for p in (folder / "many").iterdir()) == ["0000.png", "notes.txt"]

    fails(ebm(*words, "a.jpg", cwd=folder), "does not end in .png", "a.png", code=2)
    fails(ebm(*words, "a.png", "--format", "npz", cwd=folder), "does not end in .npz", code=2)
    (folder / "b.png").mkdir()
    fails(ebm(*words, "b.png", cwd=folder), "b.png is a folder")


# What a picture says of itself


def test_inspect_a_picture(run: Path) -> None:
    """Model, hash, seed and settings; no path, time or batch size, so that equal pictures are equal files."""
    folder = run.parent
    draw(folder, run, "--seed", 5, "--count", 3, "--batch-size", 2)
    made = json.loads(ebm("inspect", "a.png", "--json", cwd=folder, check=0).stdout)
    assert set(made) == {
        "made_by",
        "model",
        "model_sha256",
        "updates",
        "weights",
        "energy_scale",
        "settings",
    }
    assert made["model"] == "tiny"
    assert made["model_sha256"] == checkpoint.load(run / checkpoint.FILE).digest
    assert made["energy_scale"] == pytest.approx(5000)
    assert (made["settings"]["seed"], made["settings"]["count"]) == (5, 3)
    text = json.dumps(made)
    assert str(folder) not in text
    assert "batch" not in text
    rows = dict(line.split(None, 1) for line in ebm("inspect", "a.png", cwd=folder, check=0).stdout.splitlines())
    assert rows["settings.seed"] == "5"
    assert rows["model_sha256"] == made["model_sha256"]


def test_inspect_what_says_nothing(run: Path) -> None:
    """A picture of somebody else's, one that is none, one that is missing."""
    Image.new("L", (4, 4)).save(run.parent / "holiday.png")
    (run.parent / "text.npz").write_text("mine")
    fails(ebm("inspect", "holiday.png", cwd=run.parent), "does not say what made it")
    fails(ebm("inspect", "text.npz", cwd=run.parent), "text.npz")
    fails(ebm("inspect", "missing.png", cwd=run.parent), "no such file: missing.png")


def test_inspect_a_run(run: Path) -> None:
    """Settings, size, bank, checksum, and how far it has come."""
    facts = json.loads(ebm("inspect", "run", "--json", cwd=run.parent, check=0).stdout)
    assert facts["updates"] == 40
    assert facts["bank_states"] == 32
    assert facts["parameters"] == sum(p.numel() for p in checkpoint.load(run / checkpoint.FILE).potential.parameters())
    assert facts["run"]["newest_metrics"][0]["update"] == 40
    assert facts["run"]["data"] == "mnist-10k"
    assert facts["recipe_hash"] == Run(run).facts["recipe_hash"]
    ran = ebm("inspect", "run", cwd=run.parent, check=0)
    assert "energy_scale" in ran.stdout
    assert ran.stderr == ""


# Which model


def test_the_model_is_found(run: Path) -> None:
    """EBM_MODEL where MODEL is left out; a folder without a model and an unknown name say what is expected."""
    ran = ebm("sample", "--count", 2, cwd=run.parent, check=0, EBM_MODEL="run")
    assert ran.stderr.startswith("run: 2 chains")
    facts = json.loads(ebm("inspect", "--json", cwd=run.parent, check=0, EBM_MODEL="run").stdout)
    assert facts["name"] == "tiny"
    (run.parent / "empty").mkdir()
    fails(ebm("sample", "empty", cwd=run.parent), "empty holds no model.safetensors")
    fails(ebm("sample", "mnist-shortrum", cwd=run.parent), "no model 'mnist-shortrum'")


def test_the_bundled_default_is_there() -> None:
    """`mnist-shortrun` is in the package, with its card, recipe and settings, under 3 MB."""
    assert lookup.DEFAULT in lookup.bundled()
    folder = lookup.bundled()[lookup.DEFAULT]
    names = {p.name for p in folder.iterdir()}
    assert {"model.safetensors", "config.json", "recipe.toml", "README.md", "samples.png"} <= names
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3e6
    loaded = checkpoint.load(folder / checkpoint.FILE)
    assert loaded.config.updates > 0
    assert loaded.config.image_size in (28, 32)
    assert json.loads((folder / "config.json").read_text())["energy_scale"] == loaded.config.energy_scale


def test_the_bundled_default_samples(tmp_path: Path, run_cli) -> None:
    """The main job, from the shell: a picture of strokes on black, offline, in seconds."""
    ran = run_cli("sample", "--from", "noise", "--steps", 100, "--count", 16, cwd=tmp_path, check=0, timeout=60)
    assert ran.stderr.startswith("mnist-shortrun: 16 chains from noise, 100 steps")
    assert "mnist-shortrun-seed0.png" in ran.stderr
    with Image.open(tmp_path / "mnist-shortrun-seed0.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert (pixels < 40).mean() > 0.4  # paper
    assert (pixels > 200).mean() > 0.03  # ink
    assert "mnist-shortrun (default)" in run_cli("models", cwd=tmp_path, check=0).stdout

"""`ebm train`: what it writes and says, what a resumed run may change, divergence, and data that is none."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick import Running, ebm, fails, metrics, recipe, trained
from PIL import Image, ImageDraw

from ebmcli.models import checkpoint
from ebmcli.training.run_folder import Run

SHORT = ("--threads", 1, "--set", "log.samples_every=0")


@pytest.fixture
def run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run `tiny`."""
    return Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 JPEGs of 178×218 with random shapes on them, as CelebA's are."""
    folder, luck = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for i in range(40):
        image = Image.new("RGB", (178, 218), tuple(int(c) for c in luck.integers(0, 256, 3)))
        draw = ImageDraw.Draw(image)
        for shape in (draw.ellipse, draw.rectangle, draw.ellipse):
            x, y, w, h = (int(v) for v in luck.integers(10, 110, 4))
            shape((x, y, x + w, y + h), fill=tuple(int(c) for c in luck.integers(0, 256, 3)))
        image.save(folder / f"{i + 1:06d}.jpg", quality=90)
    return folder


# What a run is


def test_a_run_of_its_own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without --out it lies in runs/NAME, the next in runs/NAME-2; stdout is the JSON alone."""
    words = ("train", recipe(tmp_path_factory), "--set", "train.updates=3", "--threads", 1)
    ran = ebm(*words, "--json", cwd=tmp_path, check=0)
    assert json.loads(ran.stdout) == {
        "run": "runs/tiny",
        "updates": 3,
        "samples": "runs/tiny/samples/000003.png",
    }
    run = tmp_path / "runs" / "tiny"
    assert {p.name for p in run.iterdir()} == {
        "run.json",
        "recipe.toml",
        "metrics.jsonl",
        "model.safetensors",
        "samples",
        "checkpoints",
        ".lock",
    }
    assert [s.update for s in Run(run).checkpoints()] == [0, 3]
    assert [r["update"] for r in metrics(run)] == [1, 2, 3]
    with Image.open(run / "samples" / "000003.png") as picture:
        assert picture.width > 100
    assert "updates = 3" in (run / "recipe.toml").read_text()
    ran = ebm(*words, "--quiet", cwd=tmp_path, check=0)
    assert ran.stdout == ""
    assert all(line.startswith("warning: optimizer.name: Adam to the end") for line in ran.stderr.splitlines())
    assert metrics(tmp_path / "runs" / "tiny-2") == metrics(run)


def test_what_it_says(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The recipe, data, size, network, device, engine; where everything is; what to type next."""
    words = ("train", recipe(tmp_path_factory), "--out", "run", "--set", "train.updates=1", *SHORT)
    ran = ebm(*words, cwd=tmp_path, check=0)
    first, *_, second, last = ran.stderr.splitlines()
    for part in ("tiny (convergent) on mnist-10k", "16×16×1", "vanilla of width 4", "cpu, backend", "1 threads"):
        assert part in first
    assert second == "run: 1 updates"  # no grid was asked for, so none is named
    assert last == "next: ebm sample run"
    assert str(tmp_path) not in ran.stderr


def test_what_exists_is_refused(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run is never overwritten, and other folders are no place for one."""
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    words = ("train", recipe(tmp_path_factory), "--out")
    fails(ebm(*words, "run", cwd=run.parent), "holds a run already", "ebm train --resume run")
    (run.parent / "notes").mkdir()
    (run.parent / "notes" / "a.txt").write_text("mine")
    fails(ebm(*words, "notes", cwd=run.parent), "notes is not empty")
    fails(ebm(*words, "notes/a.txt", cwd=run.parent), "is a file")
    ran = ebm(*words, "notes/a.txt/run", cwd=run.parent, check=1)
    assert "error: cannot make the folder notes/a.txt/run: Not a directory\nhint: " in ran.stderr
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_dry_run_writes_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hours, memory and disk from timed updates; no folder."""
    words = ("train", recipe(tmp_path_factory), "--dry-run", "--set", "train.updates=1000", "--threads", 1)
    ran = ebm(*words, cwd=tmp_path, check=0)
    [line] = [line for line in ran.stderr.splitlines() if "nothing was written" in line]
    for part in ("1,000 updates of 3 steps on 8 chains", "s an update", "hours", "memory", "disk", "MiB"):
        assert part in line
    result = json.loads(ebm(*words, "--json", "--quiet", cwd=tmp_path, check=0).stdout)
    assert result["hours"] == pytest.approx(result["seconds_per_update"] * 1000 / 3600)
    assert result["timed_updates"] == 20
    assert result["memory_bytes"] > 50e6
    assert result["disk_bytes"] > 100e3
    assert [p.name for p in tmp_path.iterdir()] == [".streams"]


def test_usage(tmp_path: Path) -> None:
    """Either a recipe or a run, and what belongs to the other is refused; exit 2."""
    fails(ebm("train", cwd=tmp_path), "give a RECIPE, or --resume RUN", code=2)
    fails(ebm("train", "digits_quickstart", "--resume", "x", cwd=tmp_path), "give a RECIPE, or", code=2)
    fails(ebm("train", "--resume", "x", "--out", "y", cwd=tmp_path), "--out is for a new run", code=2)
    fails(ebm("train", "--resume", "x", "--dry-run", cwd=tmp_path), "--dry-run is for a new run", code=2)
    fails(ebm("train", "digits_quikstart", cwd=tmp_path), "digits_quickstart", code=2)


def test_mistakes_of_a_recipe_leave_nothing_behind(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All of them, exit 2; an unknown engine or device too."""
    words = ("train", recipe(tmp_path_factory))
    ran = ebm(*words, "--set", "train.updates=0", "--set", "mcmc.stesp=3", cwd=tmp_path, check=2)
    assert len(ran.stderr.splitlines()) == 4
    assert "train.updates" in ran.stderr
    assert "mcmc.steps" in ran.stderr
    fails(ebm(*words, "--backend", "gpu", cwd=tmp_path), "unknown backend 'gpu'")
    if not torch.cuda.is_available():
        fails(ebm(*words, "--device", "cuda:0", cwd=tmp_path), "is not there", "--device cpu", code=2)
    words = (*words, "--set", "potential.network=no_such_package:factory")
    fails(ebm(*words, cwd=tmp_path), "cannot be imported")
    assert not (tmp_path / "runs").exists()


# Going on


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    """A missing folder, an empty one, a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("missing", "empty", "file"):
        fails(ebm("train", "--resume", name, cwd=tmp_path), f"no run in {name}", "ebm train RECIPE --out")


def test_only_length_and_log_can_be_set_anew(run: Path) -> None:
    """train.updates and log.*: the rest is the run's; a longer run is as one that was long from the start."""
    before = (run / "recipe.toml").read_bytes()
    for key in ("train.seed=1", "mcmc.steps=4", "logs.keep_last=1", "train=1"):
        ran = ebm("train", "--resume", "run", "--set", key, cwd=run.parent)
        fails(ran, key, "only train.updates and log.*", code=2)
    ebm("train", "--resume", "run", "--set", "train.updates=0", cwd=run.parent, check=2)
    assert (run / "recipe.toml").read_bytes() == before
    words = ("--set", "train.updates=42", "--set", "log.checkpoint_every=1", "--set", "log.keep_last=3")
    ran = ebm("train", "--resume", "run", *words, cwd=run.parent, check=0)
    assert "run: goes on after update 40" in ran.stderr
    assert [s.update for s in Run(run).checkpoints()] == [40, 41, 42]
    assert [r["update"] for r in metrics(run)] == [*range(1, 43)]
    assert "updates = 42" in (run / "recipe.toml").read_text()
    ran = ebm("train", "--resume", "run", cwd=run.parent, check=0)
    assert "all 42 updates are done; --set train.updates=N learns on" in ran.stderr


def test_a_run_goes_on_from_any_folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data given by a relative path is found again; other data is refused, the same from elsewhere is not."""
    rng = np.random.default_rng(0)
    for name in ("mine", "other"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (20, 16, 16), dtype=np.uint8))
    words = ("--data", "mine.npy", "--set", "train.updates=2", *SHORT)
    ebm("train", recipe(tmp_path_factory), *words, "--out", "run", cwd=tmp_path, check=0)
    (tmp_path / "below").mkdir()
    more = ("--set", "train.updates=3")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    ran = ebm("train", "--resume", "../run", "--data", "../other.npy", cwd=tmp_path / "below")
    fails(ran, "not the images that ../run learned from", "--data")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    ebm("train", "--resume", "../run", *more, cwd=tmp_path / "below", check=0)
    shutil.move(tmp_path / "mine.npy", tmp_path / "moved.npy")
    fails(ebm("train", "--resume", "run", cwd=tmp_path), "no data at")
    ebm("train", "--resume", "run", "--data", "moved.npy", "--set", "train.updates=4", cwd=tmp_path, check=0)
    assert [r["update"] for r in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_other_threads_or_engine_are_warned_of(run: Path) -> None:
    """They change the last bits, so the run goes on with a warning; by itself it takes what it began with."""
    words = ("train", "--resume", "run", "--set")
    ran = ebm(*words, "train.updates=41", cwd=run.parent, check=0)
    assert "warning" not in ran.stderr
    ran = ebm(*words, "train.updates=42", "--threads", 2, cwd=run.parent, check=0)
    assert "warning: threads was 1 and is 2: the run goes on, but not bit for bit" in ran.stderr
    facts = Run(run).facts
    if facts["backend"] == "generic":
        pytest.skip("no compiled engine here")
    ran = ebm(*words, "train.updates=43", "--backend", "generic", "--quiet", cwd=run.parent, check=0)
    assert "warning: backend was native and is generic" in ran.stderr
    assert Run(run).facts["backend"] == "generic"


# Beginning with another model


def test_init_from(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run begins with the weights and the bank of another, and says which; it resumes without it."""
    source = trained(tmp_path_factory)
    words = ("train", recipe(tmp_path_factory), "--init-from", source, "--out", "run", *SHORT)
    ran = ebm(*words, "--set", "train.updates=2", cwd=tmp_path, check=0)
    assert "begins with the weights and bank of tiny, update 40, " in ran.stderr
    facts = Run(tmp_path / "run").facts
    assert facts["init_from"].startswith("tiny, update 40, ")
    first = checkpoint.read_tensors(tmp_path / "run" / "checkpoints" / "000000" / "state.safetensors")[0]
    given = checkpoint.read_tensors(source / "model.safetensors")[0]
    network = {k: v for k, v in given.items() if k.startswith("network.")}
    assert network
    assert all(torch.equal(first[k], v) for k, v in network.items())
    newest = checkpoint.read_tensors(source / "checkpoints" / "000040" / "state.safetensors")[0]
    assert torch.equal(first["bank"], newest["bank"])  # float32, and all of it: not the sample in the model file
    assert not torch.equal(first["bank"], given["bank"].float())
    averages = [v for k, v in sorted(first.items()) if k.startswith("average.")]
    assert {tuple(v.shape) for v in averages} == {tuple(v.shape) for v in network.values()}
    ebm("train", "--resume", "run", "--set", "train.updates=4", *SHORT[2:], cwd=tmp_path, check=0)
    assert [r["update"] for r in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_init_from_a_model_folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An exported model keeps some of its bank: those, in turn, are where the new bank begins."""
    ebm("export", trained(tmp_path_factory), "digits", "--quiet", cwd=tmp_path, check=0)
    words = ("train", recipe(tmp_path_factory), "--init-from", "digits", "--out", "run", *SHORT)
    ebm(*words, "--set", "train.updates=1", "--set", "mcmc.bank_size=48", cwd=tmp_path, check=0)
    first = checkpoint.read_tensors(tmp_path / "run" / "checkpoints" / "000000" / "state.safetensors")[0]
    given = checkpoint.read_tensors(tmp_path / "digits" / "model.safetensors")[0]
    assert torch.equal(first["bank"], given["bank"].float()[torch.arange(48) % 32])


def test_init_from_what_does_not_fit(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Another network, another energy scale, no such model; nothing is begun where it cannot be."""
    source, mine = trained(tmp_path_factory), recipe(tmp_path_factory)
    start = ("train", mine, "--out", "run", "--set", "train.updates=21", "--quiet")
    ran = ebm(*start, "--init-from", source, "--set", "potential.width=6", cwd=tmp_path)
    fails(ran, "the weights of tiny do not fit", "width 4", "width 6")
    fails(ebm(*start, "--init-from", "mnist-shortrum", cwd=tmp_path), "no model", "did you mean mnist-shortrun?")
    assert not (tmp_path / "run").exists()
    ran = ebm(*start, "--init-from", source, "--set", "mcmc.step_size=0.01", cwd=tmp_path, check=0)
    assert "warning: the energy scale was 5000 and is 20000: the same weights are another energy" in ran.stderr
    ran = ebm("train", "--resume", "run", "--init-from", source, cwd=tmp_path)
    fails(ran, "--init-from is for a new run", code=2)


# Divergence


def test_divergence(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An absurd learning rate: exit 3, what happened, what to do, and the last sound state on the disk."""
    sets = ("optimizer.learning_rate=1e6", "log.checkpoint_every=0", "guard.retries=0")
    words = (*(word for s in sets for word in ("--set", s)), "--out", "run", *SHORT)
    ran = ebm("train", recipe(tmp_path_factory), *words, cwd=tmp_path)
    assert ran.code == 3, ran
    error, hint = ran.stderr.splitlines()[-2:]
    update = len(metrics(tmp_path / "run"))
    assert error.startswith(f"error: update {update + 1} diverged: ")
    assert hint.startswith("hint: lower the learning rate")
    assert f"the last sound state is saved, with earlier ones: run/checkpoints (000000, {update:06d})" in hint
    assert "Traceback" not in ran.stderr
    run = Run.open(tmp_path / "run")
    assert run.checkpoints()[-1].update == update
    loaded = checkpoint.load(run.folder / "model.safetensors")
    assert loaded.config.updates == update
    assert all(p.isfinite().all() for p in loaded.potential.parameters())
    state, _ = run.load(run.checkpoints()[-1])
    assert all(v.isfinite().all() for v in state.values())
    again = ebm("train", "--resume", "run", cwd=tmp_path)
    assert again.code == 3
    assert again.stderr.splitlines()[-2] == error


# Data


def test_faces_in_a_folder(faces: Path, tmp_path: Path) -> None:
    """The CelebA recipe on a folder like CelebA's, small: runs, saves, samples."""
    small = ["train.updates=2", "potential.width=4", "train.positives=8", "train.negatives=8", "mcmc.steps=3"]
    sets = [word for setting in small for word in ("--set", setting)]
    ran = ebm("train", "celeba_shortrun", "--data", faces, *sets, "--out", "run", cwd=tmp_path, check=0)
    assert "64×64×3" in ran.stderr
    run = Run.open(tmp_path / "run")
    assert run.checkpoints()[-1].update == 2
    assert len(metrics(run.folder)) == 2
    assert run.picture(2).is_file()
    for start in ("noise", "data"):
        words = ("--from", start, "--count", 4, "--steps", 0, "--format", "npz", "--out", f"{start}.npz")
        given = ("--data", faces) if start == "data" else ()
        ebm("sample", "run", *words, *given, cwd=tmp_path, check=0)
        with np.load(tmp_path / f"{start}.npz") as arrays:
            assert arrays["images"].shape == (4, 3, 64, 64)
    # Starts from data are cut like the data learned from: the middle 140 px of a JPEG, made 64 wide.
    with np.load(tmp_path / "data.npz") as arrays:
        starts = arrays["images"].astype(int)
    cut = []
    for path in sorted(faces.iterdir()):
        with Image.open(path) as image:
            middle = image.crop((19, 39, 159, 179)).resize((64, 64), Image.Resampling.BOX)
            cut.append(np.asarray(middle).transpose(2, 0, 1).astype(int))
    assert all(min(abs(start - c).mean() for c in cut) < 4 for start in starts)


@pytest.mark.slow
def test_faces_in_full(faces: Path, tmp_path: Path) -> None:
    """The recipe as it is, 20 updates: saves, samples."""
    words = ("--data", faces, "--set", "train.updates=20", "--out", "run")
    ran = Running(("train", "celeba_shortrun", *words), tmp_path, {}).end(timeout=7200)
    assert ran.code == 0, ran
    assert len(metrics(tmp_path / "run")) == 20
    ebm("sample", "run", "--from", "noise", "--count", 8, cwd=tmp_path, check=0)


def empty(path: Path) -> None:
    """A folder without files."""
    path.mkdir()


def texts(path: Path) -> None:
    """A folder full of text files."""
    path.mkdir()
    for i in range(20):
        (path / f"{i}.txt").write_text("no image")


def disguised(path: Path) -> None:
    """Text files that are called images."""
    path.mkdir()
    for i in range(20):
        (path / f"{i}.jpg").write_text("no image")


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: None, "no data at photos"),
        (empty, "empty folder"),
        (texts, "photos"),
        (disguised, "most images cannot be decoded"),
        (lambda path: path.write_bytes(b""), "photos is empty"),
        (lambda path: path.write_text("no image"), "photos"),
    ],
    ids=["missing", "empty folder", "texts", "texts called images", "empty file", "text file"],
)
def test_data_that_is_none(make, part: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One line and a hint each, and no run is left behind."""
    make(tmp_path / "photos")
    ran = ebm("train", recipe(tmp_path_factory), "--data", "photos", cwd=tmp_path)
    fails(ran, part)
    assert not (tmp_path / "runs").exists()


def test_unreadable_images_are_named_and_left_out(
    faces: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One bad file among many ends nothing."""
    shutil.copytree(faces, tmp_path / "photos")
    (tmp_path / "photos" / "000007.jpg").write_bytes((faces / "000007.jpg").read_bytes()[:300])
    words = ("--data", "photos", "--set", "train.updates=1", *SHORT)
    ran = ebm("train", recipe(tmp_path_factory), *words, cwd=tmp_path, check=0)
    assert "warning: images that cannot be read are left out (1): 000007.jpg\n" in ran.stderr


def test_a_toy_instead_of_a_toy(tmp_path: Path) -> None:
    """--data takes the toys' names, too."""
    words = ("--data", "rings", "--set", "train.updates=1", "--set", "mcmc.steps=2", "--threads", 1)
    ran = ebm("train", "gmm_shortrun", *words, "--out", "run", cwd=tmp_path, check=0)
    assert "on rings" in ran.stderr
    assert Run(tmp_path / "run").facts["data_path"] == "rings"


# The wheel


@pytest.mark.slow
def test_recipes_and_assets_are_in_the_wheel(root: Path, tmp_path: Path, python) -> None:
    """A wheel built without network holds every recipe, every asset, the kernel's source and licences."""
    pytest.importorskip("hatchling", reason="building a wheel without network needs hatchling")
    words = ("-m", "pip", "wheel", str(root), "--no-deps", "--no-build-isolation", "-w", str(tmp_path))
    python(*words, check=0, cwd=tmp_path)
    [wheel] = tmp_path.glob("ebmcli-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"ebmcli/recipes/{p.name}" for p in (root / "recipes").glob("*.toml")}
    assert len(wanted) >= 20
    package = root / "ebmcli"
    wanted |= {p.relative_to(root).as_posix() for p in (package / "assets").rglob("*") if p.is_file()}
    wanted |= {p.relative_to(root).as_posix() for p in package.rglob("*.py")}
    wanted |= {"ebmcli/py.typed", "ebmcli/native/kernel.cpp"}
    assert wanted <= names, sorted(wanted - names)
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests")]
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    code = "import ebmcli.recipe as r; print(r.__file__); print(len(r.names()))"
    ran = python("-c", code, env={"PYTHONPATH": str(unpacked)}, cwd=tmp_path, check=0)
    path, count = ran.stdout.split()
    assert path.startswith(str(unpacked)), sys.path
    assert int(count) >= 20

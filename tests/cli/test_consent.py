"""Code that received files name: no command imports it unasked, wherever the file is given, and --trust-code does.

Everything here is hostile: its network is `tripwire:make`, and `tripwire.py` lies both on the path and in the present
folder. It leaves a note when it is imported, and then fails, so that a command that got so far ends there.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest

from ebmcli.cli import _app as cli
from ebmcli.data.bundled import at_hand
from ebmcli.errors import ConsentError, EBMError
from ebmcli.landscape.mapping import MapSettings
from ebmcli.media import plots
from ebmcli.models import lookup
from ebmcli.models.checkpoint import FILE, checksum_of, save, settings_of
from ebmcli.models.origin import received
from ebmcli.recipe import load as load_recipe
from ebmcli.training import sweep

CODE = "tripwire:make"
BENIGN = """
import torch
def make(shape, **arguments): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0], 1))
"""
TRIPWIRE = """
import pathlib
pathlib.Path({note!r}).write_text("imported")
def make(*_, **__): raise ValueError("so far")
"""
RECIPE = f"""
schema = 1
[recipe]
name = "tripwire"
regime = "non-convergent"
[data]
source = "gmm"
image_size = 1
channels = 2
[potential]
network = "{CODE}"
energy_scale = "langevin"
[mcmc]
init = "gaussian"
steps = 2
step_size = 0.1
[train]
updates = 2
positives = 4
negatives = 4
[optimizer]
name = "adam"
learning_rate = 0.001
[log]
samples_every = 0
"""
SHA = "0123456789abcdef0123456789abcdef01234567"
HARMLESS = "gmm-shortrun"


class Try(NamedTuple):
    """A command line that is given something hostile."""

    words: str
    imports: bool = True
    """whether --trust-code makes it import code; False: it reads only, with any options"""


def reads(words: str) -> Try:
    """A command line that never needs the code."""
    return Try(words, imports=False)


SWEEP = "--over mcmc.steps=2 --set train.updates=3 --jobs 1"
TRIES: dict[str, tuple[Try, ...]] = {
    "train": (
        Try("hostile --dry-run"),
        Try("hostile/recipe.toml"),
        Try("run"),
        Try("run/recipe.toml"),
        Try("link.toml"),
        Try("nosuffix"),
        Try("sweep/steps-2/recipe.toml"),
        Try("--resume run --set train.updates=3"),
        Try("--resume sweep/steps-2 --set train.updates=3"),
        Try("gmm_shortrun --init-from hostile"),
    ),
    "sample": (
        Try("hostile"),
        Try("hostile.safetensors"),
        Try("run"),
        Try("run/checkpoints/000002"),
        Try("someone/hostile"),
        Try("sweep/steps-2"),
    ),
    "longrun": (Try("hostile"), Try("--resume long"), Try("--resume long-features")),
    "chain-video": (
        Try("hostile"),
        Try(f"{HARMLESS} hostile"),
        reads("long --seconds 0.1 --size 200x200 --out a.gif"),
    ),
    "compare": (Try(f"{HARMLESS} hostile"), Try(f"digits-convergent --features {CODE}"), Try(f"{HARMLESS} run")),
    "map": (Try("hostile"), Try("--resume map")),
    "diagnose": (Try("hostile"), Try("run")),
    "sweep": (Try(f"hostile {SWEEP} --out other"), Try(f"mine.toml {SWEEP} --out sweep")),
    "interpolate": (Try("hostile"), Try("run")),
    "reconstruct": (Try("hostile"), Try("run")),
    "data": (reads("list"), reads("show hostile"), reads("show hostile.safetensors")),
    "runs": (reads("run"), reads("sweep")),
    "inspect": (Try("hostile"), Try("run"), Try("run/checkpoints/000002"), reads("film.npz")),
    "models": (reads(""),),
    "export": (Try("hostile exported"), Try("hostile exported --longrun long")),
    "convert": (Try("hostile --to pth"), reads("weights.pth --recipe hostile --out converted")),
    "push": (Try("hostile someone/new --dry-run"), Try("run someone/new --dry-run")),
    "pull": (Try("someone/hostile --out pulled"),),
    "recipe": (
        reads("show hostile --resolved"),
        reads("check run"),
        reads("diff hostile gmm_shortrun"),
        reads("copy hostile copied.toml --force"),
    ),
    "bench": (Try("hostile --rounds 1"), Try("hostile/recipe.toml --rounds 1"), Try("run --rounds 1")),
    "env": (reads(""),),
}


class Place(NamedTuple):
    """A folder full of hostile things, which is the present one."""

    folder: Path
    note: Path
    """written when the tripwire is imported"""

    def arm(self) -> None:
        """Forget the code if it was imported, and its note."""
        sys.modules.pop("tripwire", None)
        self.note.unlink(missing_ok=True)


class Learner:
    """In the place of a sweep's learner in a process of its own: the same command, here."""

    def __init__(self, command: list[str], **_: object) -> None:
        self.returncode = cli.run(command[command.index("train") :])

    def poll(self) -> int:
        """It has ended."""
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """What it has said went elsewhere."""
        return "", ""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The folder, with everything that a command may be given; made with code that does no harm, then exchanged."""
    folder, path = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("path")
    place = Place(folder, path / "note")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(path))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        (path / "tripwire.py").write_text(BENIGN)
        make_all(folder)
        sys.modules.pop("tripwire", None)
        for where in (path, folder):
            (where / "tripwire.py").write_text(TRIPWIRE.format(note=str(place.note)))
            shutil.rmtree(where / "__pycache__", ignore_errors=True)
        gc.freeze()  # what is there stays: a collection after each command then looks at that command's alone
        yield place
        gc.unfreeze()
        sys.modules.pop("tripwire", None)


def rewrite(path: Path, **values: object) -> None:
    """Other values in a record, which then vouches for itself no more: whoever changes it can leave that out."""
    facts = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in facts.items() if key not in ("sealed", "sha256")}))


def make_all(folder: Path) -> None:
    """Models, runs, maps, sweeps, long runs and recipes, all of the same network."""
    (folder / "mine.toml").write_text(RECIPE)
    assert cli.run(["train", "mine.toml", "--out", "run", "--quiet"]) == 0, "a recipe of one's own needs no consent"
    gc.collect()
    assert cli.run(["export", "run", "hostile", "--quiet", "--trust-code"]) == 0
    shutil.copy(folder / "hostile" / FILE, folder / "hostile.safetensors")
    (folder / "link.toml").symlink_to(folder / "hostile" / "recipe.toml")
    shutil.copy(folder / "mine.toml", folder / "nosuffix")
    words = ["--from", "noise", "--steps", "2", "--chains", "4", "--moments", "2", "--compared", "20", "--quiet"]
    assert cli.run(["longrun", "hostile", *words, "--out", "long", "--trust-code"]) == 0
    assert cli.run(["longrun", HARMLESS, *words, "--out", "long-features"]) == 0
    rewrite(folder / "long-features" / "longrun.json", features=CODE, judged=True)
    (folder / "map" / "unfinished").mkdir(parents=True)
    settings = {
        "model": "hostile.safetensors",
        "digest": checksum_of(folder / "hostile.safetensors", trusted=True),
        "how": {"energy_scale": None, "trusted": True},
        "start": "noise",
        "samples": 2,
        "data": None,
        "leaves": 60,
        "settings": asdict(MapSettings(step_size=0.1)),
    }
    (folder / "map" / "unfinished" / "settings.json").write_text(json.dumps(settings))
    sweep.begin(folder / "sweep", "mine.toml", sweep.axes_of(["mcmc.steps=2"]), ["train.updates=3"], None)
    shutil.copytree(folder / "run", folder / "sweep" / "steps-2")
    cell = folder / "sweep" / "steps-2" / "recipe.toml"
    cell.write_text(cell.read_text().replace("updates = 2", "updates = 3"))
    shutil.copy(next((folder / "long" / "images").glob("*.npz")), folder / "film.npz")
    assert cli.run(["convert", HARMLESS, "--to", "pth", "--out", "weights.pth", "--quiet"]) == 0
    snapshot = folder / "hub" / "models--someone--hostile" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    shutil.copy(folder / "hostile" / FILE, snapshot / FILE)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(SHA)


def test_every_command_is_tried() -> None:
    """A new command has to say here where it may be given something hostile."""
    assert set(TRIES) == set(cli.COMMANDS)


CASES = [(command, attempt) for command, attempts in TRIES.items() for attempt in attempts]


@pytest.mark.parametrize(("command", "attempt"), CASES, ids=[f"{c} {a.words}" for c, a in CASES])
def test_no_code_of_a_received_file_runs_unasked(
    command: str, attempt: Try, hostile: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --trust-code one clear line and the command to type; with it the code is imported, so that this bites."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(hostile.folder)])
    monkeypatch.setattr("ebmcli.cli.sweep.subprocess.Popen", Learner)
    words = [command, *attempt.words.split()]
    hostile.arm()
    code = cli.run(words)
    said = capsys.readouterr().err
    assert not hostile.note.exists(), said
    assert str(hostile.folder) not in sys.path
    gc.collect()  # a run that was opened keeps its lock as long as it lives
    if not attempt.imports:
        assert "Traceback" not in said
        return
    assert code == 1, said
    assert re.search(rf"error: .*(names code to run as its network \({CODE}\)|would import code)", said), said
    assert f"allow it: ebm {' '.join(words)} --trust-code" in said
    cli.run([*words, "--trust-code"])
    assert hostile.note.exists(), capsys.readouterr().err
    gc.collect()


def test_nothing_but_the_command_line_gives_consent(
    hostile: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name in EBM_MODEL is no argument, a folder that looks like a name of code is a folder."""
    hostile.arm()
    monkeypatch.setenv("EBM_MODEL", CODE)
    assert cli.run(["compare", "--steps", "1", "--count", "2"]) == 1
    assert "would import code" in capsys.readouterr().err
    monkeypatch.delenv("EBM_MODEL")
    (hostile.folder / CODE).mkdir()
    assert cli.run(["compare", CODE]) == 1
    assert f"holds no {FILE}" in capsys.readouterr().err
    (hostile.folder / CODE).rmdir()
    assert not hostile.note.exists()
    assert cli.run(["compare", CODE, HARMLESS]) == 1  # naming it is to ask for it
    assert hostile.note.exists()


def test_code_is_named_on_the_command_line_too(hostile: Place, tmp_path: Path) -> None:
    """By --set, over a recipe of any origin that names none."""
    hostile.arm()
    cli.run(["train", "gmm_shortrun", "--set", f"potential.network={CODE}", "--dry-run", "--quiet"])
    assert hostile.note.exists()


def test_a_sweep_looks_for_no_module_in_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `python -m` would find a stand-in for one of Python's before Python's own."""
    (tmp_path / "tomllib.py").write_text("import pathlib\npathlib.Path('note').touch()\nfrom _tomllib import *\n")
    (tmp_path / "small.toml").write_text(RECIPE.replace(CODE, "toy"))
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sweep", "small.toml", "--over", "mcmc.steps=2", "--out", "grid", "--quiet"]) == 0
    assert not (tmp_path / "note").exists()


def test_whose_a_recipe_is(tmp_path: Path) -> None:
    """One's own: a .toml by its path, in no folder of a model, a run or a sweep, however deep."""
    own = tmp_path / "mine.toml"
    own.write_text(RECIPE)
    assert received(own) == ""
    assert received("gmm_shortrun")
    assert received(tmp_path)
    for mark in (FILE, "run.json", "sweep.json", "longrun.json"):
        inner = tmp_path / mark.partition(".")[0] / "deep" / "mine.toml"
        inner.parent.mkdir(parents=True)
        shutil.copy(own, inner)
        assert received(inner) == ""
        (inner.parents[1] / mark).touch()
        assert mark in received(inner)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("network", "vanilla", r'network is "vanilla" in its settings and "toy" in its recipe'),
        ("energy_scale", 1.0, r"energy_scale is 1\.0 in its settings and 20000"),
        ("channels", 3, "channels is 3"),
        ("step_size", 0.02, "step_size is 0.02"),
        ("arguments", {"width": 16, "leak": 0.05}, r"arguments\.width is 16 in its settings and 32"),
        ("regime", "convergent", "regime is"),
    ],
)
def test_settings_and_recipe_of_a_checkpoint_agree(key: str, value: object, said: str, tmp_path: Path) -> None:
    """A file that says one thing in its settings and another in its recipe is refused, before anything is built."""
    model = lookup.load(HARMLESS)
    weights, file = model.potential.network.state_dict(), tmp_path / FILE
    save(file, weights, model.config, recipe=model.recipe)
    lookup.load(file)
    save(file, weights, model.config.model_copy(update={key: value}), recipe=model.recipe)
    with pytest.raises(EBMError, match=f"contradicts itself: {said}"):
        lookup.load(file)
    save(file, weights, model.config.model_copy(update={"steps": 7}), recipe="")
    assert lookup.load(file).config.steps == 7


def test_a_recipe_beside_a_model_is_held_against_it(hostile: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Even with consent: the code that a recipe names is that of the model's settings, or none."""
    folder = hostile.folder / "mixed"
    folder.mkdir()
    shutil.copy(lookup.find(HARMLESS), folder / FILE)
    text = load_recipe(lookup.find(HARMLESS).parent).dumps()
    (folder / "recipe.toml").write_text(text.replace('network = "toy"', f'network = "{CODE}"'))
    hostile.arm()
    assert cli.run(["train", "mixed", "--dry-run", "--trust-code"]) == 1
    assert 'network is "toy" in its settings' in capsys.readouterr().err
    assert settings_of(folder / FILE).network == "toy"
    assert not hostile.note.exists()


def test_a_map_is_told_apart_before_code_is_imported(
    hostile: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another model than it was begun with is refused by its checksum, with consent too; so is a long run's."""
    for folder, file, key in (("map", "unfinished/settings.json", "digest"), ("long", "longrun.json", "model_sha256")):
        copy = Path(shutil.copytree(hostile.folder / folder, tmp_path / folder))
        rewrite(copy / file, **{key: 64 * "0"})
        hostile.arm()
        assert cli.run([{"long": "longrun"}.get(folder, folder), "--resume", str(copy), "--trust-code"]) == 1
        assert "another model" in (said := capsys.readouterr().err) or "is not the model" in said
        assert not hostile.note.exists()


@pytest.mark.parametrize("name", ["/etc/images", "~/photos", "../photos", "./photos", "a/../../b", "\\\\host\\share"])
def test_a_model_names_no_path_as_its_data(name: str) -> None:
    """What a received file says is no reason to read elsewhere on this machine."""
    with pytest.raises(EBMError, match="names a path as its data") as raised:
        at_hand(name)
    assert "`data`" in raised.value.hint


def test_a_model_names_no_pipe_as_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would be waited at for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(EBMError, match="neither a file nor a folder"):
        at_hand("pipe")


def test_a_matplotlibrc_of_the_present_folder_does_not_count(tmp_path: Path) -> None:
    """matplotlib takes its settings from there when it is imported; the figure is the same to the byte."""
    import matplotlib

    def draw(name: str) -> bytes:
        with plots.figure(2, 2) as (fig, axis):
            axis.plot([1, 2])
            plots.save(fig, tmp_path / name)
        return (tmp_path / name).read_bytes()

    plain = draw("plain.svg")
    with matplotlib.rc_context({"lines.marker": "o", "text.usetex": True, "font.size": 30}):
        assert draw("styled.svg") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_one_gate(root: Path) -> None:
    """Modules by a name that is not written in the program are imported in one place, and tables of our own."""
    package = root / "ebmcli"
    allowed = {"consent/__init__.py", "__init__.py", "cli/_app.py"}
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"import_module|__import__|exec|eval|sys\.path", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and re.search(r"import_module|__import__|\bexec$|\beval$", call(node)):
                found.add(path.relative_to(package).as_posix())
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                assert path == package / "consent" / "__init__.py", path
    assert found == allowed


def call(node: ast.Call) -> str:
    """The name of what is called; a module's `x.eval()` is no builtin."""
    name = ast.unparse(node.func)
    return "" if name.endswith(".eval") else name


def test_consent_in_python(hostile: Place) -> None:
    """An explicit keyword, False if left out."""
    hostile.arm()
    with pytest.raises(ConsentError, match="names code") as raised:
        lookup.load("hostile")
    assert "trusted=True" in raised.value.hint
    assert not hostile.note.exists()
    with pytest.raises(EBMError, match="so far"):
        lookup.load("hostile", trusted=True)
    assert hostile.note.exists()

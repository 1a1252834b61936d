"""What a run goes on from is read through first: damage is named, an earlier sound checkpoint taken, none believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.quick import ebm, fails, metrics, same, trained

import ebmcli
from ebmcli.errors import EBMError
from ebmcli.models.checkpoint import FILE
from ebmcli.storage import checkpoints
from ebmcli.storage.seals import Soundness, plain
from ebmcli.storage.tensors import pack, read_tensors
from ebmcli.training.run_folder import Run, Saved, bank_of

FILES = (FILE, "state.safetensors", "state.json")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with checkpoints 1 and 2, of a tensor each."""
    run = Run.create(tmp_path / "run", "schema = 1\n", {"seed": 0, "threads": 2})
    for update in (1, 2):
        run.append({"update": update})
        keep(run, update)
    return run


def keep(run: Run, update: int) -> Saved:
    """One more checkpoint."""
    model = run.folder / ".model.tmp"
    model.write_bytes(pack({"network.x": torch.ones(3)}))
    return run.save(update, model, {"x": torch.arange(3.0) + update}, {}, 9)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def old(folder: Path) -> None:
    """A run as it was written before there were checksums."""
    for path in [folder / "run.json", *folder.glob("checkpoints/*/state.json")]:
        facts = plain(json.loads(path.read_text()))
        path.write_text(json.dumps({k: v for k, v in facts.items() if k not in ("files", "metrics")}))


def newest(run: Path | Run) -> Path:
    """The newest checkpoint's folder."""
    return (run if isinstance(run, Run) else Run(run)).checkpoints()[-1].folder


# Every bit


@pytest.mark.parametrize("name", FILES)
def test_no_bit_of_a_checkpoint_changes_unseen(name: str, run: Run) -> None:
    """Whichever bit of whichever file: the checkpoint is damaged, and the one before it is taken."""
    path = newest(run) / name
    content = path.read_bytes()
    for at in range(len(content)):
        flip(path, at, at % 8)
        found = run.newest_sound()
        assert found.saved is not None
        assert found.saved.update == 1, f"byte {at} of {name}"
        assert found.damaged[0].path == newest(run)
        path.write_bytes(content)
    assert run.newest_sound().notes == ()


@pytest.mark.parametrize("name", FILES)
def test_no_cut_of_a_checkpoint_is_taken_for_the_whole(name: str, run: Run) -> None:
    """A few lengths of each file, none at all, and a folder in its place."""
    path = newest(run) / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        assert checkpoints.examine(Saved(2, newest(run))).state is Soundness.DAMAGED
    path.unlink()
    assert run.newest_sound().saved == run.checkpoints()[0]
    path.mkdir()
    assert run.newest_sound().saved == run.checkpoints()[0]


def test_a_checkpoint_under_another_number_is_not_believed(run: Run) -> None:
    """Neither renamed, nor with the number in its facts changed."""
    shutil.copytree(run.checkpoints()[0].folder, run.folder / "checkpoints" / "000007")
    found = run.newest_sound()
    assert found.saved == Saved(2, run.folder / "checkpoints" / "000002")
    assert "it is of update 1, and its folder of 7" in found.damaged[0].reason


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_run_json_is_sealed(at: int, run: Run) -> None:
    """A changed bit is seen; what never had a seal is read as before."""
    path = run.folder / "run.json"
    if at < len(path.read_bytes()):
        flip(path, at, 1)
        with pytest.raises(EBMError, match=r"run\.json"):
            _ = run.facts
    path.write_text('{"seed": 3}')
    assert run.facts == {"seed": 3}
    path.write_text('{"threads": -1}')
    with pytest.raises(EBMError, match=r"run\.json: threads is -1, expected 1 or more"):
        _ = run.facts


def test_what_is_damaged_is_set_aside(run: Run) -> None:
    """Under a name that is no checkpoint's, as often as it happens; the same update is then kept anew."""
    for name in ("000002.damaged", "000002.damaged-2"):
        flip(newest(run) / FILE, 30)
        run.set_aside(run.newest_sound())
        assert (run.folder / "checkpoints" / name).is_dir()
        assert [s.update for s in run.checkpoints()] == [1]
        keep(run, 2)
        assert run.newest_sound().saved == Saved(2, newest(run))


def test_none_sound(run: Run) -> None:
    """Then nothing is changed, and the newest is named."""
    for saved in run.checkpoints():
        flip(saved.folder / "state.safetensors", -1)
    with pytest.raises(EBMError, match=r"000002/state\.safetensors is damaged: .*; there is no sound one"):
        run.newest_sound()
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(EBMError, match="has learned, and has no checkpoint left"):
        run.newest_sound()


def test_metrics_are_as_the_checkpoint_says(run: Run) -> None:
    """A changed digit is told, and does not stop a run; a line that is none does, with its number."""
    saved = run.checkpoints()[-1]
    run.append({"update": 3})
    assert run.metrics_state(saved) is Soundness.SOUND
    text = run.metrics_path.read_text()
    run.metrics_path.write_text(text.replace('"update": 1', '"update": 0'))
    assert run.metrics_state(saved) is Soundness.DAMAGED
    assert "the weights do not depend on it" in run.newest_sound().notes[0]
    for line in ("{", "[]", '{"update": -1}', '{"update": "x"}', '{"update": 1, "seconds": []}', "[" * 9999, "\udcff"):
        run.metrics_path.write_text(text + line + "\n", errors="surrogateescape")
        with pytest.raises(EBMError, match=r"line 4 of .*metrics\.jsonl"):
            list(run.metrics())
    run.metrics_path.write_text(text + '{"upd')
    run.cut_metrics(2)
    assert run.metrics_path.read_text() == '{"update": 1}\n{"update": 2}\n'
    keep(run, 3)
    assert run.metrics_state(run.checkpoints()[-1]) is Soundness.SOUND


def test_a_state_that_is_not_finite_is_not_gone_on_from(run: Run) -> None:
    """Although its checksum is right."""
    model = run.folder / ".model.tmp"
    model.write_bytes(b"")
    saved = run.save(3, model, {"x": torch.tensor([1.0, float("nan")])}, {}, 9)
    with pytest.raises(EBMError, match="x is not finite"):
        run.load(saved)


# Before there were checksums


def change(name: str, element: int = 0) -> Callable[[Path], None]:
    """A damage to a tensor of the state."""

    def damage(folder: Path) -> None:
        tensors, _ = read_tensors(folder / "state.safetensors")
        tensors[name].view(-1)[element] += 0.25
        (folder / "state.safetensors").write_bytes(pack(tensors))

    return damage


def renumber(folder: Path) -> None:
    """A damage to the number."""
    (folder / "state.json").write_text('{"update": 12}')


@pytest.mark.parametrize("damage", [change("network.f.0.weight"), change("bank"), change("average.0"), renumber])
def test_contradictions_in_an_old_run(
    damage: Callable[[Path], None], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What an old checkpoint says twice has to agree; one that cannot be verified is not taken in its place."""
    folder = Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))
    old(folder)
    (note,) = Run(folder).newest_sound().notes
    assert "cannot be verified" in note
    damage(newest(folder))
    with pytest.raises(EBMError, match=r"state\.\w+ is damaged.*; those before it cannot be verified") as caught:
        Run(folder).newest_sound()
    assert f"move {newest(folder)} away" in caught.value.hint


# The command


def test_goes_on_from_the_checkpoint_before(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One warning, the damaged one beside it, and the end of the run that nothing had happened to."""
    folder = Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))
    flip(newest(folder) / "state.safetensors", -1)
    with pytest.raises(EBMError, match=r"state\.safetensors is damaged"):
        bank_of(folder / FILE, ebmcli.load(folder))
    ran = ebm("train", "--resume", "run", cwd=tmp_path, check=0)
    warnings = [line for line in ran.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1, ran.stderr
    assert "000040/state.safetensors is damaged" in warnings[0]
    assert "goes on after update 20" in warnings[0]
    assert [r["update"] for r in metrics(folder)] == [*range(1, 41)]
    shutil.rmtree(folder / "checkpoints" / "000040.damaged")
    same(folder, trained(tmp_path_factory))


def test_none_to_go_on_from(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Exit 1, one line, nothing changed; the same of a recipe that is another, and of a foreign line of metrics."""
    folder = Path(shutil.copytree(trained(tmp_path_factory), tmp_path / "run"))

    def before() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}

    def refuses(*parts: str) -> None:
        content = before()
        fails(ebm("train", "--resume", "run", "-q", cwd=tmp_path), *parts)
        assert before() == content

    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace("step_size = 0.02", "step_size = 0.03"))
    refuses("recipe.toml is not the recipe that the run learned with: mcmc.step_size is another")
    (folder / "recipe.toml").write_text(recipe)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([*lines[:4], "{torn\n", *lines[4:]]))
    refuses("line 5 of run/metrics.jsonl")
    (folder / "metrics.jsonl").write_text("".join(lines))
    for saved in Run(folder).checkpoints():
        flip(saved.folder / "state.safetensors", -1)
    refuses("000040/state.safetensors is damaged", "there is no sound one", "nothing was changed")

"""Checkpoints: what is saved comes back, whole or not at all; what is no checkpoint is refused in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quick import ebm, fails, recipe, trained
from safetensors import safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

import ebmcli
from ebmcli.errors import EBMError
from ebmcli.models import checkpoint
from ebmcli.models.checkpoint import BANK_STATES, FILE, ModelConfig
from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.recipe import load as load_recipe
from ebmcli.recipe import loads
from ebmcli.training.run_folder import Run

SHAPE = (1, 16, 16)
CONFIG = ModelConfig(
    name="tiny",
    network="vanilla",
    arguments={"width": 4, "leak": 0.1},
    image_size=16,
    channels=1,
    energy_scale=5000.0,
    temperature=2.0,
    step_size=0.02,
    noise=1.0,
    steps=7,
    init="persistent",
    data_noise=0.03,
    regime="convergent",
    updates=123,
    data="mnist-10k",
    versions={"ebmcli": "0", "torch": "0"},
)


def network(seed: int = 1) -> nn.Module:
    """The network of `CONFIG`."""
    return build("vanilla", SHAPE, seed=seed, width=4, leak=0.1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sound checkpoint."""
    path = tmp_path / FILE
    checkpoint.save(path, network().state_dict(), CONFIG, bank=torch.rand(5, *SHAPE), recipe="a = 1\n")
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Change a checkpoint's settings, and with `seal` its checksum too, as another program might write it."""
    tensors = from_bytes(path.read_bytes())
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["ebm"])
    change(config)
    metadata["ebm"] = json.dumps(config)
    if seal:
        metadata["sha256"] = checkpoint.digest(tensors, metadata["ebm"], metadata["recipe"])
    path.write_bytes(to_bytes(tensors, metadata=metadata))


# Round trip


def test_round_trip(tmp_path: Path) -> None:
    """Weights bit for bit, settings, recipe; the bank as float16, at most 256 of it."""
    path, source = tmp_path / "any name.safetensors", network()
    bank = torch.randn(300, *SHAPE)
    text = 'name = "τ"\n'
    digest = checkpoint.save(path, source.state_dict(), CONFIG, bank=bank, recipe=text)
    loaded = checkpoint.load(path)
    assert loaded.config == CONFIG
    assert loaded.recipe == text
    assert loaded.digest == digest
    assert len(digest) == 64
    for name, value in source.state_dict().items():
        assert loaded.potential.network.state_dict()[name].equal(value), name
    assert (loaded.potential.energy_scale, loaded.potential.temperature) == (5000.0, 2.0)
    assert loaded.bank is not None
    assert loaded.bank.dtype == torch.float32
    assert loaded.bank.equal(bank[:BANK_STATES].half().float())
    assert from_bytes(path.read_bytes())["bank"].dtype == torch.float16
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_checksum_names_the_content(tmp_path: Path) -> None:
    """Equal content has one checksum; another weight, setting, recipe or bank has another."""
    weights = network().state_dict()
    plain = checkpoint.save(tmp_path / "a", weights, CONFIG)
    assert checkpoint.save(tmp_path / "b", weights, CONFIG) == plain
    others = {
        checkpoint.save(tmp_path / "b", network(2).state_dict(), CONFIG),
        checkpoint.save(tmp_path / "b", weights, CONFIG.model_copy(update={"steps": 8})),
        checkpoint.save(tmp_path / "b", weights, CONFIG, recipe="a = 1"),
        checkpoint.save(tmp_path / "b", weights, CONFIG, bank=torch.zeros(1, *SHAPE)),
    }
    assert len(others | {plain}) == 5


def test_equal_models_are_equal_files_whatever_the_length_of_their_header(tmp_path: Path) -> None:
    """Byte for byte; and a header of 128 bytes, or of 0x4B50, whose length begins like a pickle's, is read as well."""
    firsts = set()
    for extra in range(0, 264, 8):
        path, twin = tmp_path / FILE, tmp_path / "twin.safetensors"
        for file in (path, twin):
            checkpoint.save(file, network().state_dict(), CONFIG, recipe="#" * extra)
        assert path.read_bytes() == twin.read_bytes()
        assert checkpoint.load(path).recipe == "#" * extra
        firsts.add(path.read_bytes()[0])
    assert 0x80 in firsts


def test_a_loaded_potential_is_the_class_that_everybody_uses(file: Path) -> None:
    """There is one class: what is loaded has the Hub's methods, its settings, and the digest of its file."""
    loaded = ebmcli.load(file)
    assert type(loaded.potential) is ebmcli.Potential is Potential
    again = ebmcli.Potential.from_pretrained(file)
    assert again.checkpoint.digest == loaded.potential.checkpoint.digest == loaded.digest
    assert again.config == loaded.config
    assert torch.equal(again.network.state_dict()["f.0.weight"], loaded.potential.network.state_dict()["f.0.weight"])


def test_from_pretrained_heeds_precision_and_other_settings(file: Path) -> None:
    """What `ebmcli.load` takes reaches the potential, in a class of the caller's own too."""

    class Own(ebmcli.Potential):
        """A class of somebody's."""

    config = CONFIG.model_copy(update={"regime": "non-convergent"})
    checkpoint.save(file, network().state_dict(), config)
    made = Own.from_pretrained(file, precision="bf16", backend="stack", energy_scale=3.0)
    assert (type(made), made.precision, made.requested_backend, made.energy_scale) == (Own, "bf16", "stack", 3.0)


def test_average_and_last_weights(tmp_path: Path) -> None:
    """A run that averages holds both; without the last ones, asking for them is an error."""
    average, last = network(1).state_dict(), network(2).state_dict()
    config = CONFIG.model_copy(update={"weights": "average"})
    path = tmp_path / FILE
    checkpoint.save(path, average, config, last=last)
    for which, expected in (("default", average), ("last", last)):
        state = checkpoint.load(path, weights=which).potential.network.state_dict()
        assert all(state[k].equal(expected[k]) for k in expected), which
    assert checkpoint.load(path, weights="last").config.weights == "last"
    checkpoint.save(path, average, config)
    with pytest.raises(EBMError, match="averaged weights only"):
        checkpoint.load(path, weights="last")


class Odd(nn.Module):
    """Tied weights, a number for a parameter, a buffer: what networks of users have."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.one = nn.Linear(shape[0] * shape[1] * shape[2], 1)
        self.two = nn.Linear(shape[0] * shape[1] * shape[2], 1)
        self.two.weight = self.one.weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """F(x) [n]."""
        return (self.scale * (self.one(x.flatten(1)) + self.two(x.flatten(1)))).flatten()


def test_networks_of_users(tmp_path: Path) -> None:
    """They are saved and loaded by a run's owner, and refused from a file that comes from anywhere."""
    source = Odd(SHAPE)
    config = CONFIG.model_copy(update={"network": "test_checkpoint:Odd", "arguments": {}, "weights": "average"})
    state = source.state_dict()
    checkpoint.save(tmp_path / FILE, {**state}, config, last=state)
    loaded = checkpoint.load(tmp_path / FILE, trusted=True)
    x = torch.rand(3, *SHAPE)
    assert loaded.potential.network(x).equal(source(x))
    with pytest.raises(EBMError, match="names code to run"):
        checkpoint.load(tmp_path / FILE)


def test_saving_is_atomic(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before the rename leaves the old file, a full disk too, and no other file then."""
    before = file.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(file, network(9).state_dict(), CONFIG)
    monkeypatch.undo()
    assert file.read_bytes() == before

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EBMError, match=r"cannot write .*model\.safetensors: No space left on device") as caught:
        checkpoint.save(file, network(9).state_dict(), CONFIG)
    assert "disk full" in caught.value.hint
    assert file.read_bytes() == before
    monkeypatch.undo()
    (file.parent / "folder").mkdir()
    names = sorted(p.name for p in file.parent.iterdir() if not p.name.startswith("."))
    with pytest.raises(EBMError, match="cannot write"):
        checkpoint.write_whole(file.parent / "folder", "text")
    assert sorted(p.name for p in file.parent.iterdir() if not p.name.startswith(".")) == names


def test_a_file_of_a_run_is_enough(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copied elsewhere, renamed, it samples the same; its settings are the recipe's and the run's."""
    run = trained(tmp_path_factory)
    shutil.copy(run / FILE, tmp_path / "mine.safetensors")
    for model, out in ((run, "a.png"), ("mine.safetensors", "b.png")):
        ebm("sample", model, "--count", 4, "--out", out, cwd=tmp_path, check=0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    loaded, wanted = checkpoint.load(tmp_path / "mine.safetensors"), load_recipe(recipe(tmp_path_factory))
    assert loads(loaded.recipe) == wanted
    assert loaded.config.recipe_hash == wanted.hash()
    assert loaded.config.energy_scale == 2 / wanted.mcmc.step_size**2
    assert (loaded.config.updates, loaded.config.weights, loaded.config.data) == (40, "average", "mnist-10k")
    assert loaded.config.data_identity == Run(run).facts["data_identity"]
    state, _ = Run(run).load(Run(run).checkpoints()[-1])
    assert loaded.bank is not None
    assert loaded.bank.equal(state["bank"].half().float())
    names = [n for n, _ in loaded.potential.network.named_parameters()]
    average = {n: state[f"average.{i}"] for i, n in enumerate(names)}
    assert all(p.equal(average[n]) for n, p in loaded.potential.network.named_parameters())
    last = checkpoint.load(run / FILE, weights="last").potential.network.state_dict()
    assert all(v.equal(state[f"network.{k}"]) for k, v in last.items())
    assert any(not v.equal(average[k]) for k, v in last.items())


# Bad files


def flip(path: Path, position: int, bit: int = 4) -> None:
    """Flip one bit of a file; from the end for negative positions."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def truncated(path: Path) -> None:
    """The end is missing, as of a download that broke off."""
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path) -> None:
    """What torch.save writes."""
    torch.save(network().state_dict(), path)


def old_pickle(path: Path) -> None:
    """What torch.save wrote years ago."""
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=False)


def others_file(path: Path) -> None:
    """A safetensors file of some other program."""
    path.write_bytes(to_bytes({"a": torch.zeros(2)}))


def wrong_keys(path: Path) -> None:
    """Weights of a network that calls them otherwise."""
    state = {k.replace("f.", "g."): v for k, v in network().state_dict().items()}
    checkpoint.save(path, state, CONFIG)


def set_to(**values: object) -> Callable[[Path], None]:
    """Settings changed, checksum right."""
    return lambda path: rewrite(path, lambda config: config.update(values))


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (lambda p: p.unlink(), ("no model",)),
    "empty": (lambda p: p.write_bytes(b""), ("is empty",)),
    "text": (lambda p: p.write_text("Dear reader,\n" * 50), ("not a whole safetensors file",)),
    "truncated": (truncated, ("not a whole safetensors file",)),
    "bit in the tensors": (lambda p: flip(p, -5), ("is damaged", "checksum")),
    "bit in the header": (lambda p: flip(p, 40), (FILE,)),
    "bit in the header's length": (lambda p: flip(p, 3), ("not a whole safetensors file",)),
    "pickle": (pickled, ("is a pickle", "never opened")),
    "old pickle": (old_pickle, ("is a pickle",)),
    "another program's": (others_file, ("does not describe itself",)),
    "wrong shapes": (
        set_to(arguments={"width": 8}),
        ("do not fit network vanilla", "width 8", "expected [8, 1, 3, 3]"),
    ),
    "wrong network": (set_to(network="nonlocal"), ("do not fit network nonlocal", "without convs.0.")),
    "wrong keys": (wrong_keys, ("do not fit", "without f.0.bias", "with unknown g.0.bias")),
    "wrong argument": (set_to(arguments={"depth": 8}), ("does not take these arguments",)),
    "impossible argument": (set_to(arguments={"width": -4}), ("cannot be built",)),
    "unknown network": (set_to(network="resnet"), ("unknown network 'resnet'",)),
    "a factory": (set_to(network="os:system"), ("names code to run", "os:system")),
    "settings of tomorrow": (set_to(format=2), ("make no sense: format", "newer version")),
    "settings that make no sense": (set_to(step_size=-1), ("make no sense: step_size",)),
    "no energy scale": (lambda p: rewrite(p, lambda c: c.pop("energy_scale")), ("energy scale", "--energy-scale")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints(name: str, file: Path) -> None:
    """One `error:` line, one `hint:` line, exit 1, no traceback: through sample and inspect alike."""
    spoil, parts = BAD[name]
    spoil(file)
    for command in ("sample", "inspect"):
        ran = ebm(command, file.name, cwd=file.parent)
        fails(ran, *parts, file.name)
        assert not list(file.parent.glob("*.png"))


def test_the_energy_scale_can_be_given(file: Path) -> None:
    """A file that lacks it is sampled with what is given, and says so."""
    rewrite(file, lambda config: config.pop("energy_scale"))
    words = ("sample", FILE, "--energy-scale", 5000, "--steps", 1, "--count", 2, "--out", "a.png", "--json")
    assert json.loads(ebm(*words, cwd=file.parent, check=0).stdout)["energy_scale"] == 5000
    ran = ebm("inspect", FILE, "--energy-scale", 5000, "--json", cwd=file.parent, check=0)
    assert json.loads(ran.stdout)["energy_scale"] == 5000
    fails(ebm("inspect", FILE, "--energy-scale", -1, cwd=file.parent), "energy_scale")


def test_no_single_bit_goes_unnoticed(file: Path) -> None:
    """Wherever a bit flips, the file is refused, or what is read from it is the same."""
    sound, content = checkpoint.load(file), file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, 3), *range(header, len(content), 997), len(content) - 1]
    refused = 0
    for place in places:
        file.write_bytes(content)
        flip(file, place, place % 8)
        try:
            loaded = checkpoint.load(file)
        except EBMError as error:
            assert error.hint  # noqa: PT017
            refused += 1
            continue
        assert (loaded.config, loaded.recipe, loaded.digest) == (sound.config, sound.recipe, sound.digest), place
    assert refused > 0.95 * len(places)


def test_an_altered_setting_is_noticed(file: Path) -> None:
    """The checksum covers settings, too."""
    rewrite(file, lambda config: config.update(energy_scale=1.0), seal=False)
    with pytest.raises(EBMError, match="is damaged"):
        checkpoint.load(file)

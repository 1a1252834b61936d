"""`ebm convert`: state dicts of the authors' networks become models of ours, and back; nothing in a file is run."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.quick import ebm, fails
from torch import nn

from ebmcli.errors import EBMError, UsageError
from ebmcli.models import checkpoint, lookup
from ebmcli.models.convert import recognise, settings_by_hand, signed, write_folder
from ebmcli.models.state_dicts import read
from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run
from ebmcli.storage.tensors import pack


def pth(
    folder: Path, name: str, shape: tuple[int, int, int], seed: int = 0, **arguments: Any
) -> tuple[Path, nn.Module]:
    """A network and the file of its state dict."""
    network = build(name, shape, seed=seed, **arguments)
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    return path, network


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("toy", (2, 1, 1), {"width": 8}),
        ("vanilla", (3, 32, 32), {"width": 4}),
        ("vanilla", (1, 28, 28), {"width": 4, "leak": 0.2}),
        ("vanilla", (1, 16, 16), {"width": 6}),
        ("vanilla", (3, 64, 64), {"width": 2}),
        ("vanilla", (1, 28, 28), {"width": 4, "space_to_depth": True}),
        ("nonlocal", (3, 32, 32), {"width": 4}),
        ("nonlocal", (1, 28, 28), {"width": 4}),
    ],
)
def test_networks_are_recognised(
    name: str, shape: tuple[int, int, int], arguments: dict[str, Any], tmp_path: Path
) -> None:
    """Network, width, channels and size are read off the weights, and the outputs are the same."""
    path, network = pth(tmp_path, name, shape, **arguments)
    found = recognise(read(path).weights, leak=arguments.get("leak", 0.05), size=None)
    assert (found.network, found.shape) == (name, shape)
    config = settings_by_hand(found, step_size=0.01, energy_scale=None, steps=20, noise=1.0, regime="convergent")
    write_folder(found, config, tmp_path / "model")
    model = checkpoint.load(tmp_path / "model" / checkpoint.FILE)
    x = torch.rand(3, *shape) * 2 - 1
    torch.testing.assert_close(model.potential(x), 2 / 0.01**2 * network(x))


def test_linear_layers_are_those_of_a_toy(tmp_path: Path) -> None:
    """Linear layers are 1×1 convolutions."""
    widths = [2, 8, 16, 16, 16, 1]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.05)]
    network = nn.Sequential(*layers[:-1])
    torch.save({f"f.{k}": v for k, v in network.state_dict().items()}, tmp_path / "toy.pth")
    found = recognise(read(tmp_path / "toy.pth").weights)
    ours = build("toy", found.shape, **found.arguments)
    ours.load_state_dict(found.weights)
    x = torch.randn(5, 2)
    torch.testing.assert_close(ours(x[:, :, None, None]), network(x).flatten())


def test_a_loop_written_out_agrees_over_20_steps_in_float64(tmp_path: Path) -> None:
    """x ← x − ∇F + ε·z on the weights as they were saved, against the model that convert has made."""
    path, network = pth(tmp_path, "vanilla", (1, 16, 16), width=4)
    ebm("convert", path, "--step-size", 0.01, "--out", "model", cwd=tmp_path, check=0)
    model = checkpoint.load(tmp_path / "model" / checkpoint.FILE)
    potential = Potential(model.potential.network.double(), model.config.shape, model.config.energy_scale)
    x0 = torch.rand(6, 1, 16, 16, dtype=torch.float64) * 2 - 1
    stream = Stream(3, Purpose.MCMC)
    ours = run(Langevin(potential, model.config.step_size), Langevin(potential, 0.01).init(x0, stream), 20)

    network.double()
    x = x0.clone()
    for step in range(20):
        x.requires_grad_(True)
        (grad,) = torch.autograd.grad(network(x).sum(), x)
        z = stream.normal(torch.arange(6), step, (1, 16, 16)).double()
        x = x.detach() - grad + 0.01 * z
    assert float((x - x0).norm()) > 1
    torch.testing.assert_close(ours.state.x, x, rtol=0, atol=1e-7)


def test_a_recipe_gives_the_settings(tmp_path: Path) -> None:
    """Energy scale, steps, noise, data and regime are the recipe's; a recipe of another network is refused."""
    path, _ = pth(tmp_path, "vanilla", (1, 32, 32), width=32)
    words = ("convert", path, "--recipe", "mnist_shortrun_release", "--json")
    result = json.loads(ebm(*words, cwd=tmp_path, check=0).stdout)
    assert (result["energy_scale"], result["step_size"], result["steps"]) == (20000.0, 0.01, 150)
    assert result["regime"] == "non-convergent"
    model = lookup.load(tmp_path / "weights")
    assert model.config.name == "weights"
    assert "mnist_shortrun_release" in model.recipe
    fails(ebm("convert", path, "--recipe", "digits_quickstart", "--out", "b", cwd=tmp_path), "16 px")
    assert not (tmp_path / "b").exists()


def test_there_and_back(tmp_path: Path) -> None:
    """The bundled model as a .pth has its weights bit for bit, and comes back as the same energies."""
    ebm("convert", "mnist-shortrun", "--to", "pth", cwd=tmp_path, check=0)
    state = torch.load(tmp_path / "mnist-shortrun.pth", weights_only=True)
    model = lookup.load("mnist-shortrun")
    for name, weight in model.potential.network.state_dict().items():
        assert torch.equal(state[name], weight)
    fails(ebm("convert", "mnist-shortrun", "--to", "pth", cwd=tmp_path), "exists")
    words = ("convert", "mnist-shortrun.pth", "--energy-scale", 20000, "--out", "again")
    ebm(*words, cwd=tmp_path, check=0)
    again = lookup.load(tmp_path / "again")
    assert again.config.step_size == pytest.approx(0.01)
    x = torch.rand(4, 1, 28, 28)
    assert torch.equal(again.potential.energy(x), model.potential.energy(x))
    ebm("sample", "again", "--from", "noise", "--steps", 2, "--count", 2, cwd=tmp_path, check=0)
    fails(ebm(*words, cwd=tmp_path), "not empty")


def test_a_log_density_changes_its_sign(tmp_path: Path) -> None:
    """`--sign logp`: the energy is the negative of the output."""
    path, network = pth(tmp_path, "nonlocal", (1, 16, 16), width=2)
    found = signed(recognise(read(path).weights), "logp")
    ours = build("nonlocal", found.shape, **found.arguments)
    ours.load_state_dict(found.weights)
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(ours(x), -network(x))


State = dict[str, Any]


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _wrapped(raw: State, average: State) -> dict[str, tuple[Any, str, str]]:
    """Files that programs write, each with what is taken by itself and the word that the notes have for it."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    counted = {"n_averaged": torch.tensor(7), **_prefixed(average, "module.")}
    listed = {"decay": 0.99, "num_updates": 9, "shadow_params": list(average.values())}
    return {
        "bare": (raw, "last", ""),
        "compiled": (_prefixed(raw, "_orig_mod."), "last", "_orig_mod"),
        "parallel and compiled": (_prefixed(raw, "_orig_mod.module."), "last", "_orig_mod.module"),
        "a module that holds it": (_prefixed(raw, "net."), "last", "net"),
        "a training program": ({"state_dict": raw, "optimizer": optimizer, "step": 9}, "last", "state_dict"),
        "float64": ({k: v.double() for k, v in raw.items()}, "last", "float64 weights"),
        "lightning": (
            {"state_dict": _prefixed(raw, "model."), "pytorch-lightning_version": "2.0", "hyper_parameters": {"a": 1}},
            "last",
            "state_dict.model",
        ),
        "swa": (counted, "average", "n_averaged, which only counts"),
        "ema beside": ({"model": raw, "ema": average, "optimizer": optimizer}, "average", "left out: model (last)"),
        "ema first": ({"ema": average, "model": raw}, "average", "taken: ema (average)"),
        "ema within": ({**_prefixed(raw, "model."), **_prefixed(average, "ema_model.")}, "average", "ema_model"),
        "ema as a list": ({"model": raw, "ema": listed}, "average", "ema.shadow_params"),
        "the same twice": ({"state_dict": raw, "model": raw}, "last", "taken: state_dict"),
    }


CASES = list(_wrapped({}, {}))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_found_in_what_programs_write(case: str, tmp_path: Path) -> None:
    """The same weights whatever is around them; the average where there is one, and the others on request."""
    raw, average = ({**build("vanilla", (1, 16, 16), width=4, seed=n).state_dict()} for n in (0, 1))
    content, kind, note = _wrapped(raw, average)[case]
    torch.save(content, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    expected = average if kind == "average" else raw
    assert found.kind == kind
    assert found.weights.keys() == expected.keys()
    assert all(torch.equal(found.weights[k], v) for k, v in expected.items())
    assert note in "; ".join(found.notes)
    if case.startswith("ema"):
        last = read(tmp_path / "a.pth", "last").weights
        assert all(torch.equal(last[k], v) for k, v in raw.items())
    with pytest.raises(UsageError, match="no weights 'other'"):
        read(tmp_path / "a.pth", "other")


def test_several_networks_in_a_file(tmp_path: Path) -> None:
    """One has to be named; what is no network of a known kind does not count."""
    one, two = ({**build("vanilla", (1, 16, 16), width=w).state_dict()} for w in (2, 4))
    torch.save({"one": one, "two": two, "generator": {"deconv.weight": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"several networks: one .*, two") as caught:
        read(tmp_path / "a.pth")
    assert "`weights` one" in caught.value.hint
    assert all(torch.equal(v, two[k]) for k, v in read(tmp_path / "a.pth", "two").weights.items())


def test_the_command_says_which_weights_it_took(tmp_path: Path) -> None:
    raw, average = ({**build("vanilla", (1, 16, 16), width=4, seed=n).state_dict()} for n in (0, 1))
    torch.save({"model": raw, "ema": {k: v.half() for k, v in average.items()}}, tmp_path / "a.pth")
    ran = ebm("convert", "a.pth", "--step-size", 0.01, "--out", "mean", cwd=tmp_path, check=0)
    assert "a.pth: taken: ema (average)\na.pth: left out: model (last); those can be chosen by name" in ran.stderr
    assert "float16 weights, kept as float32" in ran.stderr
    assert lookup.load(tmp_path / "mean").config.weights == "average"


def test_a_safetensors_file_of_others(tmp_path: Path) -> None:
    """Its weights are taken under whatever name; a model of ours needs no conversion."""
    state = build("vanilla", (1, 16, 16), width=4).state_dict()
    (tmp_path / "a.pth").write_bytes(pack(_prefixed(state, "module.")))
    found = read(tmp_path / "a.pth")
    assert "it is a safetensors file" in found.notes
    assert all(torch.equal(found.weights[k], v) for k, v in state.items())
    with pytest.raises(EBMError, match="a model of ours already"):
        read(lookup.find("gmm-shortrun"))


STRANGERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of git-lfs"),
    "page": (b"\n <!DOCTYPE html>\n<html><body>Not found</body></html>", "an HTML page"),
    "error": (b'{"error":"Invalid credentials"}', 'JSON: \'{"error"'),
    "storage": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML: "),
    "words": ("404: nichts gef\u00fcnden\n".encode(), "text: '404"),
    "gzip": (gzip.compress(b"weights"), "a gzip archive"),
    "tar": (b"a.pth".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_another_file_under_the_name_is_called_what_it_is(case: str, tmp_path: Path) -> None:
    """By convert, and wherever a model is read."""
    content, said = STRANGERS[case]
    for name, reader in (("a.pth", read), (checkpoint.FILE, checkpoint.load)):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EBMError) as caught:
            reader(path)
        assert said in caught.value.message
        assert caught.value.hint
    if content:
        (tmp_path / "a.pth").write_bytes(bytes(200) + content)  # the bytes alone do not make it one
        with pytest.raises(EBMError, match="not a whole"):
            read(tmp_path / "a.pth")


def test_an_archive_is_told_from_what_torch_writes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("weights/a.bin", b"x")
    for reader in (read, checkpoint.load):
        with pytest.raises(EBMError, match="a zip archive"):
            reader(tmp_path / "a.pth")
    torch.save({}, tmp_path / "b.pth")
    with pytest.raises(EBMError, match="is a pickle") as caught:
        checkpoint.load(tmp_path / "b.pth")
    assert "ebm convert" in caught.value.hint


class _Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def _odd_files(folder: Path) -> dict[str, str]:
    """Files that are no state dict of ours, each with what the message says of it."""
    good = build("vanilla", (1, 16, 16), width=4).state_dict()
    evil = _Evil(f"touch {folder}/ran")
    torch.save({"f.0.weight": evil}, folder / "evil.pth")
    (folder / "evil.pkl").write_bytes(pickle.dumps(evil))
    torch.save(build("vanilla", (1, 16, 16), width=4), folder / "module.pth")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "text.pth").write_text("no weights here\n")
    whole = io.BytesIO()
    torch.save(good, whole)
    (folder / "half.pth").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("hello", "there")
    torch.save([1, 2, 3], folder / "list.pth")
    torch.save({}, folder / "none.pth")
    torch.save({**good, "f.0.weight": good["f.0.weight"] * float("nan")}, folder / "nan.pth")
    torch.save({**good, "f.0.bias": torch.arange(4)}, folder / "int.pth")
    torch.save({**good, "f.0.weight": torch.zeros(1).expand(10**9, 1, 3, 3)}, folder / "huge.pth")
    torch.save({**good, "f.0.weight": good["f.0.weight"].to_sparse()}, folder / "sparse.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.zeros(4, 1, 3, 3), 0.1, 0, torch.qint8)
    torch.save({**good, "f.0.weight": quantised}, folder / "quantised.pth")
    torch.save({**good, "f.2.weight": torch.zeros(8, 4, 3, 3)}, folder / "shape.pth")
    torch.save({k: v for k, v in good.items() if k != "f.4.bias"}, folder / "missing.pth")
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3)}, folder / "other.pth")
    torch.save({"f.0.weight": torch.zeros(())}, folder / "scalar.pth")
    return {
        "evil.pth": "run code",
        "evil.pkl": "run code",
        "module.pth": "run code",
        "empty.pth": "is empty",
        "text.pth": "text: ",
        "half.pth": "not a whole",
        "zip.pth": "a zip archive",
        "list.pth": "no state dict",
        "none.pth": "no state dict",
        "nan.pth": "not finite",
        "int.pth": "int64",
        "huge.pth": "plain tensor",
        "sparse.pth": "sparse",
        "quantised.pth": "quantised",
        "shape.pth": "f.2.weight",
        "missing.pth": "missing",
        "other.pth": "conv1.weight",
        "scalar.pth": "not the weights",
        "nowhere.pth": "does not exist",
    }


def test_odd_and_hostile_files_give_one_line(tmp_path: Path) -> None:
    """Each is refused for what it is, nothing in it is run, nothing is written."""
    expected = _odd_files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for name, part in expected.items():
        ran = ebm("convert", name, "--step-size", 0.01, "--out", "out", cwd=tmp_path)
        fails(ran, part)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".streams") == before
    assert not (tmp_path / "ran").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    """No scale; a size that the weights do not fit; a recipe and a step size; a recipe that is not there."""
    path, _ = pth(tmp_path, "vanilla", (1, 28, 28), width=4)
    fails(ebm("convert", path, cwd=tmp_path), "--recipe", code=2)
    fails(ebm("convert", path, "--step-size", 0.01, "--size", 64, cwd=tmp_path), "24 to 31")
    fails(ebm("convert", path, "--step-size", 0.01, "--recipe", "mnist_shortrun", cwd=tmp_path), "leave out", code=2)
    fails(ebm("convert", path, "--recipe", "mnist_shorter", cwd=tmp_path), code=2)
    fails(ebm("convert", "nobody", "--to", "pth", cwd=tmp_path), "nobody")
    (tmp_path / "file").write_text("")
    fails(ebm("convert", path, "--step-size", 0.01, "--out", "file", cwd=tmp_path), "file")
    fails(ebm("convert", path, "--step-size", 0.01, "--out", "file/in", cwd=tmp_path), "file")

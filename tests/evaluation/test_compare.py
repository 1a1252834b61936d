"""`ebm compare`: models of ours and code of others on the same noise; what its numbers are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick import Running, ebm, fails, trained
from PIL import Image
from torch import Tensor, nn

from ebmcli import data
from ebmcli.errors import EBMError, UsageError
from ebmcli.evaluation import Reference, WalkSettings, sheet
from ebmcli.evaluation.compare import compare
from ebmcli.media import read_metadata
from ebmcli.models import foreign
from ebmcli.models.checkpoint import Checkpoint

THEIRS = """
import torch
from torch import nn

class Normal(nn.Module):
    def forward(self, x):
        return -((x + 0.7) ** 2).flatten(1).sum(1) / (2 * 0.3 ** 2)

def make():
    return Normal()

def shaped(shape):
    assert shape == (1, 16, 16)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 1))

def fails():
    raise ValueError("no weights\\nhere")

def number():
    return 3

def vector():
    return nn.Flatten()

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 1))

ready = Normal()
constant = 5
"""


class Normal(nn.Module):
    """A normal log-density with mean m and sd s."""

    def __init__(self, mean: float = -0.5, sd: float = 0.25) -> None:
        super().__init__()
        self.mean, self.sd = mean, sd

    def forward(self, x: Tensor) -> Tensor:
        return -(x - self.mean).square().flatten(1).sum(1) / (2 * self.sd**2)


def other() -> Normal:
    """Another one."""
    return Normal(0.5, 0.25)


def theirs(name: str, **settings: float) -> Checkpoint:
    """A log-density of this module as a model of 8×8 images."""
    chosen = foreign.Foreign(size=8, channels=1, sign="logp", steps=150, **settings)  # type: ignore[arg-type]
    return foreign.load(f"test_compare:{name}", chosen, trusted=True)


def test_energies_across_are_those_of_normal_laws() -> None:
    """Two normal laws in 64 dimensions: each finds its own samples usual, the other's far, and walks home."""
    x = -0.5 + 0.25 * torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    reference = Reference(x)
    a, b = theirs("Normal", step_size=0.15), theirs("other", step_size=0.15)

    def settings(model: Checkpoint) -> WalkSettings:
        return WalkSettings.of(model, start="noise", against="none", steps=300, chains=60, moments=3)

    found = compare([("a", a), ("b", b)], reference, "normal", settings, 300)
    own, far = found.contestants
    # Under A: E U = D/2·v/σ² with sd √(D/2), where ULA makes the variance v = σ²/(1 − ε²/(4σ²)).
    excess = 32 * (1 / (1 - 0.15**2 / (4 * 0.25**2)) - 1) / 32**0.5
    for side in (own.short, own.long):
        assert side is not None
        assert side.gap.value == pytest.approx(excess, abs=0.6)
    # Under A, B's samples are 4 sd off in each of 64 pixels: 512 nats, over √32.
    assert found.crossings[0].short == pytest.approx(512 / 32**0.5, rel=0.1)
    went = found.crossings[0].went
    assert went is not None
    assert went.value == pytest.approx(excess, abs=0.6)
    assert own.long is not None
    assert far.long is not None
    assert own.long.distance.distance < far.long.distance.distance
    assert own.long.distance.distance == pytest.approx(own.long.distance.data, rel=0.2)
    table = sheet.rows([found])
    assert [row[0] for row in table] == ["a", "b", "the data, other half"]
    assert {len(row) for row in table} == {len(sheet.HEADER)}
    assert {len(row) for row in sheet.cross_rows([found])} == {len(sheet.CROSS_HEADER)}
    assert any(f"to normal 8×8×1, {own.short.distance.images} samples;" in note for note in sheet.notes([found]))
    # The same noise for all: the two long runs differ by the two means alone.
    torch.testing.assert_close(own.long.x + 1.0, far.long.x, atol=2e-3, rtol=0)


def test_distances_rank_as_they_should() -> None:
    """The data's own half is nearest; then blur, noise, other data, uniform noise."""
    images = data.load("fashion-1k", image_size=28, channels=1).images(slice(0, 800))
    reference = Reference(images[:600], half=300)
    held = images[600:]
    noisy = held + 8 / 127.5 * torch.randn(held.shape, generator=torch.Generator().manual_seed(0))
    digits = data.load("mnist-10k", image_size=28, channels=1).images(slice(0, 200))
    uniform = torch.rand(held.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    kernel = torch.exp(-torch.arange(-2, 3.0).square() / (2 * 0.6**2))
    kernel = torch.outer(kernel, kernel)[None, None] / kernel.sum() ** 2
    blurred = nn.functional.conv2d(nn.functional.pad(held, (2, 2, 2, 2), "replicate"), kernel)
    kinds = [reference.compare(x) for x in (held, blurred, noisy, digits, uniform)]
    distances = [c.distance for c in kinds]
    assert distances == sorted(distances)
    assert kinds[0].data < distances[1]


def test_code_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factories with and without a shape, and modules themselves; signs and scales."""
    (tmp_path / "their_code.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    chosen = foreign.Foreign(size=16, channels=1)
    x = torch.rand(3, 1, 16, 16)
    for name in ("make", "shaped", "ready"):
        model = foreign.load(f"their_code:{name}", chosen, trusted=True)
        negated = foreign.load(
            f"their_code:{name}", foreign.Foreign(size=16, channels=1, sign="logp", scale=3.0), trusted=True
        )
        expected, grad = model.potential.energy_and_grad(x)
        got, opposite = negated.potential.energy_and_grad(x)
        if name != "shaped":  # which begins with weights of its own each time
            torch.testing.assert_close(got, -3 * expected)
            torch.testing.assert_close(opposite, -3 * grad)
    for name, part in {
        "their_code:fails": "ValueError: no weights here",
        "their_code:number": "int",
        "their_code:constant": "int",
        "their_code:vector": "2 numbers",
        "their_code:narrow": "failed on its input",
        "their_code:nothing": "nothing",
        "not_there:make": "not_there",
    }.items():
        with pytest.raises(EBMError, match=part):
            foreign.load(name, chosen, trusted=True)
    with pytest.raises(UsageError):
        foreign.load("no code", chosen, trusted=True)


def test_compare(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model of ours and code of another: JSON, a page that needs nothing else, a picture; a page is not replaced."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    (tmp_path / "their_code.py").write_text(THEIRS)
    np.savez(tmp_path / "few.npz", images=data.load("mnist-10k", image_size=16, channels=1).pixels[:120])
    words = ("compare", "tiny", "their_code:make", "--sign", "logp", "--steps", 8, "--count", 9, "--data", "few.npz")
    more = ("--html", "r.html", "--png", "r.png", "--step-size", 0.01, "--short", 5)
    ran = Running((*words, *more, "--json"), tmp_path, {}).end(timeout=500)
    assert ran.code == 0, ran.stderr
    result = json.loads(ran.stdout)["comparisons"][0]
    assert [m["model"] for m in result["models"]] == ["tiny", "their_code:make"]
    assert [(c["under"], c["samples_of"]) for c in result["across"]] == [
        ("tiny", "their_code:make"),
        ("their_code:make", "tiny"),
    ]
    for model in result["models"]:
        assert model["verdict"]
        assert result["distance_of_halves"] < model["short"]["distance"]["distance"]
        assert model["milliseconds_a_step"] > 0
    page = (tmp_path / "r.html").read_text()
    assert "http" not in page
    assert page.count("<img") == 6
    with Image.open(tmp_path / "r.png") as picture:
        assert np.asarray(picture).std() > 20
    assert read_metadata(tmp_path / "r.png")["steps"] == 8
    fails(ebm(*words, *more, cwd=tmp_path), "r.html", "--force")


def test_models_of_several_sizes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Images of one size, points of two laws: a comparison for each, one table, one page."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    names = ("gmm-shortrun", "tiny", "gmm-convergent", "rings-shortrun")
    words = ("compare", *names, "--steps", 8, "--count", 9, "--png", "r.png", "--html", "r.html")
    ran = Running((*words, "--json"), tmp_path, {}).end(timeout=500)
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)["comparisons"]
    assert [[m["model"] for m in c["models"]] for c in found] == [
        ["gmm-shortrun", "gmm-convergent"],
        ["tiny"],
        ["rings-shortrun"],
    ]
    assert [len(c["across"]) for c in found] == [2, 0, 0]
    assert [c["shape"] for c in found] == [[2, 1, 1], [1, 16, 16], [2, 1, 1]]
    assert [m["name"] for m in read_metadata(tmp_path / "r.png")["models"]] == [names[0], names[2], names[1], names[3]]
    page = (tmp_path / "r.html").read_text()
    assert page.count("<img") == 10
    assert "other half" in page


def test_bad_input(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One line each, the right exit code, nothing written."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    (tmp_path / "their_code.py").write_text(THEIRS)
    short = ("--steps", 2, "--count", 2)
    for words, part, code in [
        (("nobody",), "nobody", 1),
        (("tiny", "gmm-convergent", "--data", "mnist-10k"), "gmm-convergent is a model of points", 2),
        (("tiny", "their_code:fails"), "no weights here", 1),
        (("tiny", "their_code:vector"), "2 numbers", 1),
        (("tiny", "not_there:make"), "not_there", 1),
        (("their_code:make",), "--size", 2),
        (("tiny", "--kernel", "gibbs"), "gibbs", 2),
        (("tiny", "--html", "r.txt"), ".html", 2),
        (("tiny", "--png", "tiny"), ".png", 2),
        (("tiny", "--data", "nowhere"), "nowhere", 1),
        (("tiny", "--from", "bank"), "bank", 1),
        (("tiny", "--features", "net.pth"), "net.pth", 1),
    ]:
        fails(ebm("compare", *words, *short, cwd=tmp_path), part, code=code)
    assert not list(tmp_path.glob("r.*"))

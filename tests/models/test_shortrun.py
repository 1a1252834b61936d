"""A short run as a generator: gradients through the chain, interpolation, reconstruction; their commands."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.quick import ebm, fails, trained
from PIL import Image
from torch import Tensor, nn

from ebmcli.errors import UsageError
from ebmcli.media import read_metadata
from ebmcli.models import foreign, lookup
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.models.generator import Generator, Interpolation, interpolate, mixed, reconstruct
from ebmcli.networks import build
from ebmcli.potential import Potential


class Smooth(nn.Module):
    """A network with second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(12, 16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weight.T).square().sum(1)


class Bowl(nn.Module):
    """½‖x‖²."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.flatten(1).square().sum(1)


def imported(name: str, **settings: float) -> Checkpoint:
    """A network of this module as a model of 4×4 images."""
    chosen = foreign.Foreign(size=4, channels=1, **settings)  # type: ignore[arg-type]
    return foreign.load(f"test_shortrun:{name}", chosen, trusted=True)


def vanilla(width: int = 4) -> Checkpoint:
    """A plain network as it comes, in float64."""
    model = lookup.load("mnist-shortrun")
    network = build("vanilla", (1, 16, 16), width=width, seed=1).double()
    config = model.config.model_copy(update={"image_size": 16, "arguments": {"width": width}, "energy_scale": 20000.0})
    return Checkpoint(Potential(network, config.shape, config.energy_scale), config, None, "", "")


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 9])
def test_the_exact_gradient_is_that_of_the_whole_chain(steps: int) -> None:
    """Brought back step by step it is what autograd makes of the chain written out, for any number of steps."""
    model = imported("Smooth", steps=steps or 1, step_size=0.3)
    model.potential.double()
    generator = Generator(model, steps=steps, seed=4)
    z = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    g = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    chains = torch.tensor([0, 5, 2])

    start = z.clone().requires_grad_(True)
    x = start
    for step in range(steps):
        (grad,) = torch.autograd.grad(model.potential(x).sum(), x, create_graph=True)
        x = x - 0.3**2 / 2 * grad + 0.3 * generator.stream.normal(chains, step, (1, 4, 4)).double()
    torch.testing.assert_close(generator(z, chains), x.detach())
    if steps:
        (expected,) = torch.autograd.grad((x * g).sum(), start)
        assert not torch.allclose(expected, g, atol=1e-3)
        torch.testing.assert_close(generator.pull_back(z, chains, g), expected)
    else:
        torch.testing.assert_close(generator.pull_back(z, chains, g), g)


def test_cheap_equals_exact_on_the_vanilla_net() -> None:
    """Convolutions and LeakyReLU have no second derivative: the gradient comes back as it is."""
    generator = Generator(vanilla(), steps=10, seed=1)
    assert generator.is_piecewise_linear
    images = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    g = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    back = generator.pull_back(generator.start(torch.arange(2)).double(), torch.arange(2), g)
    assert torch.equal(back, g)
    ends = [list(reconstruct(generator, images, 3, exact))[-1] for exact in (True, False)]
    assert torch.equal(ends[0].x, ends[1].x)
    assert torch.equal(ends[0].best, ends[1].best)


def test_networks_with_curvature_need_the_exact_gradient() -> None:
    """The cheap one is refused; non-local blocks are not piecewise linear."""
    generator = Generator(imported("Smooth"), steps=2)
    with pytest.raises(UsageError, match="piecewise"):
        next(reconstruct(generator, torch.zeros(1, 1, 4, 4), 1, exact=False))


def test_a_bowl_is_reconstructed() -> None:
    """U = ½‖x‖²: M(z) = aᴷz + noise, so that gradient descent converges at the rate 1 − r·a²ᴷ."""
    model = imported("Bowl", steps=4, step_size=0.4)
    images = torch.rand(3, 1, 4, 4) * 2 - 1
    attempts = list(reconstruct(Generator(model), images, 12, exact=True))
    assert [a.iteration for a in attempts] == list(range(13))
    shrinks = (1 - 0.4**2 / 2) ** 8
    for before, after in pairwise(attempts):
        rate = 0.5 / (1 + before.iteration / 20)
        torch.testing.assert_close(after.error, before.error * (1 - rate * shrinks) ** 2, rtol=1e-3, atol=1e-9)
    assert (attempts[-1].best <= attempts[0].best).all()
    torch.testing.assert_close(Generator(model)(attempts[-1].z, torch.arange(3)), attempts[-1].x)


def test_interpolation_ends_at_its_starts() -> None:
    """θ = 0 is z2's image and θ = π/2 is z1's, with the pair's own noise; frames do not depend on their number."""
    generator = Generator(lookup.load("mnist-shortrun"), steps=5, seed=2)
    found = list(interpolate(generator, 2, 5))[-1]
    assert found.x.shape == (2, 5, 1, 28, 28)
    for pair in range(2):
        z1, z2 = generator.start(torch.tensor([2 * pair])), generator.start(torch.tensor([2 * pair + 1]))
        ends = generator(torch.cat([z2, z1]), torch.full((2,), pair))
        torch.testing.assert_close(found.x[pair, [0, -1]], ends, atol=1e-5, rtol=0)
    coarse = list(interpolate(generator, 1, 3))[-1]
    torch.testing.assert_close(found.x[0, ::2], coarse.x[0], atol=1e-5, rtol=0)
    assert (found.jump >= 1).all()


def test_how_smooth_a_way_is() -> None:
    """The largest step over the median one; fewer images keep both ends."""
    x = torch.tensor([0.0, 1.0, 2.0, 6.0]).view(1, 4, 1, 1, 1).expand(1, 4, 1, 3, 3)
    way = Interpolation(x, torch.linspace(0, math.pi / 2, 4))
    assert way.steps.tolist() == [[1, 1, 4]]
    assert way.jump.tolist() == [4]
    ends = way.at(2)
    assert ends.steps.tolist() == [[6]]
    assert ends.angles.tolist() == way.angles[[0, 3]].tolist()
    assert torch.equal(way.at(9).x, x)
    even = Interpolation(torch.arange(12.0).view(1, 12, 1, 1, 1), torch.linspace(0, math.pi / 2, 12))
    assert even.at(10).jump.item() == pytest.approx(1, abs=1e-4)  # whose frames are not all equally far apart


def test_mixed_starts_keep_their_variance() -> None:
    """sin² + cos² = 1: normal starts stay normal with variance 1 at every angle."""
    z = torch.randn(2, 400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    between = mixed(z[0], z[1], torch.linspace(0, math.pi / 2, 7))
    assert between.shape == (400, 7, 1, 8, 8)
    torch.testing.assert_close(between.var(dim=(0, 2, 3, 4)), torch.ones(7), atol=0.03, rtol=0)


# The commands


def test_interpolate(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A strip with a pair a row, a film there and back, and how smooth it is."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    words = ("interpolate", "tiny", "--pairs", 2, "--frames", 6, "--json")
    result = json.loads(ebm(*words, cwd=tmp_path, check=0).stdout)
    assert len(result["largest_over_median"]) == 2
    assert result["strip"] == {"images": 6, "largest_over_median": result["largest_over_median"]}
    strip = tmp_path / "tiny-interpolation.png"
    with Image.open(strip) as image:
        assert image.width > 2.5 * image.height
    first = strip.read_bytes()
    assert read_metadata(tmp_path / "tiny-interpolation.mp4")["interpolation"] == {"pairs": 2, "frames": 6}
    ebm(*words, cwd=tmp_path, check=0)
    assert strip.read_bytes() == first


def test_reconstruct(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The error falls; a picture and an SVG; images of one's own; both gradients come to the same picture."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    (tmp_path / "mine").mkdir()
    Image.fromarray(np.full((16, 16), 30, np.uint8)).save(tmp_path / "mine" / "0.png")
    words = ("reconstruct", "tiny", "--iterations", 4, "--count", 2, "--json")
    results = [
        json.loads(ebm(*words, *more, cwd=tmp_path, check=0).stdout)
        for more in ((), ("--gradient", "exact", "--out", "b.svg"), ("--from", "mine", "--out", "c.png"))
    ]
    assert results[0]["curve"] == sorted(results[0]["curve"], reverse=True)
    assert results[0]["errors"] == pytest.approx(results[1]["errors"], rel=1e-6)
    assert results[2]["settings"]["start"] == "files"
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
    with Image.open(tmp_path / "tiny-reconstruction.png") as image:
        assert image.width > 800


def test_bad_input(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One line each, the right exit code, nothing written."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    (tmp_path / "mine.png").write_bytes(b"not a picture of ours")
    for words, part, code in [
        (("interpolate", "nobody"), "nobody", 1),
        (("interpolate", "tiny", "--out", "a.jpg"), ".png", 2),
        (("interpolate", "tiny", "--out", "mine.png"), "--force", 1),
        (("interpolate", "tiny", "--video", "a.avi"), ".mp4", 2),
        (("interpolate", "tiny", "--pairs", 1, "--frames", 3, "--out", "/proc/a.png"), "/proc/a.png", 1),
        (("reconstruct", "tiny", "--from", "noise"), "noise", 2),
        (("reconstruct", "tiny", "--from", "nothing"), "nothing", 1),
        (("reconstruct", "tiny", "--out", "a.mp4"), ".svg", 2),
        (("reconstruct", "tiny", "--out", "mine.png"), "--force", 1),
        (("reconstruct", "tiny", "--count", 1, "--iterations", 1, "--step-size", 1e30), "finite", 3),
    ]:
        fails(ebm(*words, cwd=tmp_path), part, code=code)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".streams") == ["mine.png", "tiny"]

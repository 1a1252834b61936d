"""What a verdict is made of: features, distances, mixing, memory, images; against closed forms and libraries."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from torch.nn import functional

from ebmcli import data
from ebmcli.data import GaussianMixture
from ebmcli.errors import ConsentError, EBMError
from ebmcli.evaluation import Frechet, KernelDistance, Reference, load_features, memory, mixing, share_below
from ebmcli.evaluation.features import NAME, WEIGHTS
from ebmcli.evaluation.images import likeness, pixel_range, saturation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Features


@pytest.fixture(scope="module")
def fashion() -> torch.Tensor:
    """240 images [n 1 28 28]."""
    return data.load("fashion-1k", image_size=28, channels=1).images(slice(0, 240))


def test_the_stem_is_what_its_description_says() -> None:
    """Convolution with TensorFlow's padding, batch norm with eps 1e-3, ReLU6: step by step, not folded."""
    from safetensors.torch import load_file

    weights = {k: v.float() for k, v in load_file(WEIGHTS).items()}
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator()).to(torch.uint8)
    x = functional.pad((images.float() - 127) / 128, (0, 1, 0, 1))
    x = functional.conv2d(x, weights["_conv_stem.weight"], stride=2)
    parts = [weights[f"_bn0.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
    expected = functional.batch_norm(x, *parts, training=False, eps=1e-3).clamp(0, 6)
    network = load_features().network
    stem = functional.relu6(network.stem((images.float() - 127) / 128))  # type: ignore[attr-defined]
    assert torch.allclose(stem, expected, atol=1e-4)
    assert network(images).shape == (2, 112)


def test_distances_rank_what_is_seen(fashion: torch.Tensor) -> None:
    """Other images of the data, blur, noise, another data set, uniform noise: in this order, far apart."""
    reference = Reference(fashion, half=80)
    others, gen = fashion[160:], generator()
    kernel = torch.tensor([math.exp(-(k**2) / (2 * 0.6**2)) for k in range(-2, 3)])
    kernel = (kernel / kernel.sum()).outer(kernel / kernel.sum())[None, None]
    sets = {
        "other images": others,
        "blur": functional.conv2d(others, kernel, padding=2),
        "noise": others + torch.randn(others.shape, generator=gen) * 8 / 127.5,
        "digits": data.load("mnist-10k", image_size=28, channels=1).images(slice(0, 80)),
        "uniform": torch.rand(others.shape, generator=gen) * 2 - 1,
    }
    found = {name: reference.compare(x) for name, x in sets.items()}
    distances = [c.distance for c in found.values()]
    assert distances == sorted(distances), found
    assert abs(found["other images"].share) < 0.15
    assert distances[2] > 2 * distances[0]
    assert distances[3] > 2 * distances[2]
    assert found["uniform"].share > 1
    assert reference.name == f"Fréchet ({NAME})"
    assert "fid" not in reference.name.lower()


@pytest.mark.parametrize("content", [b"\x80\x04pickle", b"PK\x03\x04torchscript"])
def test_pickles_are_not_opened(content: bytes, tmp_path: Path) -> None:
    """Neither a pickle nor TorchScript, which holds one; the hint names the way that is there."""
    path = tmp_path / "inception.pt"
    path.write_bytes(content)
    with pytest.raises(EBMError, match="never opened") as caught:
        load_features(str(path))
    assert "package.module:factory" in caught.value.hint


def test_other_feature_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code by its name, if it is trusted and returns features; files by their content."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Mean(torch.nn.Module):\n"
        "    def forward(self, x): return x.float().mean(dim=(2, 3))\n"
        "def scalar(): return lambda x: x.float().mean()\n"
        "def broken(): raise ValueError('no weights')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    features = load_features("mine:Mean", trusted=True)
    assert features.name == "mine:Mean"
    assert features(torch.zeros(3, 1, 8, 8)).shape == (3, 3)
    with pytest.raises(ConsentError, match="would import code"):
        load_features("mine:Mean")
    for name, message in (("scalar", "returns"), ("broken", "no weights"), ("absent", "no attribute")):
        with pytest.raises(EBMError, match=message):
            load_features(f"mine:{name}", trusted=True)
    with pytest.raises(EBMError, match="no feature network at"):
        load_features("absent.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(EBMError, match="EfficientNet-Lite0 trunk"):
        load_features(str(tmp_path / "other.safetensors"))


# Distances


@pytest.mark.parametrize("n", [6, 200])
def test_frechet_against_torchmetrics_and_scipy(n: int) -> None:
    """With full covariances, and with singular ones (6 samples in 10 dimensions)."""
    from torchmetrics.image.fid import _compute_fid

    gen = generator(n)
    mixing_matrix = torch.randn(10, 10, generator=gen, dtype=torch.float64)
    a = torch.randn(n, 10, generator=gen, dtype=torch.float64) @ mixing_matrix
    b = torch.randn(300, 10, generator=gen, dtype=torch.float64) * 2 + 1
    found = Frechet(b)(a)
    assert found == pytest.approx(float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())), rel=1e-6)
    root = np.real(linalg.sqrtm(a.T.cov().numpy() @ b.T.cov().numpy()))
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * np.trace(root)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_frechet_of_known_gaussians() -> None:
    """Two Gaussians that differ by a shift of 3 in one direction and a factor 2 in width: 9 + d."""
    gen = generator()
    a = torch.randn(20_000, 4, generator=gen, dtype=torch.float64)
    b = 2 * torch.randn(20_000, 4, generator=gen, dtype=torch.float64)
    b[:, 0] += 3
    assert Frechet(b)(a) == pytest.approx(9 + 4, rel=0.03)


def test_kernel_distance_by_its_definition() -> None:
    """The U-statistic written out; unbiased; the jackknife's parts are distances of parts."""
    gen = generator()
    a, b = (torch.randn(n, 2, generator=gen, dtype=torch.float64) for n in (7, 9))

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return math.exp(-float((x - y).square().sum()) / (2 * 0.5**2))

    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])
    ruler = KernelDistance(b, 0.5)
    assert ruler(a) == pytest.approx(float(expected))
    group = torch.arange(7) % 3
    assert ruler.without(a, group, 3) == pytest.approx([ruler(a[group != g]) for g in range(3)])
    toy = data.load_toy("gmm")
    held = KernelDistance(toy.sample(400, gen).flatten(1).double())
    values = [held(toy.sample(100, gen).flatten(1).double()) for _ in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(40) + 2e-3


def test_shares_errors_and_halves() -> None:
    """The truth is at 0, the Gaussian of the same moments at 1, wider modes between; the jackknife's error is right."""
    toy, gen = data.load_toy("gmm"), generator(3)
    reference = Reference(toy.sample(1200, gen))
    truth = [reference.compare(toy.sample(200, gen)) for _ in range(30)]
    shares = np.array([c.share for c in truth])
    assert abs(shares.mean()) < 0.1
    spread = np.std([c.distance for c in truth])
    assert 0.5 < np.mean([c.error for c in truth]) / spread < 2
    assert reference.compare(reference.draws(200)).share == pytest.approx(1, abs=0.3)
    wide = GaussianMixture(name="wide", extent=2.0, sd=0.3)
    assert 0.15 < reference.compare(wide.sample(500, gen)).share < 0.8
    with pytest.raises(EBMError, match="needs 20 images"):
        Reference(toy.sample(19, gen))


def test_draws_have_the_datas_moments() -> None:
    """Mean and covariance, up to what 4,000 draws show."""
    x = torch.tensor([[1.0, 0.5], [0.0, 0.2]]) @ torch.randn(2, 500, generator=generator()) + 1
    reference = Reference(x.T[:, :, None, None])
    drawn = reference.draws(4000).flatten(1)
    flat = reference.x.flatten(1)
    assert torch.allclose(drawn.mean(0), flat.mean(0), atol=0.07)
    assert torch.allclose(drawn.T.cov(), flat.T.cov(), atol=0.1)


def test_noise_is_the_datas(fashion: torch.Tensor) -> None:
    """The reference holds the data as the model learned it; images without that noise are farther from it."""
    reference = Reference(fashion[:100], noise=0.05, half=50)
    noise = (reference.x - reference.images).std()
    assert float(noise) == pytest.approx(0.05, rel=0.02)
    others = fashion[100:140]
    noisy = others + 0.05 * torch.randn(others.shape, generator=generator())
    assert reference.compare(noisy).distance < reference.compare(others).distance


# Mixing


def autoregressive(rho: float, chains: int, draws: int) -> torch.Tensor:
    z = torch.randn(draws, chains, generator=generator(), dtype=torch.float64)
    x = [z[0]]
    for step in z[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * step)
    return torch.stack(x, dim=1)


def test_mixing_of_known_chains() -> None:
    """AR(1): (1 + ρ)/(1 − ρ) is the autocorrelation time; independent draws; chains that disagree; no movement."""
    found = mixing(autoregressive(0.8, 8, 2000), spacing=10)
    assert found.autocorrelation_time == pytest.approx(10 * 9, rel=0.25)
    assert found.rhat < 1.02
    independent = mixing(torch.randn(8, 500, generator=generator()), spacing=3)
    assert independent.ess == pytest.approx(4000, rel=0.15)
    assert independent.autocorrelation_time == pytest.approx(3, rel=0.15)
    apart = torch.randn(4, 200, generator=generator()) + torch.arange(4)[:, None] * 3
    assert mixing(apart).rhat > 1.5
    for still in (torch.ones(4, 100), torch.zeros(1, 100), torch.full((4, 100), math.inf), torch.zeros(4, 3)):
        assert all(math.isnan(v) for v in mixing(still))


def test_memory() -> None:
    """1 at the start, 0 for independent states, a half where every second chain has forgotten; no scale in it."""
    gen = generator()
    start = torch.randn(300, 3, 2, 2, generator=gen)
    other = torch.randn(300, 3, 2, 2, generator=gen)
    assert torch.allclose(memory(start, start), torch.ones(300, dtype=torch.float64))
    assert float(memory(other, start).mean()) == pytest.approx(0, abs=0.06)
    half = torch.where((torch.arange(300) % 2 == 0)[:, None, None, None], start, other)
    assert float(memory(1000 * half, 1000 * start).mean()) == pytest.approx(0.5, abs=0.06)


def test_share_below() -> None:
    """k/(k + 1) for exponentials that differ by k; ties count half."""
    gen = generator()
    data_energy = torch.empty(4000, dtype=torch.float64).exponential_(1.0, generator=gen)
    for k in (1, 3, 10):
        chains = torch.empty(10, 400, dtype=torch.float64).exponential_(float(k), generator=gen)
        assert float(share_below(chains, data_energy).mean()) == pytest.approx(k / (k + 1), abs=0.02)
    assert share_below(torch.zeros(2, 3), torch.zeros(5)).tolist() == [0.5, 0.5]


# Images


def test_saturation(fashion: torch.Tensor) -> None:
    """0.001 of the noisy data's own pixels; all pixels of images beyond the range; mean |x| relative to the data's."""
    x = fashion + 0.03 * torch.randn(fashion.shape, generator=generator())
    low, high = pixel_range(x)
    own = saturation(x, low, high, float(x.abs().mean()))
    assert own.beyond == pytest.approx(0.001, rel=0.05)
    assert own.mean_abs == pytest.approx(1, abs=1e-5)
    assert saturation(3 * torch.ones_like(x), low, high, 1.0) == (1.0, 3.0)


def test_likeness(fashion: torch.Tensor) -> None:
    """Copies are found, and so is a single image many times; other images of the data are like the data."""
    a, b = fashion[:120], fashion[120:]
    assert likeness(a[:40], a).nearest == pytest.approx(0, abs=1e-3)
    same = likeness(a[:1].repeat(20, 1, 1, 1), b)
    assert same.diversity == pytest.approx(0, abs=1e-3)
    other = likeness(b, a)
    assert other.diversity == pytest.approx(1, abs=0.15)
    assert other.nearest == pytest.approx(1, abs=0.25)

"""Quadrature and kernel estimates of toys against closed forms, and `ebm diagnose`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.quick import ebm, fails, trained
from torch import Tensor

from ebmcli.data.toys import load_toy
from ebmcli.evaluation import toys
from ebmcli.media import read_metadata
from ebmcli.models import lookup

GMM, RINGS = load_toy("gmm"), load_toy("rings")
LONG = 2.0**0.5


def gaussian(sd: float, at: tuple[float, float] = (0.0, 0.0)) -> toys.Energy:
    """U of an isotropic Gaussian, not normalised."""
    centre = torch.tensor(at, dtype=torch.float64)
    return lambda x: (x - centre).square().sum(1) / (2 * sd**2) + 3.0


@pytest.mark.parametrize("sd", [0.05, 0.15, 1.0])
def test_the_integral_of_a_gaussian(sd: float) -> None:
    """log Z to 1e-6, where it is narrow and where part of it lies beyond the box; the share there too."""
    found = toys.measure(gaussian(sd), GMM)
    assert found.log_z == pytest.approx(math.log(2 * math.pi * sd**2) - 3, abs=1e-6)
    assert found.normalisable
    inside = math.erf(found.box / (sd * LONG)) ** 2
    assert found.outside == pytest.approx(1 - inside, abs=1e-4)


def test_a_spike_is_found() -> None:
    """A density of width 0.002 beside the truth, as non-convergent energies have it."""
    found = toys.measure(gaussian(0.002, (0.731, -0.402)), GMM)
    assert found.log_z == pytest.approx(math.log(2 * math.pi * 0.002**2) - 3, abs=1e-4)
    assert found.total_variation == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("toy", [GMM, RINGS], ids=lambda toy: toy.name)
def test_the_truth_is_at_no_distance_from_itself(toy: toys.Toy) -> None:
    """Both divergences, the variation and log Z are 0; the rings' singular point does no harm."""
    found = toys.measure(lambda x: toy.energy(x) + 5, toy)
    assert found.log_z == pytest.approx(-5, abs=1e-7)
    assert (found.kl_true_model, found.kl_model_true, found.total_variation) == pytest.approx((0, 0, 0), abs=1e-7)


def test_divergences_of_two_gaussians() -> None:
    """A toy of one Gaussian against a wider one: both divergences and the variation in closed form."""
    from ebmcli.data.toys import GaussianMixture

    one = GaussianMixture(name="one", extent=1.5, modes=1, radius=0.0, sd=0.2)
    ratio = (0.3 / 0.2) ** 2
    found = toys.measure(gaussian(0.3), one)
    assert found.kl_true_model == pytest.approx(math.log(ratio) - 1 + 1 / ratio, abs=1e-6)
    assert found.kl_model_true == pytest.approx(-math.log(ratio) - 1 + ratio, abs=1e-6)
    # They are equal at r² = c, and the variation is the difference of their masses within.
    c = 2 * math.log(ratio) / (1 / 0.2**2 - 1 / 0.3**2)
    within = [1 - math.exp(-c / (2 * s**2)) for s in (0.2, 0.3)]
    assert found.total_variation == pytest.approx(within[0] - within[1], abs=1e-4)


def test_sharpened_by_its_step() -> None:
    """The floor of learning with steps of 0.125: each mode as narrow as the chains' error makes it (KL 0.033)."""
    sd = 0.15 * math.sqrt((1 + math.sqrt(1 - 0.125**2 / 0.15**2)) / 2)
    from ebmcli.data.toys import GaussianMixture

    narrow = GaussianMixture(name="narrow", extent=2.0, sd=sd)
    assert toys.measure(narrow.energy, GMM).kl_true_model == pytest.approx(0.033, abs=0.002)


@pytest.mark.parametrize("slope", [0.0, -0.2])
def test_what_cannot_be_normalised_is_said(slope: float) -> None:
    """Flat, or falling, in one direction: then everything is of the box."""

    def energy(x: Tensor) -> Tensor:
        return 3 * x[:, 1].abs() + torch.where(x[:, 0] > 0, slope * x[:, 0], -3 * x[:, 0])

    found = toys.measure(energy, GMM)
    assert not found.normalisable
    assert found.lowest_slope == pytest.approx(slope)
    assert math.isnan(found.outside)
    side = found.box
    right = side if slope == 0 else (math.exp(-slope * side) - 1) / -slope
    expected = math.log((right + (1 - math.exp(-3 * side)) / 3) * 2 * (1 - math.exp(-3 * side)) / 3)
    assert found.log_z == pytest.approx(expected, abs=1e-3)


def test_mass_far_away_counts() -> None:
    """A valley at ten times the box, and a tail beyond all cells: nobody may call it converged."""
    far = gaussian(1.0, (30.0, 0.0))
    found = toys.measure(lambda x: -torch.logaddexp(-gaussian(0.3)(x), -far(x)), GMM)
    assert found.log_z == pytest.approx(math.log(2 * math.pi * (0.09 + 1)) - 3, abs=1e-4)
    assert found.outside == pytest.approx(1 / 1.09, abs=1e-3)
    cone = toys.measure(lambda x: 0.001 * x.square().sum(1).sqrt(), GMM)
    assert cone.log_z == pytest.approx(math.log(2 * math.pi) - 2 * math.log(0.001), abs=1e-3)
    assert cone.outside > 0.999


def test_smoothed_truth_is_the_wider_mixture() -> None:
    """Convolution of Gaussians adds variances."""
    from ebmcli.data.toys import GaussianMixture

    axis = torch.linspace(-2.4, 2.4, 201, dtype=torch.float64)
    wider = GaussianMixture(name="wider", extent=2.0, sd=math.hypot(0.15, 0.07))
    expected = wider.log_density(torch.cartesian_prod(axis, axis)).exp().view(201, 201)
    assert (toys.smooth_truth(GMM, axis, 0.07) - expected).abs().max() < 1e-6


def test_kernel_estimate_is_a_mean_of_kernels() -> None:
    """Two samples by hand; samples that are lost count as distance."""
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x = torch.tensor([[0.0, 0.5], [-0.5, 0.0]])[:, :, None, None]
    found = toys.estimate(x, axis, 0.2)
    kernel = lambda d: math.exp(-d / (2 * 0.04)) / (2 * math.pi * 0.04)  # noqa: E731
    assert float(found[2, 3]) == pytest.approx((kernel(0) + kernel(0.5)) / 2)
    lost = GMM.sample(2000, torch.Generator().manual_seed(1))
    sound = toys.smoothed(lost, GMM)
    lost[:1000] = 1e6
    assert toys.smoothed(lost, GMM).total_variation > 0.45
    assert sound.total_variation < sound.floor + 0.03


def test_samples_that_are_not_the_datas_are_seen() -> None:
    """Perfect ones are at the floor, one mode missing is an eighth of the mass."""
    x = RINGS.sample(4000, torch.Generator().manual_seed(3))
    assert abs(toys.smoothed(x, RINGS).total_variation - toys.smoothed(x, RINGS).floor) < 0.02
    x = GMM.sample(8000, torch.Generator().manual_seed(3))
    x = x[~((x[:, 0, 0, 0] > 0.7) & (x[:, 1, 0, 0].abs() < 0.4))]
    assert toys.smoothed(x, GMM).total_variation == pytest.approx(1 / 8, abs=0.03)


# The command


def test_diagnose_a_toy(tmp_path: Path) -> None:
    """The bundled convergent toy: a density of the data, in a figure and as numbers."""
    ran = ebm("diagnose", "gmm-convergent", "--out", "a.png", "--json", cwd=tmp_path, check=0)
    found = json.loads(ran.stdout)
    assert found["density"]["normalisable"]
    assert found["density"]["kl_true_model"] < 0.03
    assert found["samples"]["from"] == "bank"
    assert "is close to the truth" in found["density"]["words"]
    assert found["figures"] == ["a.png", "a-learning.png"]
    assert read_metadata(tmp_path / "a.png")["model"] == "gmm-convergent"
    energy = toys.energy_of(lookup.load("gmm-convergent").potential)
    assert toys.measure(energy, GMM).log_z == pytest.approx(found["density"]["log_z"])


def test_diagnose_a_run(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of images: d, v and their correlations, as SVG; too few records are an error, and so are models without any."""
    run = trained(tmp_path_factory)
    fails(ebm("diagnose", run, cwd=tmp_path), "40 records of learning are too few, 50", "learn on")
    ebm("train", run / "recipe.toml", "--set", "train.updates=60", "--out", "run", "--quiet", cwd=tmp_path, check=0)
    ran = ebm("diagnose", "run", "--out", "f.svg", "--json", cwd=tmp_path, check=0)
    found = json.loads(ran.stdout)["learning"]
    assert (found["first"], found["last"], found["every"]) == (1, 60, 1)
    assert found["words"].startswith("Updates 1 to 60: ")
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    again = ebm("diagnose", "run", "--out", "g.svg", cwd=tmp_path, check=0)
    assert (tmp_path / "f.svg").read_bytes() == (tmp_path / "g.svg").read_bytes()
    assert "oscillation" in again.stdout
    ebm("export", "run", "model", "--quiet", cwd=tmp_path, check=0)
    ran = ebm("diagnose", "model", "--json", cwd=tmp_path, check=0)
    assert json.loads(ran.stdout)["learning"]["acf_d"] == pytest.approx(found["acf_d"], abs=1e-4)
    assert (tmp_path / "model-learning.png").is_file()
    (tmp_path / "model" / "metrics.json").unlink()
    fails(ebm("diagnose", "model", cwd=tmp_path), "model keeps no record of how it was learned")
    fails(ebm("diagnose", "run", "--out", "f.txt", cwd=tmp_path), "figures end in .png or .svg", code=2)

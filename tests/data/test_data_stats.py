"""Figures of image sets against data whose widths are known."""

from __future__ import annotations

import math

import pytest
import torch

from ebmcli import data
from ebmcli.data.stats import describe, local_sd, suggested_step


def white(n: int, *shape: int, sd: float, seed: int = 0) -> torch.Tensor:
    return sd * torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [600, 4000, 40])
def test_white_noise_has_its_own_width(n: int) -> None:
    assert local_sd(white(n, 1, 12, 12, sd=0.1)) == pytest.approx(0.1, rel=0.12)


def test_smoothed_noise_has_the_least_eigenvalue_of_its_window() -> None:
    x = white(4000, 1, 14, 14, sd=1.0)
    x = (x[..., 1:] + x[..., :-1]) / 2  # covariance 1/2 and 1/4 of neighbours in a row
    row = torch.tensor([[0.5, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.5]])
    want = math.sqrt(float(torch.linalg.eigvalsh(row)[0]))
    assert local_sd(x) == pytest.approx(want, rel=0.06)
    assert local_sd(x + white(4000, 1, 14, 13, sd=0.5, seed=1)) == pytest.approx(math.hypot(want, 0.5), rel=0.06)


def test_the_most_constrained_place_counts() -> None:
    x = white(1000, 1, 16, 16, sd=0.3)
    x[:, :, :6, :6] *= 0.1
    assert local_sd(x) == pytest.approx(0.03, rel=0.15)
    x[:, :, :6, :6] = 0.7
    assert local_sd(x) == 0


def test_points_are_one_window() -> None:
    x = white(2000, 2, 1, 1, sd=1.0) * torch.tensor([0.5, 0.2])[:, None, None]
    assert local_sd(x) == pytest.approx(0.2, rel=0.05)


def test_describe_on_known_images() -> None:
    x = torch.stack([torch.full((2, 4, 4), value) for value in (-1.0, 1.0)])
    x[:, 1] = 0.5
    said = describe(x)
    assert (said.images, said.low, said.high) == (2, -1.0, 1.0)
    assert said.mean == pytest.approx((0.0, 0.5))
    assert said.sd == pytest.approx((1.0, 0.0))
    assert said.constant == 0.5
    large = describe(torch.zeros(200, 3, 32, 32))
    assert large.burn_in_distance == pytest.approx(math.sqrt(3 * 32 * 32 / 3), rel=0.01)
    assert large.local_sd == 0


def test_the_suggested_step_is_the_authors_practice_where_data_has_no_width() -> None:
    assert suggested_step(0.0, 0.015) == 0.0075
    assert suggested_step(0.03, 0.04) == pytest.approx(0.025)
    digits = data.load("mnist-10k", image_size=28, channels=1)
    assert describe(digits.images(slice(0, 1500))).local_sd == 0


def test_real_pictures_ask_for_steps_of_the_known_order() -> None:
    emoji = data.load("emoji-1k", image_size=32, channels=3).images(slice(0, 1000))
    assert 0 < local_sd(emoji[:200]) < 0.2

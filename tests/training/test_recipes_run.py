"""Every recipe that ships makes two updates on generated files of its data's layout, cut to a small size."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.quick import ebm, metrics
from PIL import Image

from ebmcli import recipe as recipes

COUNT = 12


def idx(folder: Path) -> Path:
    """Grey 28×28 pictures as MNIST's file has them."""
    path = folder / "train-images-idx3-ubyte"
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
    path.write_bytes(struct.pack(">IIII", 0x803, COUNT, 28, 28) + pixels.tobytes())
    return path


def pictures(size: tuple[int, int], suffix: str) -> Callable[[Path], Path]:
    """A folder of colour pictures of `size` (height, width)."""

    def write(folder: Path) -> Path:
        rng = np.random.default_rng(1)
        for i in range(COUNT):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:06d}{suffix}")
        return folder

    return write


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "ylecun/mnist": idx,
    "zalando-datasets/fashion_mnist": idx,
    "nielsr/CelebA-faces": pictures((218, 178), ".jpg"),
    "uoft-cs/cifar10": pictures((32, 32), ".png"),
    "nkirschi/oxford-flowers": pictures((70, 50), ".jpg"),
}
"""How the data of each source lies on a disk; other sources are in the package."""


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.names())
def test_two_updates(name: str, tmp_path: Path) -> None:
    """With its own network, scale, start, optimiser and stages; then a sample."""
    recipe = recipes.load(name)
    sets = ["train.updates=2", "train.positives=4", "train.negatives=4", "mcmc.steps=2", "potential.width=4"]
    if recipe.mcmc.init == "persistent":
        sets.append("mcmc.bank_size=8")
    if recipe.optimizer.stages:
        sets.append("optimizer.stages[0].from_update=2")
        sets += [f"optimizer.stages[{i}].from_update={i + 2}" for i in range(1, len(recipe.optimizer.stages))]
    words = [word for setting in sets for word in ("--set", setting)]
    if recipe.data.source in LAYOUTS:
        (tmp_path / "data").mkdir()
        words += ["--data", str(LAYOUTS[recipe.data.source](tmp_path / "data"))]
    ebm("train", name, *words, "--out", "run", "--quiet", cwd=tmp_path, check=0)
    assert [r["update"] for r in metrics(tmp_path / "run")][-1] == 2
    ebm("sample", "run", "--count", "4", "--out", "s.png", "--quiet", cwd=tmp_path, check=0)

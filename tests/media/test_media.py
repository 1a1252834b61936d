"""Grids, heat pictures, and files that say what made them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebmcli.errors import EBMError
from ebmcli.media import (
    grid,
    heat,
    read_metadata,
    save_folder,
    save_npz,
    save_png,
    scatter,
    terminal,
    to_uint8,
)

META = {"model": "mnist", "seed": 7, "settings": {"steps": 100, "step_size": 0.01}, "note": "ε = 0.01"}


def digits(n: int = 10, channels: int = 1, size: int = 28) -> torch.Tensor:
    """Random images in [-1, 1]."""
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_to_uint8_maps_the_range_and_cuts_off() -> None:
    """-1 is black, 1 white, beyond is cut off, what is no number is mid grey."""
    values = torch.tensor([-1.0, 1.0, 0.0, -5.0, 5.0, float("nan"), float("inf"), float("-inf")])
    assert to_uint8(values.reshape(1, 1, 2, 4)).ravel().tolist() == [0, 255, 128, 0, 255, 128, 255, 0]


def test_to_uint8_undoes_the_decoding_of_every_value() -> None:
    """Data decoded as value / 127.5 - 1 comes back exactly."""
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert (to_uint8(torch.from_numpy(values).float() / 127.5 - 1) == values).all()
    assert to_uint8(values) is values


@pytest.mark.parametrize("shape", [(10, 2), (3,), (2, 5, 8, 8), (0, 1, 8, 8)])
def test_to_uint8_says_what_it_expected(shape: tuple[int, ...]) -> None:
    """Another shape is an error that names both."""
    with pytest.raises(EBMError, match=r"expected images \[n c h w\].*received shape"):
        to_uint8(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grid_puts_each_image_where_it_belongs(channels: int, mode: str) -> None:
    """Row by row, magnified by whole pixels, padding between."""
    images = to_uint8(digits(10, channels, 8))
    picture = grid(images, columns=4, padding=2, scale=3)
    assert picture.mode == mode
    assert picture.size == (4 * 26 + 2, 3 * 26 + 2)
    pixels = np.asarray(picture).reshape(3 * 26 + 2, 4 * 26 + 2, channels)
    row, column = divmod(6, 4)
    tile = pixels[2 + row * 26 : 26 + row * 26, 2 + column * 26 : 26 + column * 26]
    assert (tile[1::3, 1::3] == images[6].transpose(1, 2, 0)).all()
    assert (tile[0::3, 2::3] == tile[1::3, 1::3]).all()


def test_grid_aims_at_a_readable_width() -> None:
    """64 digits come to about 600 pixels, large images are not shrunk, one image needs one column."""
    assert 450 <= grid(digits(64)).width <= 750
    assert grid(digits(8, size=128), columns=8).width == 8 * 130 + 2
    assert grid(digits(1), scale=1).size == (32, 32)


def test_png_has_the_same_bytes_and_says_what_made_it(tmp_path: Path) -> None:
    """Two writes are equal whatever the order of the keys, and the metadata comes back."""
    first = save_png(grid(digits()), tmp_path / "deep" / "a.png", META)
    second = save_png(grid(digits()), tmp_path / "b.png", dict(reversed(META.items())))
    assert first.read_bytes() == second.read_bytes()
    assert read_metadata(first) == META
    assert [path.name for path in first.parent.iterdir()] == ["a.png"]
    with Image.open(first) as image:
        assert json.loads(image.info["ebm"]) == META


def test_npz_has_the_same_bytes_and_no_pickle(tmp_path: Path) -> None:
    """Images come back as uint8 [n c h w], points as they are; no time of day is in the file."""
    first, second = save_npz(digits(), tmp_path / "a.npz", META), save_npz(digits(), tmp_path / "b.npz", META)
    assert first.read_bytes() == second.read_bytes()
    with np.load(first, allow_pickle=False) as arrays:
        assert (arrays["images"] == to_uint8(digits())).all()
    assert read_metadata(first) == META
    with zipfile.ZipFile(first) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    points = torch.randn(5, 2, 1, 1)
    with np.load(save_npz(points, tmp_path / "points.npz"), allow_pickle=False) as arrays:
        assert (arrays["images"] == points.numpy().reshape(5, 2)).all()


def test_folder_has_one_picture_an_image(tmp_path: Path) -> None:
    """Numbered, unscaled, each with its index; a folder in use is left alone without force."""
    folder = tmp_path / "samples"
    paths = save_folder(digits(3, 3), folder, META)
    assert [path.name for path in paths] == ["0000.png", "0001.png", "0002.png"]
    assert read_metadata(paths[2]) == {**META, "index": 2}
    with Image.open(paths[1]) as image:
        assert (np.asarray(image) == to_uint8(digits(3, 3))[1].transpose(1, 2, 0)).all()
    with pytest.raises(EBMError, match="not empty"):
        save_folder(digits(1), folder)
    (folder / "mine.txt").write_text("mine")
    save_folder(digits(1), folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "mine.txt"]


def test_reading_back_what_is_not_ours_is_a_clear_error(tmp_path: Path) -> None:
    """A missing file, a text, a truncated picture, a PNG of another program, a zip of something."""
    text, foreign, cut, archive = (tmp_path / name for name in ("a.txt", "b.png", "c.png", "d.npz"))
    text.write_text("hello")
    Image.new("L", (4, 4)).save(foreign)
    cut.write_bytes(foreign.read_bytes()[:20])
    np.savez(archive, images=np.zeros(3))
    for path, words in [
        (tmp_path / "none.png", "no such file"),
        (text, "not an image"),
        (cut, "not an image"),
        (foreign, "does not say what made it"),
        (archive, "does not say what made it"),
    ]:
        with pytest.raises(EBMError, match=words) as caught:
            read_metadata(path)
        assert caught.value.hint


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """Where the name is taken by a folder, or a folder by a file, there is one line and no temporary file."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(EBMError, match="is a folder"):
        save_png(grid(digits(1)), tmp_path / "taken")
    with pytest.raises(EBMError, match="cannot write"):
        save_png(grid(digits(1)), tmp_path / "file" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_scatter_is_bright_where_the_points_are_and_the_second_axis_points_up() -> None:
    """Points at the upper right light the upper right corner; stray values do not hurt."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2000, 2, generator=generator) * 0.05 + torch.tensor([0.6, 0.6])
    points[0] = float("nan")
    pixels = np.asarray(scatter(points.reshape(-1, 2, 1, 1), size=100, bounds=(-1, 1)), dtype=float).sum(axis=2)
    assert pixels.shape == (100, 100)
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    assert abs(row - 20) < 10
    assert abs(column - 80) < 10
    assert pixels[90, 10] == pixels.min()
    assert scatter(torch.zeros(0, 2), size=50).size == (50, 50)
    with pytest.raises(EBMError, match=r"expected points \[n 2\]"):
        scatter(torch.zeros(4, 3))


def test_heat_and_terminal_draw() -> None:
    """An array becomes a picture, a picture becomes lines of half blocks."""
    picture = heat(torch.arange(12.0).reshape(3, 4), scale=2)
    assert picture.size == (8, 6)
    lines = terminal(picture, columns=4).splitlines()
    assert len(lines) == 2
    assert all(line.count("▀") == 4 for line in lines)

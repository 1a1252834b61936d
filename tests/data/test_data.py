"""Image sets: every layout and every odd file, byte for byte."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebmcli.data import at_hand, bundled, load

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 12, 12), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def idx(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


def _save(image: Image.Image, folder: Path, name: str = "a.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder


def one(folder: Path, image: Image.Image, name="a.png", size=12, channels=3, **save) -> np.ndarray:
    """The only image of a folder, `[c h w]`."""
    return load(_save(image, folder, name, **save), image_size=size, channels=channels).pixels[0]


# --- what lies in the package


def test_the_bundled_digits_are_the_files_bytes() -> None:
    raw = gzip.decompress((bundled()["mnist-10k"].path / "train-images-idx3-ubyte.gz").read_bytes())
    digits = load("mnist-10k", image_size=28, channels=1)
    assert digits.pixels.tobytes() == raw[16:]
    assert (digits.name, len(digits), digits.shape) == ("mnist-10k", 10_000, (1, 28, 28))
    assert isinstance(digits.pixels, np.memmap)
    assert not digits.pixels.flags.writeable


def test_a_part_stands_in_for_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model's data is looked up: what is there first, then the package's part of it."""
    assert at_hand("fashion-mnist") == at_hand("zalando-datasets/fashion_mnist") == "fashion-1k"
    assert [at_hand(name) for name in ("mnist-10k", "gmm", "mine")] == ["mnist-10k", "gmm", "mine"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-mnist").mkdir()
    assert at_hand("fashion-mnist") == "fashion-mnist"


@pytest.mark.parametrize("name", list(bundled()))
def test_every_bundled_set_is_what_the_table_says_and_has_its_licence(name: str) -> None:
    entry = bundled()[name]
    images = load(name, image_size=entry.shape[1], channels=entry.shape[0])
    assert (len(images), images.shape, images.name) == (entry.count, entry.shape, name)
    text = (entry.path / "LICENSE").read_text()
    assert {"MIT": "MIT License", "OFL-1.1": "SIL OPEN FONT LICENSE"}[entry.licence] in text
    assert "opyright" in text


def test_images_are_float_in_minus_one_to_one() -> None:
    digits = load("mnist-10k", image_size=28, channels=1)
    x = digits.images(torch.tensor([3, 1, 3]))
    assert x.dtype == torch.float32
    assert x.shape == (3, 1, 28, 28)
    assert (x.min(), x.max()) == (-1.0, 1.0)
    expected = torch.from_numpy(digits.pixels[[3, 1, 3]].astype(np.float32)) / 127.5 - 1
    assert torch.equal(x, expected)
    for index in (np.array([3, 1, 3]), [3, 1, 3]):
        assert torch.equal(digits.images(index), x)
    assert torch.equal(digits.images(slice(1, 4))[[2, 0, 2]], x)


def test_importing_is_light() -> None:
    code = "import sys, ebmcli.data as d; d.bundled(); print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# --- IDX


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_known_by_content(tmp_path: Path, pack) -> None:
    (tmp_path / "anything").write_bytes(pack(idx(GREY)))
    images = load(tmp_path / "anything", image_size=12, channels=1)
    np.testing.assert_array_equal(images.pixels[:, 0], GREY)


def test_an_idx_folder_has_splits_and_ignores_labels(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for prefix, images in (("train", GREY), ("t10k", GREY[:4])):
        (tmp_path / f"raw/{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"raw/{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"raw/{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x05")
    assert len(load(tmp_path, image_size=12, channels=1)) == 9
    assert len(load(tmp_path, image_size=12, channels=1, split="test")) == 4
    alone = load(tmp_path / "raw/t10k-images-idx3-ubyte.gz", image_size=12, channels=1)
    assert len(alone) == 4
    assert alone.name == "t10k-images-idx3-ubyte"


def test_resize_and_channels_are_pillows(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(idx(GREY))
    got = load(tmp_path / "d", image_size=32, channels=3).pixels
    want = np.asarray(Image.fromarray(GREY[2]).resize((32, 32), Image.Resampling.BILINEAR))
    for channel in got[2]:
        np.testing.assert_array_equal(channel, want)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(idx(GREY))
    few = load(tmp_path / "d", image_size=12, channels=1, limit=4)
    np.testing.assert_array_equal(few.pixels[:, 0], GREY[:4])
    assert len(load(tmp_path / "d", image_size=12, channels=1, limit=400)) == 9


# --- NumPy files

PLAIN = np.transpose(RGB, (0, 3, 1, 2))


@pytest.mark.parametrize(
    ("array", "note"),
    [
        (RGB, ""),
        (PLAIN.copy(), ""),
        (np.asfortranarray(RGB), ""),
        ((RGB / 255).astype(np.float32), "floats recognised as [0, 1]"),
        (RGB / 127.5 - 1, "floats recognised as [-1, 1]"),
        (np.concatenate([RGB, np.full((5, 12, 12, 1), 255, np.uint8)], axis=3), ""),
    ],
    ids=["n h w c", "n c h w", "fortran", "0..1", "-1..1", "rgba"],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays(tmp_path: Path, array: np.ndarray, note: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, pictures=array)
    images = load(path, image_size=12, channels=3)
    np.testing.assert_array_equal(images.pixels, PLAIN)
    assert note in images.notes[-1]


def test_npz_keys_and_splits(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=np.zeros(9))
    assert len(load(tmp_path / "a.npz", image_size=12, channels=1)) == 9
    np.savez(tmp_path / "b.npz", x_train=GREY, x_test=GREY[:2], y_train=np.zeros(9), y_test=np.zeros(2))
    assert len(load(tmp_path / "b.npz", image_size=12, channels=1)) == 9
    assert len(load(tmp_path / "b.npz", image_size=12, channels=1, split="test")) == 2


def test_the_same_images_have_one_identity_whatever_holds_them(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(idx(GREY))
    (tmp_path / "d.gz").write_bytes(gzip.compress(idx(GREY)))
    np.save(tmp_path / "d.npy", GREY)
    sets = [load(tmp_path / name, image_size=12, channels=1) for name in ("d", "d.gz", "d.npy")]
    sets.append(load(tmp_path / "d", image_size=16, channels=3))
    assert len({images.identity for images in sets}) == 1
    assert load(tmp_path / "d", image_size=12, channels=1, limit=8).identity != sets[0].identity


# --- image folders


def test_formats_depth_and_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    names = ["a.PNG", "b/c.bmp", "b/deep/d.webp", "e.png"]
    for name, pixels in zip(names, RGB, strict=False):
        Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "a_link_to_nowhere.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a_link_to_itself").symlink_to(tmp_path, target_is_directory=True)
    images = load(tmp_path, image_size=12, channels=3)
    np.testing.assert_array_equal(images.pixels, PLAIN[:4])
    assert "1 other files left alone (.txt)" in images.notes


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((12, 12, 4), np.uint8)
    pixels[:6, :, 3], pixels[6:, :, 0], pixels[6:, :, 3] = 0, 200, 128
    got = one(tmp_path, Image.fromarray(pixels))
    assert (got[:, :6] == 255).all()
    np.testing.assert_allclose(got[:, 8, 8], [200 * 128 / 255 + 127, 127, 127], atol=1)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (12, 12), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.paste(0, (0, 0, 12, 6))
    got = one(tmp_path, image, transparency=0)
    assert (got[:, :6] == 255).all()
    assert got[:, 8, 8].tolist() == [10, 20, 30]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 144).round().astype(np.uint16).reshape(12, 12)
    got = one(tmp_path, Image.fromarray(deep), channels=1)[0]
    np.testing.assert_array_equal(got, np.round(deep / 257).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.full((12, 12), 255, np.uint8)).convert(mode)
    got = one(tmp_path, image, name="a.jpg" if mode == "CMYK" else "a.png")
    assert (got > 250).all()


def test_exif_orientation_turns_the_picture(tmp_path: Path) -> None:
    pixels = np.zeros((12, 12), np.uint8)
    pixels[0] = 255  # a bright top row; orientation 6 is shown turned to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    got = one(tmp_path, Image.fromarray(pixels), channels=1, exif=exif)[0]
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    got = one(tmp_path, Image.fromarray(RGB[0]), exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(got, PLAIN[0])


def test_colour_to_grey_is_itu_r_601(tmp_path: Path) -> None:
    image = Image.new("RGB", (12, 12), (200, 100, 50))
    assert one(tmp_path, image, channels=1)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_faces_like_celebas_cropped_to_140(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    for i in range(40):
        pixels = RNG.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        pixels[39:179, 19:159] = 6 * i  # the square of 140 px that is kept
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg", quality=98)
    calls: list[tuple[int, int]] = []
    images = load(folder, image_size=64, channels=3, crop=140, progress=lambda *done: calls.append(done))
    assert images.pixels.shape == (40, 3, 64, 64)
    inner = images.pixels[:, :, 8:-8, 8:-8].astype(int)
    assert np.abs(inner - 6 * np.arange(40)[:, None, None, None]).max() <= 3
    assert calls[-1] == (40, 40)
    assert "centre cut of 140 px, 64×64 px, RGB" in images.notes[0]
    assert load(folder, image_size=64, channels=3).pixels[5].std() > images.pixels[5].std()


def test_short_side_is_resized_and_the_centre_kept(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 60), dtype=np.uint8))
    whole = np.asarray(image.resize((30, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(one(tmp_path, image, size=10, channels=1)[0], whole[:, 10:20])


def test_the_crop_comes_before_the_resize(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (20, 31), dtype=np.uint8))
    got = load(_save(image, tmp_path), image_size=6, channels=1, crop=12).pixels[0, 0]
    want = image.crop((9, 4, 21, 16)).resize((6, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(want))
    assert load(tmp_path, image_size=20, channels=1, crop=99).pixels.shape == (1, 1, 20, 20)


def test_split_folders(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("val", 2)):
        (tmp_path / split).mkdir()
        for i in range(n):
            Image.fromarray(RGB[i]).save(tmp_path / split / f"{i}.png")
    assert len(load(tmp_path, image_size=12, channels=3)) == 3
    assert len(load(tmp_path, image_size=12, channels=3, split="test")) == 2


def test_labels_beside_pictures_and_a_preview_beside_an_array(tmp_path: Path) -> None:
    pictures, array = tmp_path / "pictures", tmp_path / "array"
    for folder in (pictures, array):
        folder.mkdir()
        Image.fromarray(RGB[0]).save(folder / "p.png")
    np.save(pictures / "labels.npy", np.zeros(1))
    np.save(array / "images.npy", GREY)
    assert load(pictures, image_size=12, channels=3).notes[0].startswith("image folder")
    assert len(load(array, image_size=12, channels=1)) == 9


def test_a_corrupt_image_is_named_and_ends_nothing(tmp_path: Path) -> None:
    for i, pixels in enumerate(RGB):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    whole = io.BytesIO()
    Image.fromarray(RGB[0]).resize((200, 200)).save(whole, "jpeg")
    (tmp_path / "1b.jpg").write_bytes(whole.getvalue()[:-900])
    (tmp_path / "3b.png").write_bytes(b"")
    for _ in range(2):  # decoded, then from the cache
        images = load(tmp_path, image_size=12, channels=3)
        assert images.skipped == ("1b.jpg", "3b.png")
        np.testing.assert_array_equal(images.pixels, PLAIN)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    many = RNG.integers(0, 256, (700, 8, 8), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive, archive.open("images.npy", "w") as stream:
        np.save(stream, many)  # type: ignore[arg-type]
    images = load(tmp_path / "many.npz", image_size=4, channels=1)
    want = [np.asarray(Image.fromarray(one).resize((4, 4), Image.Resampling.BILINEAR)) for one in many]
    np.testing.assert_array_equal(images.pixels[:, 0], want)

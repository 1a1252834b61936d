"""Data as people have it: parts under a wrapper, other kinds of pictures, arrays of others, what systems leave."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.public_sets import parquet, tgz, zipped
from PIL import Image

from ebmcli.data import load
from ebmcli.data.splits import choose
from ebmcli.data.survey import survey
from ebmcli.errors import EBMError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(kind: str = "png", pixels: np.ndarray = PIXELS, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"tif": "tiff", "jfif": "jpeg"}.get(kind, kind), **options)
    return stream.getvalue()


def spread(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


PACK: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda place, files: spread(place / "set", files),
    "zip": lambda place, files: zipped(place / "a.zip", files),
    "tgz": lambda place, files: tgz(place / "a.tgz", files),
}


# --- parts


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        ("train/1 train/2 test/3", "12", "3"),
        ("set/train/1 set/train/cat/2 set/test/3", "12", "3"),
        ("a/b/c/Training/1 a/b/c/VALID/2 a/b/c/Dev/3", "1", "23"),
        ("cats/train/1 cats/test/2 dogs/train/3 dogs/val/4", "13", "24"),
        ("train/1 test/2 unlabeled/3 4", "1", "2"),
        ("train2017/1 val2017/2", "1", "2"),
        ("seg_train/seg_train/1 seg_test/seg_test/2 seg_pred/3", "1", "2"),
        ("trainA/1 trainB/2 testA/3 testB/4", "12", "34"),
        ("train/train/1 train/test/2 test/3", "12", "3"),
    ],
)
def test_parts_are_found_at_any_depth(names: str, train: str, test: str) -> None:
    words = names.split()
    for split, want in (("train", train), ("test", test)):
        found = choose(words, split)
        assert found is not None
        assert "".join(words[i][-1] for i in found.which) == want
        assert len(found.notes) == 1


@pytest.mark.parametrize(
    "names",
    ["train/1 bus/2", "test/1 2", "a/train/1 b/test/2", "train_station/1 test_tube/2 a/3 b/4 c/5", "1 2"],
)
def test_what_only_looks_like_parts_is_taken_whole(names: str) -> None:
    assert choose(names.split(), "train") is None


@pytest.mark.parametrize("pack", PACK)
def test_parts_under_a_wrapper(tmp_path: Path, pack: str) -> None:
    files = {f"outer/mine/{part}/{i}.png": encoded() for part, n in (("train", 5), ("test", 2)) for i in range(n)}
    path = PACK[pack](tmp_path, files)
    images = load(path, image_size=8, channels=3)
    assert len(images) == 5
    assert "split train: 5 of outer/mine/train; left out: 2 of outer/mine/test" in images.notes
    assert len(load(path, image_size=8, channels=3, split="test")) == 2


def test_a_zip_with_backslashes(tmp_path: Path) -> None:
    files = {f"mine\\{part}\\{i}.png": encoded() for part, n in (("train", 5), ("test", 2)) for i in range(n)}
    assert len(load(zipped(tmp_path / "a.zip", files), image_size=8, channels=3)) == 5


@pytest.mark.parametrize(
    "names", [("a/train/0.png", "b/test/0.png"), ("train_0.png", "test_0.png")], ids=["folders", "files"]
)
def test_parts_that_cannot_be_told_are_said(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = load(spread(tmp_path, dict.fromkeys(names, encoded())), image_size=8, channels=3)
    assert len(images) == 2
    assert any("are named after parts of a set" in line for line in images.doubts)


# --- kinds of pictures


@pytest.mark.parametrize("pack", PACK)
def test_other_kinds_of_pictures_are_read(tmp_path: Path, pack: str) -> None:
    kinds = ("png", "tif", "ppm", "bmp", "gif", "jfif", "tga")
    images = load(PACK[pack](tmp_path, {f"{kind}.{kind}": encoded(kind) for kind in kinds}), image_size=12, channels=3)
    assert len(images) == len(kinds)
    want = PIXELS.transpose(2, 0, 1)
    exact = [(image == want).all() for image in images.pixels]
    assert sum(exact) == 6  # all but jfif
    assert any("1 png" in note and "1 tif" in note for note in images.notes)


@pytest.mark.parametrize("pack", PACK)
def test_kinds_that_are_not_read_are_said(tmp_path: Path, pack: str) -> None:
    files = {"a.png": encoded(), "b.heic": b"x", "c.HEIC": b"x", "d.svg": b"x", "notes.txt": b"x"}
    images = load(PACK[pack](tmp_path, files), image_size=8, channels=3)
    assert any("3 pictures of kinds that are not read are left out (2 .heic, 1 .svg)" in d for d in images.doubts)
    assert not any(".txt" in line for line in images.doubts)


def test_the_first_of_several_pages(tmp_path: Path) -> None:
    pages = [Image.new("L", (12, 12), shade) for shade in (10, 200)]
    for kind in ("gif", "tif", "png", "webp"):
        pages[0].save(tmp_path / f"{kind}.{kind}", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "single.png")
    for _ in range(2):  # decoded, then from the cache
        images = load(tmp_path, image_size=12, channels=1)
        assert np.abs(images.pixels.astype(int) - 10).max() <= 1
        assert any(line.startswith("4 are animated or have several pages") for line in images.doubts)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.float32([[0, 0.5], [1, 0.25]]), [[0, 128], [255, 64]]),
        (np.float32([[0, 100], [255, 25.4]]), [[0, 100], [255, 25]]),
        (np.int32([[0, 65535], [257, 514]]), [[0, 255], [1, 2]]),
        (np.uint16([[0, 65535], [257, 514]]), [[0, 255], [1, 2]]),
    ],
    ids=["floats to 1", "floats to 255", "integers", "16 bits"],
)
def test_deep_tif(tmp_path: Path, values: np.ndarray, want: list[list[int]]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert load(tmp_path, image_size=2, channels=1).pixels[0, 0].tolist() == want


@pytest.mark.parametrize("values", [np.float32([[0, 900]]), np.float32([[-1, 1]]), np.int32([[0, 70000]])])
def test_values_that_are_no_brightness_are_left_out_and_said(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.repeat(2, 0)).save(tmp_path / "a.tif")
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded())
    images = load(tmp_path, image_size=2, channels=1)
    assert images.skipped == ("a.tif",)
    assert any("not from 0 to 65535" in line or "neither in 0..1" in line for line in images.doubts)


def test_tall_pictures_are_converted_as_small_ones_are(tmp_path: Path) -> None:
    """In strips, which no pixel shows."""
    tall = RNG.integers(0, 256, (1300, 8, 4), dtype=np.uint8)
    Image.fromarray(tall).save(tmp_path / "a.png")
    white = Image.new("RGBA", (8, 1300), "white")
    want = Image.alpha_composite(white, Image.fromarray(tall)).convert("RGB").crop((0, 646, 8, 654))
    got = load(tmp_path, image_size=8, channels=3).pixels[0]
    np.testing.assert_array_equal(got.transpose(1, 2, 0), np.asarray(want))


def test_postscript_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded())
    images = load(tmp_path, image_size=2, channels=1)
    assert images.skipped == ("a.png",)
    assert any("no picture that is read: it begins with b'%!PS-Ado'" in line for line in images.doubts)


# --- what systems make, and links


@pytest.mark.parametrize("pack", PACK)
def test_what_systems_make_is_left_alone(tmp_path: Path, pack: str) -> None:
    aside = [
        *("@eaDir/0.png/SYNO_THUMB.jpg", "$RECYCLE.BIN/gone.png", "lost+found/0.png", ".ipynb_checkpoints/0.png"),
        *("#recycle/0.png", ".Trash-1000/files/0.png", "__MACOSX/._0.png", ".thumbnails/0.png"),
        *("deep/@Recycle/0.png", "deep/._1.png", "System Volume Information/0.png"),
    ]
    path = PACK[pack](tmp_path, dict.fromkeys([*aside, "0.png", "deep/1.png"], encoded()))
    images = load(path, image_size=8, channels=3)
    assert len(images) == 2
    if pack == "folder":
        assert any("left alone, made by the system: #recycle, $RECYCLE.BIN, @Recycle" in note for note in images.notes)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    spread(tmp_path / "elsewhere", {"cats/0.png": encoded(), "dogs/1.png": encoded()})
    root = spread(tmp_path / "set", {"own/2.png": encoded()})
    for name, target in (
        ("a_cats", tmp_path / "elsewhere/cats"),
        ("again", tmp_path / "elsewhere/cats"),
        ("dogs", tmp_path / "elsewhere/dogs"),
        ("itself", root),
        ("up", tmp_path),
        ("own/round", root / "own"),
        ("twice", root / "own"),
    ):
        (root / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "elsewhere/dogs/back").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    images = load(root, image_size=8, channels=3)
    assert len(images) == 3
    assert any("linked folders are followed: a_cats, dogs" in note for note in images.notes)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    spread(folder, {os.fsdecode(b"\xff.png"): encoded(), "b.png": b"broken", "c.png": encoded()})
    images = load(folder, image_size=8, channels=3)
    assert (images.name, len(images)) == (r"caf\xe9", 2)
    for line in (images.name, *images.notes, *images.doubts):
        line.encode()


# --- arrays of others

GREY = RNG.integers(0, 256, (6, 12, 12), dtype=np.uint8)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_the_one_array_of_images_beside_others(tmp_path: Path) -> None:
    labels = {"arr_1": np.arange(6), "logits": np.zeros((6, 10), np.float32)}
    images = load(saved(tmp_path / "a.npz", arr_0=GREY, **labels), image_size=12, channels=1)
    np.testing.assert_array_equal(images.pixels[:, 0], GREY)
    assert "array arr_0 of arr_0, arr_1, logits" in images.notes
    several = saved(tmp_path / "b.npz", data=GREY, mask=GREY // 255)
    assert "array data of data, mask" in load(several, image_size=12, channels=1).notes


@pytest.mark.parametrize(
    ("array", "want"),
    [
        (GREY.reshape(6, -1)[:, :9].repeat(88, 1)[:, :784], (28, 28)),
        (RNG.integers(0, 256, (6, 3072), dtype=np.uint8), (3, 32, 32)),
        (np.asfortranarray(RNG.random((6, 3072))), (3, 32, 32)),
    ],
    ids=["784", "3072", "fortran floats"],
)
def test_flat_planes(tmp_path: Path, array: np.ndarray, want: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", array)
    images = load(tmp_path / "a.npy", image_size=want[-1], channels=3 if len(want) == 3 else 1)
    planes = array if array.dtype == np.uint8 else (array * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(images.pixels.reshape(6, *want), planes.reshape(6, *want))
    assert any(f"rows of {array.shape[1]:,} values are read as" in note for note in images.notes)


def test_one_photograph_as_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    images = load(tmp_path / "a.npy", image_size=12, channels=3)
    np.testing.assert_array_equal(images.pixels, PIXELS.transpose(2, 0, 1)[None])
    assert images.notes[0].startswith("one picture as a NumPy array [12, 12, 3]")
    assert survey(str(tmp_path / "a.npy")).colour


def test_three_grey_pictures_may_be_one_in_colour(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY[:3])
    images = load(tmp_path / "a.npy", image_size=12, channels=1)
    assert len(images) == 3
    assert any("one colour picture is saved as [1, 3, 12, 12]" in line for line in images.doubts)


def test_batches_belong_together(tmp_path: Path) -> None:
    """In the order of their numbers; those of the other part, and labels, are left."""
    for number in (1, 2, 10):
        saved(tmp_path / f"train_data_batch_{number}.npz", data=np.full((2, 3072), number, np.uint8), labels=np.ones(2))
    saved(tmp_path / "val_data.npz", data=np.full((1, 3072), 99, np.uint8), labels=np.ones(1))
    np.save(tmp_path / "mean_1.npy", np.zeros(5))
    images = load(tmp_path, image_size=32, channels=3)
    assert images.pixels[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 10, 10]
    assert load(tmp_path, image_size=32, channels=3, split="test").pixels[:, 0, 0, 0].tolist() == [99]
    assert load(tmp_path, image_size=32, channels=3, limit=3).pixels[:, 0, 0, 0].tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (GREY > 9, "array.astype('uint8') * 255"),
        ((GREY > 9).astype(int), "0 to 1: save array.astype('uint8') * 255"),
        (GREY.astype("u2") * 257, "(array * (255 / 65535)).round().astype('uint8')"),
        (GREY.astype("i2") - 100, "(array + 100) * (255 / "),
        (GREY.astype("f4"), "if 255 is white, save array.round().astype('uint8')"),
        (GREY.astype("f4") * 9, ".round().astype('uint8')"),
        (GREY.reshape(6, 144), "array.reshape(-1, 12, 12)"),
        (RNG.integers(0, 9, (5, 192), dtype=np.uint8), "array.reshape(-1, 3, 8, 8)"),
        (GREY[0, :, :7], "array[None]"),
        (RNG.integers(0, 9, (8, 8, 3, 20), dtype=np.uint8), "numpy.moveaxis(array, 3, 0)"),
    ],
)
def test_the_hint_makes_images_and_destroys_nothing(tmp_path: Path, array: np.ndarray, hint: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(EBMError) as failed:
        load(tmp_path / "a.npy", image_size=12, channels=1)
    assert hint in failed.value.hint


# --- doubtful values

MASKS = np.zeros((4, 12, 12), np.uint8)
MASKS[:, 2:7, 3:9] = np.arange(4)[:, None, None] + 1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.minimum(MASKS, 1) * np.eye(12, dtype=np.uint8), "nearly black"),
        (GREY // 16, "nearly black: 99.8% of the values lie in 0 to 15 of 255.*multiplied by 16"),
        (GREY.astype("f4") / 255 / 255, "nearly black.*divided by 255 twice"),
        (GREY // 8 + 220, "nearly white"),
        (GREY // 8 + 100, "in a narrow range"),
        (GREY * 0 + 7, "every value is 7 of 255"),
        (GREY[:1].repeat(5, 0), "all 5 pictures that were looked at are the same"),
    ],
)
def test_doubtful_values_are_said(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", array)
    for _ in range(2):
        images = load(tmp_path / "a.npy", image_size=12, channels=1)
        assert any(re.search(said, line) for line in images.doubts), images.doubts


@pytest.mark.parametrize("array", [GREY, GREY // 3, np.where(GREY > 250, 255, 0).astype(np.uint8)])
def test_usual_values_are_not(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    assert load(tmp_path / "a.npy", image_size=12, channels=1).doubts == ()


# --- pictures beside a set in another form


def test_pictures_beside_parquet(tmp_path: Path) -> None:
    spread(tmp_path, {"t.parquet": parquet([encoded()] * 40), **{f"{i}.png": encoded() for i in range(4)}})
    images = load(tmp_path, image_size=8, channels=3)
    assert len(images) == 40
    assert any("pictures beside them are left out (4, such as 0.png)" in line for line in images.doubts)


def test_what_is_found_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spread(tmp_path / "mine", {"a.png": encoded(), "b.heic": b"x"})
    with caplog.at_level("INFO", logger="ebmcli"):
        for _ in range(3):
            load(tmp_path / "mine", image_size=8, channels=3)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["INFO", "WARNING"]
    assert said[0][1] == "mine: image folder, 1 images: 8×8 px, RGB"
    assert "1 .heic" in said[1][1]

"""What goes wrong with data ends in one line that says what was expected, what was received, and where."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebmcli.data import load
from ebmcli.errors import EBMError

GREY = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
IDX = struct.pack(">4I", 0x803, *GREY.shape) + GREY.tobytes()
NOISE = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
PACKED = gzip.compress(struct.pack(">4I", 0x803, *NOISE.shape) + NOISE.tobytes())


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def _files(**contents: bytes) -> Callable[[Path], Path]:
    """Makes a folder of these files; `__` in a name is a dot."""

    def make(folder: Path) -> Path:
        for name, content in contents.items():
            (folder / name.replace("__", ".")).write_bytes(content)
        return folder

    return make


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _array(name: str, array: np.ndarray, cut: int = 0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        (np.save if name.endswith("npy") else np.savez)(path, array)
        if cut:
            path.write_bytes(path.read_bytes()[:-cut])
        return path

    return make


CASES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda folder: folder / "nowhere", "no such file or folder", "bundled sets: mnist-10k"),
    "near a name": (lambda _: Path("fashion1k"), "no data at fashion1k", "did you mean fashion-1k?"),
    "a toy": (lambda _: Path("rings"), "toy density", "load_toy"),
    "empty folder": (_files(), "empty folder: expected images, received no files", "path"),
    "empty file": (_file("a.npz", b""), "is empty: expected images, received 0 bytes", "again"),
    "text files": (_files(a__txt=b"x", b__txt=b"y"), r"received 2 files \(2× .txt\)", "folder of the images"),
    "a text file": (_file("a.txt", b"hello you"), r"received a file that begins with b'hello yo'", "path"),
    "one image": (_file("a.jpg", b"\xff\xd8\xff"), "received one image", "folder that holds"),
    "an archive": (_file("a.tar", b"img" * 99), "received an archive", "unpack it"),
    "labels": (
        _file("train-labels-idx1-ubyte", struct.pack(">2I", 0x801, 3) + b"abc"),
        "labels, not images: expected magic number 0x00000803, received 0x00000801",
        "images-idx3-ubyte",
    ),
    "wrong magic": (_file("train-images-idx3-ubyte", b"\x01\x02" + IDX[2:]), "received 0x01020803", "images"),
    "truncated idx": (
        _file("d", IDX[:-9]),
        "truncated: expected 272 bytes by its header, received 263",
        "again",
    ),
    "truncated header": (
        _file("d", IDX[:9]),
        "truncated: expected 16 bytes by its header, received 9",
        "again",
    ),
    "long idx": (_file("d", IDX + b"x"), "longer than its header says: expected 272 bytes", "damaged"),
    "no images": (_file("d", struct.pack(">4I", 0x803, 0, 8, 8)), "holds no pixels: 0 images", "again"),
    "truncated gz": (_file("a-idx3-ubyte.gz", PACKED[:-500]), "cannot unpack", "truncated or damaged"),
    "flipped gz": (
        _file("a-idx3-ubyte.gz", PACKED[:1500] + bytes([PACKED[1500] ^ 255]) + PACKED[1501:]),
        "cannot unpack",
        "truncated or damaged",
    ),
    "pickled npy": (_array("a.npy", np.array([{}], dtype=object)), "never unpickled", "uint8"),
    "pickled npz": (_array("a.npz", np.array([{}], dtype=object)), "never unpickled", "uint8"),
    "a pickle": (_file("a.npz", pickle.dumps([1, 2])), "a pickle, which is never loaded", "numpy.save"),
    "not numpy": (
        _file("a.npy", b"something"),
        "expected a NumPy file, received bytes b'someth'",
        "numpy.save",
    ),
    "truncated npy": (_array("a.npy", GREY, 60), "expected 256 bytes of pixels, received 196", "again"),
    "truncated npz": (_array("a.npz", GREY, 60), "cannot unpack", "truncated or damaged"),
    "integers": (
        _array("a.npy", GREY.astype(int)),
        "expected uint8 in 0..255 or floats.*received int64",
        "astype",
    ),
    "flat": (_array("a.npy", GREY.reshape(4, 64)), r"expected \[n h w\].*received \[4, 64\]", "reshape"),
    "no rows": (_array("a.npy", GREY[:0]), r"received \[0, 8, 8\]", "reshape"),
    "wild floats": (_array("a.npy", GREY / 2), "received values from 0 to 127.5", "uint8"),
    "not numbers": (_array("a.npy", np.full((2, 8, 8), np.nan)), r"\[0, 1\] or \[-1, 1\], received", "uint8"),
    "several arrays": (
        _files(a__npy=IDX, b__npy=IDX),
        r"one NumPy file, received 2 \(a.npy, b.npy\)",
        "itself",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line_and_a_hint(tmp_path: Path, case: str) -> None:
    make, message, hint = CASES[case]
    with pytest.raises(EBMError, match=message) as failed:
        load(make(tmp_path), image_size=8, channels=1)
    assert "\n" not in failed.value.message
    assert hint in failed.value.hint


def test_an_npz_of_several_arrays_names_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=GREY, right=GREY)
    with pytest.raises(EBMError, match="received left, right") as failed:
        load(tmp_path / "a.npz", image_size=8, channels=1)
    assert failed.value.hint == "save the images under the key images"


def test_mostly_corrupt_images_end_it_and_a_few_are_named(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    for i in range(5):
        Image.fromarray(GREY[0]).save(tmp_path / f"good{i}.png")
    with pytest.raises(EBMError, match=r"9 of the first 14 of 14, as 0\.jpg \(.*\); 1\.jpg \(.*\); 2\.jpg") as failed:
        load(tmp_path, image_size=8, channels=1)
    assert "copied whole" in failed.value.hint


@pytest.mark.parametrize("split", ["test", "dev"])
def test_a_split_that_is_not_there(tmp_path: Path, split: str) -> None:
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    (tmp_path / "d").write_bytes(IDX)
    np.save(tmp_path / "a.npy", GREY)
    for source in ("mnist-10k", tmp_path, tmp_path / "d", tmp_path / "a.npy"):
        with pytest.raises(EBMError, match=f"split '{split}'"):
            load(source, image_size=8, channels=1, split=split)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "1 or 3 channels, received 2"),
        ({"image_size": 0}, "image_size must be at least 1 px, received 0"),
        ({"crop": -1}, "crop must be at least 1 px, received -1"),
        ({"limit": 0}, "limit must be at least 1 image, received 0"),
    ],
)
def test_wrong_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(EBMError, match=message):
        load("mnist-10k", **{"image_size": 28, "channels": 1, **settings})

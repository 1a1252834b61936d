"""Damaged and hostile files: one known error that names the file, or the images; never a hang, never much memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.public_sets import parquet, zipped
from PIL import Image

from ebmcli import recipe
from ebmcli.data import cache, load, remote
from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain

PIXELS = bytes(range(256))
FLIPPED = 6
"""Bytes that are flipped in each whole file."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def tried(path: Path) -> str:
    """The error that loading ends in, which names the file; empty where the images were read."""
    found = EBMError(f"of {path.name}", "none")
    try:
        load(path, image_size=8, channels=1)
        wrong = ""
    except EBMError as error:
        found, wrong = error, error.message
    assert "\n" not in found.message
    assert path.name in found.message
    assert found.hint
    return wrong


def npy(descr: str = "'|u1'", fortran: object = False, shape: str = "(4, 8, 8)", version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + 8 * PIXELS


HEADERS = {
    "beyond all": npy(shape="(99999999999, 28, 28)"),
    "beyond an integer": npy(shape="(1, 99999999999999, 99999999999)"),
    "negative": npy(shape="(-4, 8, 8)"),
    "twice negative": npy(shape="(4, -8, -8)"),
    "no numbers": npy(shape="('a', 8, 8)"),
    "nothing": npy(shape="None"),
    "no axes": npy(shape="()"),
    "many axes": npy(shape="(" + "1," * 2000 + ")"),
    "nested": npy(shape="(" * 2000 + ")" * 2000),
    "nested type": npy(descr="[" * 400 + "]" * 400),
    "empty type": npy(descr="()"),
    "no type": npy(descr="None"),
    "open quotes": npy(descr="'u1"),
    "huge text": npy(descr="'<U99999999'"),
    "objects": npy(descr="'|O'"),
    "structured": npy(descr="[('a', '<f4'), ('b', 'u1')]"),
    "objects inside": npy(descr="[('a', '|O')]"),
    "part of an array": npy(descr="('u1', (3,))"),
    "no bytes": npy(descr="'|V0'"),
    "dates": npy(descr="'<M8[s]'"),
    "complex": npy(descr="'<c8'"),
    "not a number": npy(descr="'<f2'"),
    "another order": npy(fortran="None"),
    "another version": npy(version=b"\3\0"),
    "a header beyond all": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{",
    "no header": b"\x93NUMPY",
}


@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_arrays(tmp_path: Path, what: str, packed: bool) -> None:
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        zipped(path, {"images.npy": HEADERS[what]})
    else:
        path.write_bytes(HEADERS[what])
    tracemalloc.start()
    assert tried(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", ">f8", "<f2", "|u1"])
@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
def test_orders_of_bytes_and_axes_are_read_rightly(tmp_path: Path, order: str, kind: str, packed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3))
    array = np.array(values / (1 if kind == "|u1" else 255), dtype=kind, order=order)  # type: ignore[call-overload]
    path = tmp_path / ("a.npz" if packed else "a.npy")
    (np.savez if packed else np.save)(path, array)
    got = load(path, image_size=8, channels=3, limit=4).pixels
    np.testing.assert_allclose(got, values[:4].transpose(0, 3, 1, 2), atol=1 if kind == "<f2" else 0)


def test_an_npz_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.npz", {"images.npy": npy(shape="(33000000, 8, 8)")})
    raw = bytearray(bomb.read_bytes())
    place = raw.index(b"PK\1\2") + 24  # where the archive says how long it is unpacked
    raw[place : place + 4] = struct.pack("<I", 2**31 + 2**20)
    bomb.write_bytes(raw)
    assert "far more than images are" in tried(bomb)
    lies = zipped(tmp_path / "lies.npz", {"images.npy": npy(shape="(40000000, 8, 8)")})
    assert "is truncated: expected 2,560,000,000 bytes" in tried(lies)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0x803, 2**32 - 1, 2**16, 2**16), "cannot hold"),
        ((0x803, 2**32 - 1, 28, 28), "truncated|cannot hold"),
        ((0x803, 4, 0, 8), "no pixels"),
        ((0x803, 4, 8, 9), "truncated"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_of_idx(tmp_path: Path, numbers: tuple[int, ...], said: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(pack(struct.pack(">4I", *numbers) + PIXELS))
    assert any(part in tried(path) for part in said.split("|"))


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


LINES = (b"IDAT", zlib.compress(bytes(9 * 8)))
PICTURES = {
    "bomb.png": _png(60_000, 60_000, LINES),
    "bomb.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    "zlib.png": _png(8, 8, (b"IDAT", b"garbage")),
    "text.png": _png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**27))), LINES),
    "page.jpg": b"<!DOCTYPE html><html>not found</html>",
    "nothing.png": b"",
    "many.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
}


def test_hostile_pictures_are_left_out_and_said(tmp_path: Path) -> None:
    for name, data in PICTURES.items():
        (tmp_path / name).write_bytes(data)
    for i in range(len(PICTURES) + 1):
        (tmp_path / f"z{i}.png").write_bytes(_png(8, 8, LINES))
    with open(tmp_path / "sparse.png", "wb") as stream:
        stream.truncate(2**40)
    images = load(tmp_path, image_size=8, channels=1)
    assert images.skipped == tuple(sorted([*PICTURES, "sparse.png"]))
    assert any(
        line.startswith(f"images that cannot be read are left out ({len(PICTURES) + 1})") for line in images.doubts
    )


def _whole(folder: Path) -> dict[str, bytes]:
    """A whole file of each layout."""
    picture = io.BytesIO()
    Image.fromarray(np.frombuffer(PIXELS, np.uint8).reshape(16, 16)).save(picture, "png")
    np.savez_compressed(folder / "a.npz", images=np.frombuffer(2 * PIXELS, np.uint8).reshape(8, 8, 8))
    zipped(folder / "a.zip", {f"{i}.png": picture.getvalue() for i in range(3)})
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for i in range(3):
            entry = tarfile.TarInfo(f"long/{'x' * 120}/{i}.png")
            entry.size = len(picture.getvalue())
            archive.addfile(entry, io.BytesIO(picture.getvalue()))
    (folder / "a.parquet").write_bytes(parquet([picture.getvalue()] * 3))
    (folder / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">4I", 0x803, 4, 8, 8) + PIXELS))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_layout_with_flipped_and_missing_bytes(tmp_path: Path) -> None:
    """Read, or one known error: nothing else comes of a few wrong bytes, nor of a file that ends early."""
    rng = np.random.default_rng(0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "bad").mkdir()
    failed = 0
    for name, data in _whole(tmp_path / "whole").items():
        assert not tried(tmp_path / "whole" / name)
        path = tmp_path / "bad" / name
        for place in [*range(8), *rng.integers(0, len(data), FLIPPED), *range(-8, 0)]:
            spoilt = bytearray(data)
            spoilt[place] ^= int(rng.integers(1, 256))
            path.write_bytes(spoilt)
            failed += bool(tried(path))
        for end in rng.integers(1, len(data), FLIPPED // 2):
            path.write_bytes(data[:end])
            failed += bool(tried(path))
    assert failed > 50


def test_a_member_of_a_tar_with_a_name_beyond_all_measure(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**32
    (tmp_path / "a.tgz").write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
    assert "a name or remark of 4,294,967,296 bytes" in tried(tmp_path / "a.tgz")


def test_names_in_archives_that_are_no_utf8(tmp_path: Path) -> None:
    picture = _png(8, 8, LINES)
    path = zipped(tmp_path / "a.zip", {"é.png": picture})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert "cannot unpack" in tried(path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("caf\udce9.png")
        entry.size = len(picture)
        archive.addfile(entry, io.BytesIO(picture))
    assert len(load(tmp_path / "a.tar", image_size=8, channels=1)) == 1


# --- what is no file


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a link to a pipe"])
def test_what_would_never_end_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing.png"
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "a device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path = tmp_path / "pipe" if kind == "a named pipe" else path
        if kind == "a link to a pipe":
            path.symlink_to(tmp_path / "pipe")
    for read in (lambda: load(path, image_size=8, channels=1), lambda: recipe.load(path)):
        with pytest.raises(EBMError, match="not a plain file"):
            read()


def test_pipes_in_a_folder_are_passed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "list_eval_partition.txt")
    (tmp_path / "b.png").write_bytes(_png(8, 8, LINES))
    assert len(load(tmp_path, image_size=8, channels=1)) == 1


def test_a_recipe_beyond_all_measure(tmp_path: Path) -> None:
    with open(tmp_path / "r.toml", "wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(EBMError, match="expected at most"):
        recipe.load(tmp_path / "r.toml")
    assert check_plain(tmp_path / "r.toml").st_size == 2**40


# --- the cache


def test_one_broken_entry_is_not_listed_and_breaks_nothing(tmp_path: Path) -> None:
    for i in range(9):
        np.save(tmp_path / f"{i}.npy", np.full((2, 8, 8), i, np.uint8))
        load(tmp_path / f"{i}.npy", image_size=8, channels=1)
    notes = sorted(cache.folder().glob("*.json"))
    notes[0].write_text("[" * 100_000)
    notes[1].write_text(json.dumps({"shape": [2, 1, 8, 8]}))
    notes[2].write_bytes(b"\xff")
    notes[3].with_suffix(".npy").write_bytes(b"")
    notes[4].with_suffix(".npy").write_bytes(HEADERS["nested"])
    notes[5].with_suffix(".npy").write_bytes(npy(shape="(2, 1, 8, 99)"))
    notes[6].unlink()
    os.mkfifo(notes[6])
    assert len(cache.entries()) == 2
    hub = cache.folder() / "hub"
    hub.mkdir()
    for name, text in (("a", "[" * 100_000), ("b", "[1]"), ("c", "{}"), ("d", '{"address": "ann/x", "train": {}}')):
        (hub / f"{name}.json").write_text(text)
    assert list(remote.notes()) == ["ann/x"]
    notes[6].unlink()
    for i in range(9):  # decoded anew where they were broken
        assert load(tmp_path / f"{i}.npy", image_size=8, channels=1).pixels[0, 0, 0, 0] == i
    assert len(cache.entries()) == 9

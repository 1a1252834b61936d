"""CIFAR-10's records, archives, parquet and CelebA's parts: what is read, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.public_sets import cifar_archive, cifar_records, flowers_archive, parquet, picture, tgz, zipped

from ebmcli.data import load
from ebmcli.data.parquet import image_column
from ebmcli.errors import EBMError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_CACHE", str(tmp_path_factory.mktemp("cache")))


def bin_pixels(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 32, 32)


# --- CIFAR-10


def test_cifar_as_published_and_unpacked(tmp_path: Path) -> None:
    """Red, green, blue in the right places; batches in the order of their names; one identity either way."""
    archive = cifar_archive(tmp_path / "cifar-10-binary.tar.gz", n=7)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    folder = tmp_path / "cifar-10-batches-bin"
    want = np.concatenate([bin_pixels((folder / f"data_batch_{i}.bin").read_bytes()) for i in range(1, 6)])
    sets = [load(source, image_size=32, channels=3) for source in (archive, folder, tmp_path)]
    for images in sets:
        np.testing.assert_array_equal(images.pixels, want)
    assert len({images.identity for images in sets}) == 1
    assert sets[0].notes[0].startswith("CIFAR-10 records, 35 images")
    test = load(archive, image_size=32, channels=3, split="test")
    np.testing.assert_array_equal(test.pixels, bin_pixels((folder / "test_batch.bin").read_bytes()))
    one = load(folder / "data_batch_2.bin", image_size=32, channels=3)
    np.testing.assert_array_equal(one.pixels, want[7:14])


def test_cifar_that_is_damaged_or_pickled(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_records(3)[:-1])
    with pytest.raises(EBMError, match="expected records of 3,073 bytes, received 9,218"):
        load(tmp_path, image_size=32, channels=3)
    pickles = tgz(tmp_path / "cifar-10-python.tar.gz", {"cifar-10-batches-py/data_batch_1": b"\x80\x04"})
    with pytest.raises(EBMError, match="as pickles, which are never loaded") as failed:
        load(pickles, image_size=32, channels=3)
    assert "cifar-10-binary.tar.gz" in failed.value.hint
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(cifar_archive(tmp_path / "whole.tar.gz").read_bytes()[:-9000])
    with pytest.raises(EBMError, match="cannot unpack"):
        load(cut, image_size=32, channels=3)


# --- archives


@pytest.mark.parametrize("kind", ["tgz", "tar", "zip"])
def test_an_archive_is_read_as_its_folder_is(tmp_path: Path, kind: str) -> None:
    files = {f"jpg/image_{i:05d}.jpg": picture(i, 40, 30) for i in range(1, 8)}
    files |= {"__MACOSX/jpg/._image_00001.jpg": b"x", "jpg/notes.txt": b"x"}
    path = tmp_path / f"102flowers.{kind}"
    if kind == "zip":
        zipped(path, files)
    else:
        tgz(path, files)
    if kind == "tar":
        path.write_bytes(gzip.decompress(path.read_bytes()))
    folder = tmp_path / "jpg"
    folder.mkdir()
    for name, data in list(files.items())[:7]:
        (tmp_path / name).write_bytes(data)
    packed, plain = (load(source, image_size=16, channels=3) for source in (path, folder))
    np.testing.assert_array_equal(packed.pixels, plain.pixels)
    assert packed.identity == plain.identity
    assert not [p for p in tmp_path.rglob("*") if p.is_dir() and p != folder]  # nothing was unpacked


def test_the_splits_of_an_archive(tmp_path: Path) -> None:
    parts = (("train", 3), ("test", 2))
    path = zipped(tmp_path / "a.zip", {f"{part}/{i}.jpg": picture(i, 9, 9) for part, n in parts for i in range(n)})
    assert len(load(path, image_size=8, channels=3)) == 3
    assert len(load(path, image_size=8, channels=3, split="test")) == 2


def _bomb(path: Path) -> Path:
    """Two gigabytes of zeros that call themselves a picture, in some megabytes."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo("jpg/a.jpg")
        entry.size = 2**31
        archive.addfile(entry, io.BufferedReader(_Zeros(entry.size)))  # type: ignore[type-var]
    return path


class _Zeros(io.RawIOBase):
    def __init__(self, left: int) -> None:
        self.left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        n = min(len(buffer), self.left)
        buffer[:n] = bytes(n)
        self.left -= n
        return n


@pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
@pytest.mark.parametrize("pack", [tgz, zipped])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, pack) -> None:
    path = pack(
        tmp_path / ("a.zip" if pack is zipped else "a.tgz"), {"ok.jpg": picture(1, 9, 9), name: picture(2, 9, 9)}
    )
    with pytest.raises(EBMError, match="leads out of it"):
        load(path, image_size=8, channels=3)


def test_links_in_archives_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture(1, 9, 9))
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("link.jpg")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.jpg")
        archive.addfile(entry)
    with pytest.raises(EBMError, match="holds no images"):
        load(path, image_size=8, channels=3)


def test_bombs_are_refused(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", {f"{i}.png": bytes(10**8) for i in range(5)})
    with pytest.raises(EBMError, match="far more than images are"):
        load(whole, image_size=8, channels=3)
    claims = tmp_path / "b.tgz"
    with tarfile.open(claims, "w:gz") as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 2**40  # what its header claims is refused before a byte is unpacked
        archive.fileobj.write(entry.tobuf())
    with pytest.raises(EBMError, match="far more than images are"):
        load(claims, image_size=8, channels=3)


@pytest.mark.slow
def test_a_bomb_that_is_one(tmp_path: Path) -> None:
    with pytest.raises(EBMError, match="far more than images are"):
        load(_bomb(tmp_path / "bomb.tgz"), image_size=8, channels=3)


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = tmp_path / "cut.tgz"
    path.write_bytes(flowers_archive(tmp_path / "whole.tgz", n=6).read_bytes()[:-2000])
    with pytest.raises(EBMError, match="cannot unpack"):
        load(path, image_size=8, channels=3)


# --- parquet


def test_parquet_files_and_folders(tmp_path: Path) -> None:
    pictures = [picture(i, 30, 40) for i in range(9)]
    data = tmp_path / "data"
    data.mkdir()
    (data / "train-00000-of-00002.parquet").write_bytes(parquet(pictures[:5]))
    (data / "train-00001-of-00002.parquet").write_bytes(parquet(pictures[5:7]))
    (data / "test-00000-of-00001.parquet").write_bytes(parquet(pictures[7:]))
    plain = tmp_path / "plain"
    plain.mkdir()
    for i, content in enumerate(pictures):
        (plain / f"{i}.jpg").write_bytes(content)
    want = load(plain, image_size=16, channels=3).pixels
    np.testing.assert_array_equal(load(tmp_path / "data", image_size=16, channels=3).pixels, want[:7])
    np.testing.assert_array_equal(load(tmp_path / "data", image_size=16, channels=3, split="test").pixels, want[7:])
    one = load(data / "test-00000-of-00001.parquet", image_size=16, channels=3)
    np.testing.assert_array_equal(one.pixels, want[7:])
    with pytest.raises(EBMError, match="no split 'test'"):
        load(_only(tmp_path, parquet(pictures[:1])), image_size=16, channels=3, split="test")


def _only(folder: Path, content: bytes, name: str = "x.parquet") -> Path:
    path = folder / "only" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_image_column(tmp_path: Path) -> None:
    """By its feature type; else by form, and by name where several have the form."""
    import pyarrow as arrow
    import pyarrow.parquet

    assert image_column(_only(tmp_path, parquet([b"x"], column="face"))) == "face"
    assert image_column(_only(tmp_path, parquet([b"x"], column="thing", typed=False))) == "thing"
    table = arrow.table({"mask": [b"x"], "img": [b"y"], "label": [1]})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    assert image_column(_only(tmp_path, stream.getvalue())) == "img"
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table.select(["label"]), stream)
    with pytest.raises(EBMError, match=r"no column of images: it has label \(int64\)"):
        image_column(_only(tmp_path, stream.getvalue()))
    whole = parquet([picture(1)])
    with pytest.raises(EBMError, match="not a whole parquet file"):
        image_column(_only(tmp_path, whole[: len(whole) // 2]))


def test_paths_in_parquet_are_never_followed(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet

    (tmp_path / "private.jpg").write_bytes(picture(1))
    rows = [{"bytes": None, "path": str(tmp_path / "private.jpg")}]
    form = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    stream = io.BytesIO()
    pyarrow.parquet.write_table(arrow.table({"image": arrow.array(rows, type=form)}), stream)
    with pytest.raises(EBMError, match="most images cannot be decoded"):
        load(_only(tmp_path, stream.getvalue()), image_size=8, channels=3)


def test_celebas_list_of_parts(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i:06d}.jpg").write_bytes(picture(i))
    everything = load(folder, image_size=8, channels=3, crop=140)
    assert len(everything) == 6
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{i:06d}.jpg {i // 2}\n" for i in range(6)))
    train, rest = (load(folder, image_size=8, channels=3, crop=140, split=split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.pixels, everything.pixels[:2])
    np.testing.assert_array_equal(rest.pixels, everything.pixels[2:])


def test_transparent_json_of_features(tmp_path: Path) -> None:
    """A column that calls itself an image and is none is passed over."""
    import pyarrow as arrow
    import pyarrow.parquet

    table = arrow.table({"fake": [1], "real": [b"x"]})
    said = {"info": {"features": {"fake": {"_type": "Image"}}}}
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(said)}), stream)
    assert image_column(_only(tmp_path, stream.getvalue())) == "real"


def test_a_zip_with_a_password(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.jpg": picture(1, 9, 9)})
    raw = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + at] |= 1
    path.write_bytes(bytes(raw))
    assert zipfile.is_zipfile(path)
    with pytest.raises(EBMError, match="cannot unpack"):
        load(path, image_size=8, channels=3)

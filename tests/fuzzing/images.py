"""Readers of images of every layout, and of the cache of decoded ones."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.table import Files, cache_in, command, empty_folder, folder_files, known, reader


def picture(kind: str, size: tuple[int, int] = (9, 8), mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(size[0] + len(mode))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    made = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    if mode == "P" and kind == "PNG":
        options["transparency"] = 3
    image.save(made, kind, **options)
    return made.getvalue()


def _pictures() -> list[Files]:
    exif = Image.Exif()
    exif[0x0112] = 6
    more = [Image.new("RGB", (6, 6), (i * 40, 0, 0)) for i in range(3)]
    kinds = {
        "a.png": picture("PNG"),
        "b.png": picture("PNG", mode="P"),
        "c.png": picture("PNG", mode="RGBA"),
        "d.jpg": picture("JPEG", exif=exif),
        "e.jpeg": picture("JPEG", mode="CMYK", progressive=True),
        "f.webp": picture("WEBP"),
        "g.webp": picture("WEBP", lossless=True, mode="RGBA"),
        "h.bmp": picture("BMP"),
        "i.bmp": picture("BMP", mode="P"),
        "j.gif": picture("GIF", mode="P", save_all=True, append_images=more),
        "k.tif": picture("TIFF", compression="tiff_lzw"),
        "l.tif": picture("TIFF", compression="tiff_adobe_deflate", mode="I;16" if False else "L"),
        "m.ppm": picture("PPM"),
        "n.png": _deep(),
    }
    alone = (".png", ".jpg", ".jpeg", ".webp", ".bmp")  # the others may be looked at beside one of these only
    beside = {"pictures/z.png": kinds["a.png"]}
    return [{f"pictures/{n}": d, **({} if n.endswith(alone) else beside)} for n, d in kinds.items()]


def _deep() -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(made, "PNG")
    return made.getvalue()


def _load(path: Path) -> None:
    """Images of a path, as training and as `data show` find them; a mutant can lead to any form that is asked for."""
    from ebmcli import data
    from ebmcli.data.survey import survey

    known(data.load, path, image_size=4, channels=3, split="test")
    known(survey, str(path))
    data.load(path, image_size=4, channels=1)


def _data(name: str, samples: Callable[[], list[Files]], **more: Any) -> None:
    @reader(name, samples, **{"group": "data", **more})
    def read(folder: Path) -> None:
        """Data of one layout."""
        shown = sorted({path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()})
        for name in shown:
            _load(folder / name)


_data("pictures", _pictures, share=3)


def _folders() -> list[Files]:
    one, other = picture("PNG"), picture("JPEG")
    split = {f"set/{part}/{kind}/{i}.png": one for part in ("train", "test") for kind in "ab" for i in range(2)}
    faces = {f"img_align_celeba/{i:06d}.jpg": other for i in range(1, 4)}
    parts = b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"
    return [split, {**faces, "img_align_celeba/list_eval_partition.txt": parts, "img_align_celeba/notes.txt": b"hello"}]


_data("folders", _folders)


def arrays() -> list[Files]:
    grey = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5)
    arrays = {
        "a.npy": grey,
        "b.npy": np.linspace(0, 1, 2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3),
        "c.npy": np.asfortranarray(np.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)),
    }
    return [{name: npy(array)} for name, array in arrays.items()]


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array, allow_pickle=False)
    return made.getvalue()


def _npzs() -> list[Files]:
    grey = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5)
    found = []
    for save, arrays in (
        (np.savez, {"images": grey}),
        (np.savez_compressed, {"x_train": grey, "x_test": grey, "y_train": np.arange(2)}),
        (np.savez_compressed, {"train_images": grey[..., None].repeat(3, 3), "val_images": grey}),
    ):
        made = io.BytesIO()
        save(made, **arrays)  # type: ignore[arg-type]
        found.append({"a.npz": made.getvalue()})
    return found


_data("npy", arrays, share=2)
_data("npz", _npzs, share=2)


def _idx() -> list[Files]:
    plain = struct.pack(">4I", 0x803, 3, 5, 4) + bytes(range(60))
    packed = gzip.compress(plain, mtime=0)
    return [
        {"train-images-idx3-ubyte": plain},
        {"set/train-images-idx3-ubyte.gz": packed, "set/t10k-images-idx3-ubyte.gz": packed},
        {"x-images.idx3-ubyte": plain},
    ]


_data("idx", _idx)


def _cifar() -> list[Files]:
    record = bytes([3]) + bytes(range(256)) * 12
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = 2 * len(record)
            archive.addfile(entry, io.BytesIO(record * 2))
    return [
        {"set/data_batch_1.bin": record * 2, "set/test_batch.bin": record},
        {"data_batch_2.bin": record},
        {"cifar-10-binary.tar.gz": made.getvalue()},
    ]


_data("cifar", _cifar, share=0.7)


def _archives() -> list[Files]:
    pictures = {"train/a.png": picture("PNG"), "train/b.jpg": picture("JPEG"), "test/c.png": picture("PNG", (4, 4))}
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    with tarfile.open(fileobj=tarred, mode="w") as packed:
        for name, data in pictures.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return [
        {"a.zip": zipped.getvalue()},
        {"a.tar": tarred.getvalue()},
        {"a.tgz": gzip.compress(tarred.getvalue(), mtime=0)},
    ]


_data("archives", _archives, share=2)


def _parquet() -> list[Files]:
    import pyarrow as arrow
    from pyarrow import parquet

    pictures = [{"bytes": picture("PNG", (4 + i, 5)), "path": "../x.png"} for i in range(3)]
    noted = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()}
    tables = (
        arrow.table({"image": pictures, "label": [1, 2, 3]}).replace_schema_metadata(noted),
        arrow.table({"img": [p["bytes"] for p in pictures], "text": ["a", "b", None]}),
        arrow.table({"image": pictures, "mask": pictures}),
    )
    found = []
    for table, method in zip(tables, ("snappy", "none", "zstd"), strict=True):
        made = io.BytesIO()
        parquet.write_table(table, made, compression=method)
        found.append({"train-00000-of-00001.parquet": made.getvalue()})
    return found


_data("parquet", _parquet, share=2, group="parquet")


def _caches() -> list[Files]:
    """A set with its decoded images in the cache, and one that was interrupted."""
    from ebmcli import data

    with empty_folder() as folder, cache_in(folder / "cache"):
        (folder / "a.npy").write_bytes(arrays()[0]["a.npy"])
        data.load(folder / "a.npy", image_size=4, channels=1)
        whole = folder_files(folder)
    [entry] = [Path(name).stem for name in whole if name.startswith("cache/data/") and name.endswith(".json")]
    journal = {"items": 1, "count": 1, "bad": {}}
    part = {
        "a.npy": whole["a.npy"],
        f"cache/data/.{entry}.part": whole[f"cache/data/{entry}.npy"],
        f"cache/data/.{entry}.sums": bytes(32),
        f"cache/data/.{entry}.journal": json.dumps(journal).encode(),
    }
    return [whole, part]


@reader("decoded cache", _caches, damaged=("cache/",), share=1.5)
def read_cache(folder: Path) -> None:
    """The cache of decoded images: a damaged entry is made anew, or the same images come out."""
    from ebmcli import data
    from ebmcli.data import cache

    with cache_in(folder / "cache"):
        images = data.load(folder / "a.npy", image_size=4, channels=1)
        assert images.pixels.shape == (2, 1, 4, 4)
        cache.entries()
        command("data", "list")


def _notes() -> list[Files]:
    part = {
        "repo": "someone/pictures",
        "revision": "a" * 40,
        "name": "train",
        "column": "image",
        "files": ["data/train-00000-of-00001.parquet"],
        "rows": 3,
    }
    note = {"address": "someone/pictures", "train": part}
    return [{"cache/data/hub/someone--pictures.json": json.dumps(note, indent=1).encode()}]


@reader("notes on sets", _notes, share=1)
def read_notes(folder: Path) -> None:
    """What is noted of sets of the Hub; the set itself is not at hand."""
    from ebmcli import data

    with cache_in(folder / "cache"):
        command("data", "list")
        known(data.load, "someone/pictures", image_size=4, channels=1)

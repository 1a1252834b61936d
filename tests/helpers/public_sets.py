"""Small sets in exactly the layouts in which the public ones are published, made of known pictures."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 178, height: int = 218) -> bytes:
    """A JPEG of a smooth random picture, with colours."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=92)
    return stream.getvalue()


def parquet(pictures: Iterable[bytes], column: str = "image", typed: bool = True) -> bytes:
    """A parquet file as the Hub keeps them: a struct of bytes and path, its feature type in the metadata."""
    import pyarrow as arrow
    import pyarrow.parquet

    rows = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(pictures)]
    form = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    table = arrow.table({column: arrow.array(rows, type=form), "label": list(range(len(rows)))})
    if typed:
        features = {column: {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, row_group_size=50)
    return stream.getvalue()


def tgz(path: Path, files: dict[str, bytes]) -> Path:
    """A gzipped tar of these files in this order, folders listed too."""
    with tarfile.open(path, "w:gz") as archive:
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in files):
            if folder and not folder.startswith((".", "/")):
                entry = tarfile.TarInfo(folder)
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    """A zip of these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def cifar_records(n: int, seed: int = 0) -> bytes:
    """`n` records: label, then 1,024 red, green and blue bytes."""
    return np.random.default_rng(seed).integers(0, 256, (n, 3073), dtype=np.uint8).tobytes()


def cifar_archive(path: Path, n: int = 20) -> Path:
    """`cifar-10-binary.tar.gz`, its members in the order in which they are published, `n` records a batch."""
    order = ("data_batch_1.bin", "batches.meta.txt", "data_batch_3.bin", "data_batch_4.bin", "test_batch.bin",
             "readme.html", "data_batch_5.bin", "data_batch_2.bin")  # fmt: skip
    files = {
        f"cifar-10-batches-bin/{name}": cifar_records(n, sum(name.encode())) if name.endswith(".bin") else b"airplane\n"
        for name in order
    }
    return tgz(path, files)


def flowers_archive(path: Path, n: int = 24) -> Path:
    """`102flowers.tgz`: `jpg/image_00001.jpg` and so on, of several sizes."""
    sizes = ((500, 591), (625, 500), (500, 500))
    return tgz(path, {f"jpg/image_{i:05d}.jpg": picture(i, *sizes[i % 3]) for i in range(1, n + 1)})

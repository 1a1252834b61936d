"""Reader of parquet files with a column of encoded images, the form in which the Hub keeps most data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.data.source import SPLITS, File, Listing, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_MAGIC = b"PAR1"
_ROWS = 64  # read at once
_LARGEST = 256 * 2**20  # bytes of one encoded image
_NAMES = ("image", "img", "jpg", "png", "pixel_values")
"""Names that an image column has where no feature type tells."""


def recognise(listing: Listing) -> bool:
    """A parquet file, or a folder that holds parquet files."""
    if listing.is_folder:
        return any(file.suffix == ".parquet" for file in listing.files)
    return listing.head(4) == _MAGIC


def open_source(listing: Listing, split: str) -> Source:
    """The images of the files of `split`, which their names tell (`data/train-00000-of-00001.parquet`).

    Raises:
        EBMError: no file of that split, no image column, a damaged file, or pyarrow is not installed.
    """
    files = [file for file in listing.files if file.suffix == ".parquet"] if listing.is_folder else list(listing.files)
    chosen = _choose(listing, files, split)
    paths = [file.path for file in chosen]
    column = image_column(paths[0])
    return Source(f"parquet, column {column}", tuple(chosen), lambda: count(paths), lambda n: items(paths, column, n))


def image_column(path: Path) -> str:
    """The column that holds images: by its feature type, else by form and name.

    Raises:
        EBMError: there is none; the message lists what there is.
    """
    import pyarrow as arrow

    schema = _open(path).schema_arrow
    said = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(said)["info"]["features"]
        typed = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError):
        typed = []
    binary = [
        field.name
        for field in schema
        if arrow.types.is_binary(field.type)
        or arrow.types.is_large_binary(field.type)
        or (arrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    named = [name for name in binary if name.lower() in _NAMES]
    for choice in ([name for name in typed if name in binary], named, binary):
        if len(choice) == 1 or (choice and choice is not binary):
            return choice[0]
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise EBMError(f"{path.name} has no column of images: it has {there[:300]}", "expected encoded images (jpg, png)")


def count(paths: Sequence[Path]) -> int:
    """Rows of all files."""
    return sum(_open(path).metadata.num_rows for path in paths)


def items(paths: Sequence[Path], column: str, n: int) -> Iterator[Item]:
    """The first `n` images as bytes, a few rows in memory at a time.

    What an image's row says of a path is never followed: only bytes are taken.

    Raises:
        EBMError: a damaged file.
    """
    import pyarrow as arrow

    done = 0
    for path in paths:
        file = _open(path)
        number = 0
        try:
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                values: Any = batch.column(0)
                if arrow.types.is_struct(values.type):
                    values = values.field("bytes")
                for value in values:
                    if done == n:
                        return
                    data = value.as_py() or b""
                    yield f"{path.name}[{number}]", data if len(data) <= _LARGEST else b""
                    number += 1
                    done += 1
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def _open(path: Path) -> Any:
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as error:
        raise EBMError(
            f"reading {path.name} needs pyarrow, which is not installed", "pip install 'ebmcli[data]'"
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> EBMError:
    what = " ".join(str(error).split())[:200]
    return EBMError(f"{path} is not a whole parquet file: {what}", "copy or download it again")


def _choose(listing: Listing, files: list[File], split: str) -> list[File]:
    """Files named like the split; where no name tells of any split, all are the training set."""
    parts = [set(re.split(r"[^a-z]+", file.name.lower().removesuffix(".parquet"))) for file in files]
    of = {name: [f for f, words in zip(files, parts, strict=True) if words & set(SPLITS[name])] for name in SPLITS}
    if of[split]:
        return of[split]
    if split == "train" and not any(of.values()):
        return files
    there = ", ".join(file.name for file in files[:5])
    raise EBMError(
        f"{listing.root} has no split {split!r}: no parquet file is named so (there: {there})",
        "name the file itself, or leave the split out",
    )

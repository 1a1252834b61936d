"""Reader of parquet files with a column of encoded images, the form in which the Hub keeps most data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.data.listing import File, Listing
from ebmcli.data.source import LARGEST, PICTURES, SPLITS, Source
from ebmcli.errors import EBMError

if TYPE_CHECKING:
    from ebmcli.data.source import Item

_MAGIC = b"PAR1"
_ROWS = 64  # read at once
_BUFFER = 2**20  # bytes of a file that are read at once, instead of a whole group of rows
_LONGEST = 100_000_000  # bytes of the description of a file, and entries in its lists
_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "pixel_values")
"""Names that an image column has, the likeliest first."""
_ASIDE = re.compile(r"mask|label|seg|annotation|depth|thumb|edge|condition", re.IGNORECASE)
"""Names of columns of images that belong to the pictures and are not them."""
_PIECE = re.compile(r"(?:part|chunk|shard|batch|group|file)?[-_ ]?\d+|.*=.*|data|default", re.IGNORECASE)
"""Folders that divide the files of one configuration."""


def recognise(listing: Listing) -> bool:
    """A parquet file, or a folder that parquet files fill more of than pictures do."""
    if listing.is_folder:
        filled = sum(file.size for file in listing.files if file.suffix == ".parquet")
        return filled > sum(file.size for file in listing.files if file.suffix in PICTURES)
    return listing.head(4) == _MAGIC


def open_source(listing: Listing, split: str, column: str | None = None, config: str | None = None) -> Source:
    """The images of the files of `split`, which their names tell (`data/train-00000-of-00001.parquet`).

    Args:
        listing: of the file or folder.
        split: "train" or "test".
        column: of the images; by default the one that is called so, or the only one.
        config: which of several folders of files, each a set of its own, is read.

    Raises:
        EBMError: no file of that split, no image column or several, several configurations, a damaged file, or
            pyarrow is not installed.
    """
    files = [file for file in listing.files if file.suffix == ".parquet"] if listing.is_folder else list(listing.files)
    if listing.is_folder:
        names = only_config([file.name for file in files], config, str(listing.root))
        files = [file for file in files if file.name in names]
    elif config is not None:
        raise EBMError(f"{listing.root} is one file, and has no configurations", "leave out `config`")
    chosen = _choose(listing, files, split)
    paths = [file.path for file in chosen]
    taken, notes = choose_column(paths[0], column)
    source = Source(f"parquet, column {taken}", tuple(chosen), 0, lambda n: items(paths, taken, n), notes)
    source.declared = lambda: count(paths, taken)
    return source


def configs(names: Sequence[str]) -> dict[str, list[str]]:
    """The configurations that folders of parquet files are (`cropped/train-0.parquet`), and the files of each.

    Folders that tell of a split, or divide the files by number, are no configurations; "" is that of all others.
    """
    words = {alias for aliases in SPLITS.values() for alias in aliases}
    found: dict[str, list[str]] = {}
    for name in names:
        folders = [folder for folder in name.split("/")[:-1] if not _PIECE.fullmatch(folder)]
        found.setdefault("/".join(folder for folder in folders if folder.lower() not in words), []).append(name)
    return found


def only_config(names: Sequence[str], config: str | None, where: str) -> set[str]:
    """The files of the one configuration that is there, or that is named.

    Raises:
        EBMError: there are several and none is named, or not the one that is named; the message lists them.
    """
    there = configs(names)
    listed = ", ".join(sorted(name or "(no folder)" for name in there))
    if config is not None:
        if config not in there:
            raise EBMError(f"{where} has no configuration {config!r}: it has {listed}", "name one of these")
        return set(there[config])
    if len(there) > 1:
        raise several(where, sorted(there))
    return set(names)


def several(where: str, configs: Sequence[str]) -> EBMError:
    """The error that asks which of several configurations is meant."""
    listed = ", ".join(name or "(no folder)" for name in configs)
    return EBMError(
        f"{where} holds {len(configs)} configurations, each a set of its own: {listed[:300]}",
        "name one with `config` NAME, or DATA#config=NAME",
    )


def image_column(path: Path) -> str:
    """The column that holds images.

    Raises:
        EBMError: as `choose_column`.
    """
    return choose_column(path)[0]


def choose_column(path: Path, column: str | None = None) -> tuple[str, list[str]]:
    """The column that holds images, and what to say of the choice.

    Args:
        path: of the first file.
        column: the one that is wanted; by default by feature type, else by form and name.

    Raises:
        EBMError: there is none, or several may be meant; the message lists what there is.
    """
    schema = _open(path).schema_arrow
    binary = [field.name for field in schema if _is_binary(field.type)]
    if column is not None:
        if column in binary:
            return column, []
        raise _no_column(path, schema, f"has no column {column!r} of images")
    typed = [name for name in _typed(schema) if name in binary]
    candidates = typed or binary
    if not candidates:
        raise _no_column(path, schema, "has no column of images")
    return pick(candidates, path.name)


def pick(candidates: Sequence[str], where: str) -> tuple[str, list[str]]:
    """The column of images among several, and what to say of the choice.

    Raises:
        EBMError: none of them is called so that it must be it.
    """
    named = [name for wanted in _NAMES for name in candidates if name.lower() == wanted]
    plain = [name for name in candidates if not _ASIDE.search(name)]
    choice = named[:1] or (plain if len(plain) == 1 else list(candidates) if len(candidates) == 1 else [])
    if not choice:
        raise EBMError(
            f"{where} has several columns of images: {', '.join(candidates)[:300]}",
            "name one with `column` NAME, or DATA#column=NAME",
        )
    others = [name for name in candidates if name != choice[0]]
    note = f"column {choice[0]} is taken, {', '.join(others)[:100]} left (--column NAME takes another one)"
    return choice[0], [note] if others else []


def count(paths: Sequence[Path], column: str) -> int:
    """Rows of all files.

    Raises:
        EBMError: a file is damaged, or has not that column; the message names it.
    """
    total = 0
    for path in paths:
        file = _open(path)
        field = file.schema_arrow.field(column) if column in file.schema_arrow.names else None
        if field is None or not _is_binary(field.type):
            raise _no_column(path, file.schema_arrow, f"has no column {column!r} of images, as {paths[0].name} has")
        rows = int(file.metadata.num_rows)
        if not 0 <= rows <= max(1, path.stat().st_size):  # an image takes a byte at the very least
            raise _damaged(path, ValueError(f"it claims {rows:,} rows in {path.stat().st_size:,} bytes"))
        total += rows
    return total


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
                    yield f"{path.name}[{number}]", data if len(data) <= LARGEST else b""
                    number += 1
                    done += 1
        except (arrow.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
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
        return pyarrow.parquet.ParquetFile(
            path,
            buffer_size=_BUFFER,
            thrift_string_size_limit=_LONGEST,
            thrift_container_size_limit=_LONGEST,
        )
    except (arrow.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        raise _damaged(path, error) from error


def _is_binary(form: Any) -> bool:
    """Whether a column's type is that of encoded images: bytes, or a struct with bytes."""
    import pyarrow as arrow

    if arrow.types.is_struct(form):
        place = form.get_field_index("bytes")
        return place >= 0 and _is_binary(form.field(place).type)
    return arrow.types.is_binary(form) or arrow.types.is_large_binary(form)


def _typed(schema: Any) -> list[str]:
    """Columns that the file itself calls images."""
    said = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(said)["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _no_column(path: Path, schema: Any, what: str) -> EBMError:
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    return EBMError(f"{path.name} {what}: it has {there[:300]}", "expected encoded images (jpg, png)")


def _damaged(path: Path, error: Exception) -> EBMError:
    what = " ".join(str(error).split())[:200]
    return EBMError(f"{path} is not a whole parquet file: {what}", "copy or download it again")


def _choose(listing: Listing, files: list[File], split: str) -> list[File]:
    """Files named like the split; where no name tells of any split, all are the training set."""
    parts = [set(re.split(r"[^a-z]+", file.name.lower().removesuffix(".parquet"))) for file in files]
    of = {name: [f for f, words in zip(files, parts, strict=True) if words & set(SPLITS[name])] for name in SPLITS}
    if of[split]:
        return of[split]
    if split == "train" and (not any(of.values()) or not listing.is_folder):  # a file that is named is meant
        return files
    there = ", ".join(file.name for file in files[:5])
    raise EBMError(
        f"{listing.root} has no split {split!r}: no parquet file is named so (there: {there})",
        "name the file itself, or leave the split out",
    )

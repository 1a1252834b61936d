"""Pictures and arrays in files that say what made them, with the same bytes for the same content.

Every file is written under a temporary name beside its place and then renamed. What made it (model, hash,
seed, settings) is JSON with sorted keys: in a PNG as the text chunk `ebm`, in an npz as the array
`metadata`. Neither holds a time or a path unless the caller puts one there.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ebmcli.errors import EBMError, of_system
from ebmcli.media.grid import is_plane, to_uint8
from ebmcli.storage.files import write_whole
from ebmcli.text import shortened

KEY = "ebm"
"""Name of the PNG text chunk."""
WEBP_CHUNK = b"EBM "
"""Name of ours among the chunks of a WebP, whose readers pass over those they do not know."""

_NUMBERED = re.compile(r"\d{4,}\.png")


def save_png(image: Image.Image, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a PNG, with `metadata` in it; returns its path.

    Args:
        image: the picture.
        path: where to; folders on the way are made.
        metadata: what made it, as JSON can hold it.
    """
    info = PngInfo()
    if metadata is not None:
        info.add_text(KEY, as_text(metadata))  # ASCII, as tEXt wants it
    memory = io.BytesIO()
    image.save(memory, format="PNG", pnginfo=info, compress_level=6)
    return write_whole(Path(path), memory.getvalue())


def save_npz(images: Any, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> Path:
    """Write images as uint8 `[n c h w]` (points as float32 `[n 2]`) under `images`, and `metadata`.

    `numpy.load(path)` reads it; there is no pickle in it.
    """
    arrays = {"images": _array(images), "metadata": np.array(as_text(metadata or {}))}
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(entry, content.getvalue(), compresslevel=6)
    return write_whole(Path(path), memory.getvalue())


def save_folder(
    images: Any,
    folder: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> list[Path]:
    """Write one PNG an image, `0000.png` and on, unscaled, each with the metadata and its `index`.

    Raises:
        EBMError: the folder holds something already, and `force` is not given; with it, numbered
            pictures are replaced and everything else stays.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise EBMError(f"{folder} is a file, not a folder", "give another `out`")
    there = sorted(folder.iterdir()) if folder.exists() else []
    if there and not force:
        raise EBMError(f"{folder} is not empty: {len(there)} entries", "give another `out`, or `force`")
    for old in there:
        if _NUMBERED.fullmatch(old.name):
            old.unlink()
    array = to_uint8(images)
    digits = max(4, len(str(len(array) - 1)))
    paths = []
    for index, image in enumerate(array):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        own = None if metadata is None else {**metadata, "index": index}
        paths.append(save_png(Image.fromarray(pixels), folder / f"{index:0{digits}d}.png", own))
    return paths


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture, film or npz of ours says about itself.

    Raises:
        EBMError: there is no such file, it is none of these, or it says nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise EBMError(f"no such file: {path}", "give a picture, film or npz that ebm wrote")
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        text = _mp4_text(path)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        text = _webp_text(path)
    else:
        text = _npz_text(path) if zipfile.is_zipfile(path) else _image_text(path)
    try:
        value = json.loads(text) if text is not None else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EBMError(
            f"{path} does not say what made it",
            "only files that ebm wrote do, as long as no other program has saved them again",
        )
    return value


_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error, NotImplementedError, tokenize.TokenError,
)  # fmt: skip
"""What numpy and Python's zip reader raise for a damaged archive, whose headers are parsed as Python."""


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """The images uint8 `[n c h w]`, or points float32 `[n 2]`, of an npz that `save_npz` wrote.

    Raises:
        EBMError: there is no such file, it is damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = np.array(arrays["images"])
    except _UNREADABLE as error:
        raise EBMError(f"{path} is not a whole npz of images", "was it copied whole?") from error
    expected = images.dtype == np.uint8 if images.ndim == 4 else images.ndim == 2 and images.dtype == np.float32
    if not expected or not images.size:
        raise EBMError(f"{path} holds {images.dtype} {list(images.shape)}, expected images or points", "is it ours?")
    return images


def refuse_foreign(path: Path, force: bool) -> None:
    """Nothing, if a result may be written to `path`: it is free, or `ebm` wrote what is there, or `force`.

    Raises:
        EBMError: it is a folder, or something of another's, or nothing can be written there.
    """
    if path.is_dir():
        raise EBMError(f"{path} is a folder, not a file", "give a file name in `out`")
    check_place(path)
    if force or not path.exists():
        return
    try:
        read_metadata(path)
    except EBMError as error:
        raise EBMError(f"{path} exists and was not written by ebm", "give another `out`, or `force`") from error


def check_place(path: Path) -> None:
    """Nothing, if a file can be made under this name; asked before anything takes long, and tried out.

    Raises:
        EBMError: the system refuses it, because the folder is read-only, the disk full, or the name too long.
    """
    folder = next(p for p in path.absolute().parents if p.exists())
    name = path.name if folder == path.absolute().parent else ""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=name):
            pass  # gone again
    except OSError as error:
        raise of_system(error, f"cannot write {shortened(path)}") from None


def _mp4_text(path: Path) -> str | None:
    import av

    try:
        with av.open(str(path)) as file:
            return file.metadata.get("comment")
    except (OSError, ValueError):  # what PyAV raises are kinds of these
        raise EBMError(f"{path} is not a film that can be read", "give a film that ebm wrote") from None


def _webp_text(path: Path) -> str | None:
    """The content of the chunk that is ours; a file is a list of chunks."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            if head[:4] == WEBP_CHUNK:
                return file.read(length).decode("ascii", "replace")
            file.seek(length + length % 2, io.SEEK_CUR)
    return None


def _image_text(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            value = image.info.get("comment" if image.format == "GIF" else KEY)
            value = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise EBMError(f"{path} is not an image that can be read", "give a PNG or npz that ebm wrote") from None
    return value if isinstance(value, str) else None


def _npz_text(path: Path) -> str | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return str(arrays["metadata"][()]) if "metadata" in arrays else None
    except _UNREADABLE:
        raise EBMError(f"{path} is not an npz file that can be read", "give a PNG or npz that ebm wrote") from None


def _array(images: Any) -> np.ndarray:
    """uint8 images, or float32 points."""
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    array = np.asarray(images)
    if array.ndim == 2 or is_plane(array):
        return np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32)
    return np.ascontiguousarray(to_uint8(array))


def as_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON in ASCII, with sorted keys."""
    return json.dumps(dict(metadata), sort_keys=True, ensure_ascii=True, separators=(", ", ": "))

"""What a file is, told by its first bytes, where something else than weights lies under the name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

_DOWNLOAD = "download the file itself, not its page: its size should be that which the page tells"
_UNPACK = "unpack it, and give what is inside"
_PICTURE = "give the file with the weights"
_TEXT_SHOWN = 60
"""Letters of a text that a message shows."""


class Kind(NamedTuple):
    """A kind of file."""

    name: str
    """with its article, for messages: `is a gzip archive`"""
    hint: str


EMPTY = Kind("empty", "get the file again")
SAFETENSORS = Kind("a safetensors file", "")
PICKLE = Kind("a pickle", "")
TORCH = Kind("a .pth file of torch", "")
ZIP = Kind("a zip archive", _UNPACK)
_LFS = Kind(
    "a pointer of git-lfs, which stands for a file that was not fetched", "git lfs pull fetches it in its repository"
)
_PAGE = Kind("an HTML page", _DOWNLOAD)
_SIGNS = (
    (0, b"\x1f\x8b", Kind("a gzip archive", _UNPACK)),
    (0, b"BZh", Kind("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ", Kind("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstandard archive", _UNPACK)),
    (0, b"7z\xbc\xaf", Kind("a 7z archive", _UNPACK)),
    (0, b"Rar!", Kind("a rar archive", _UNPACK)),
    (257, b"ustar", Kind("a tar archive", _UNPACK)),
    (0, b"\x89HDF", Kind("an HDF5 file", "save its weights with torch.save, under the names of the network's layers")),
    (0, b"GGUF", Kind("a GGUF file", "those are language models, which are no energies of images")),
    (0, b"\x93NUMPY", Kind("an array of numpy", "save a state dict with torch.save")),
    (0, b"\x89PNG", Kind("a picture", _PICTURE)),
    (0, b"\xff\xd8\xff", Kind("a picture", _PICTURE)),
    (0, b"GIF8", Kind("a picture", _PICTURE)),
    (0, b"%PDF", Kind("a PDF", _PICTURE)),
    (0, b"\x7fELF", Kind("a program", _PICTURE)),
)


def kind_of(path: Path) -> Kind | None:
    """What a file's first bytes say it is; None where they say nothing.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return EMPTY
    # A safetensors file begins with its header's length, which may begin like anything; the header itself tells.
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":
        return SAFETENSORS
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return TORCH if _is_of_torch(path) else ZIP
    signed = next((kind for at, sign, kind in _SIGNS if head[at : at + len(sign)] == sign), None)
    if signed is not None:
        return signed
    return PICKLE if head[:1] == b"\x80" else _text(head)


def _is_of_torch(path: Path) -> bool:
    """Whether an archive has torch's pickle in it, or is too damaged to tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True  # cut off: what torch says of it is the better word


def _text(head: bytes) -> Kind | None:
    """What a text is; None for other bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        return _LFS
    if start[:1] == b"<" and any(word in start.lower() for word in (b"<!doctype html", b"<html", b"<head", b"<body")):
        return _PAGE
    text = head.decode("utf-8", errors="ignore")  # the last letter may be cut in two
    if len(text.encode()) < len(head) - 3 or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return None
    words = " ".join(text.split())
    shown = words[:_TEXT_SHOWN] + ("…" if len(words) > _TEXT_SHOWN else "")
    what = "XML" if start[:1] == b"<" else "JSON" if start[:1] in (b"{", b"[") else "text"
    return Kind(f"{what}: {shown!r}", _DOWNLOAD)

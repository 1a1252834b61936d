"""GIF, WebP and APNG written a frame at a time, in memory that does not grow with the length.

Pillow encodes each frame by itself (its own writers of animations hold every frame until the end); what follows puts
the encoded frames into the three containers. Only the rectangle that changed is stored, and a frame that repeats the
one before makes that one last longer.
"""

from __future__ import annotations

import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple, Protocol

from PIL import GifImagePlugin, Image, ImageChops

from ebmcli.media.files import KEY, WEBP_CHUNK, as_text

_QUALITY = 92
"""Of WebP frames, 0 to 100."""


class Writer(Protocol):
    """Where frames go, one after the other."""

    def write(self, frame: Image.Image) -> None:
        """Add a frame, RGB, of the size the writer was made for."""
        ...

    def close(self) -> None:
        """Write what is still held back and what belongs at the end."""
        ...


class _Piece(NamedTuple):
    """What changed, where, and for how many frames it is shown."""

    image: Image.Image
    left: int
    top: int
    start: int
    frames: int


class _Animation(ABC):
    """Finds what changed from frame to frame, for containers that store it.

    Args:
        file: open for writing and seeking.
        size: width and height, px.
        fps: frames a second.
        metadata: what made it.
    """

    align = 1
    """Left and top of a piece are multiples of this."""

    def __init__(self, file: IO[bytes], size: tuple[int, int], fps: float, metadata: Mapping[str, Any]) -> None:
        self.file, self.size, self.fps = file, size, fps
        self.text = as_text(metadata)
        self.pieces = 0
        self._shown: Image.Image | None = None
        self._pending: _Piece | None = None
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Write the head of the file."""

    @abstractmethod
    def put(self, piece: _Piece) -> None:
        """Write one piece."""

    @abstractmethod
    def end(self) -> None:
        """Write the end of the file."""

    def write(self, frame: Image.Image) -> None:
        """Add a frame, RGB."""
        box: tuple[int, int, int, int] | None = (0, 0, *self.size)
        if self._shown is not None:
            box = ImageChops.difference(self._shown, frame).getbbox()
        if box is None:
            assert self._pending is not None
            self._pending = self._pending._replace(frames=self._pending.frames + 1)
            return
        start = 0
        if self._pending is not None:
            start = self._pending.start + self._pending.frames
            self._flush()
        left, top = (v - v % self.align for v in box[:2])
        self._pending = _Piece(frame.crop((left, top, *box[2:])), left, top, start, 1)
        self._shown = frame

    def close(self) -> None:
        """Write the last piece and the end of the file."""
        if self._pending is not None:
            self._flush()
        self.end()

    def _flush(self) -> None:
        assert self._pending is not None
        self.put(self._pending)
        self.pieces += 1

    def _lasts(self, piece: _Piece, unit: int) -> int:
        """How long a piece is shown, in `unit`ths of a second; rounding does not add up."""
        end = piece.start + piece.frames
        return round(end * unit / self.fps) - round(piece.start * unit / self.fps)


class Gif(_Animation):
    """GIF89a, a palette of its own for every piece, looping."""

    def begin(self) -> None:
        """Write the head."""
        self.file.write(b"GIF89a" + struct.pack("<HHBBB", *self.size, 0x70, 0, 0))
        self.file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
        comment = self.text.encode("ascii")
        parts = [comment[i : i + 255] for i in range(0, len(comment), 255)]
        self.file.write(b"\x21\xfe" + b"".join(bytes([len(p)]) + p for p in parts) + b"\x00")

    def put(self, piece: _Piece) -> None:
        """Write one piece."""
        picture = piece.image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        hundredths = max(2, self._lasts(piece, 100))
        parts = GifImagePlugin.getdata(
            picture, (piece.left, piece.top), duration=10 * hundredths, disposal=1, include_color_table=True
        )
        self.file.write(b"".join(parts))

    def end(self) -> None:
        """Write the end."""
        self.file.write(b"\x3b")


class Apng(_Animation):
    """Animated PNG, lossless, looping; its text chunk is that of our other PNGs."""

    def begin(self) -> None:
        """Write the head; how many pieces there are is filled in at the end."""
        self._sequence = 0
        self.file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", *self.size, 8, 2, 0, 0, 0))
        self._count_at = self.file.tell()
        self._chunk(b"acTL", struct.pack(">II", 0, 0))
        self._chunk(b"tEXt", KEY.encode() + b"\0" + self.text.encode("ascii"))

    def put(self, piece: _Piece) -> None:
        """Write one piece."""
        memory = io.BytesIO()
        piece.image.save(memory, format="PNG", compress_level=6)
        milliseconds = min(65535, self._lasts(piece, 1000))
        place = (*piece.image.size, piece.left, piece.top)
        self._chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *place, milliseconds, 1000, 0, 0))
        for kind, content in _png_chunks(memory.getvalue()):
            if kind == b"IDAT" and self.pieces == 0:
                self._chunk(b"IDAT", content)
            elif kind == b"IDAT":
                self._chunk(b"fdAT", struct.pack(">I", self._next()) + content)

    def end(self) -> None:
        """Write the end."""
        self._chunk(b"IEND", b"")
        self.file.seek(self._count_at)
        self._chunk(b"acTL", struct.pack(">II", self.pieces, 0))
        self.file.seek(0, io.SEEK_END)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _chunk(self, kind: bytes, content: bytes) -> None:
        checked = kind + content
        self.file.write(struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked)))


class Webp(_Animation):
    """Animated WebP, lossy, looping."""

    align = 2

    def begin(self) -> None:
        """Write the head; the file's length is filled in at the end."""
        self.file.write(b"RIFF\0\0\0\0WEBP")
        animation = 0x02
        self._chunk(b"VP8X", struct.pack("<I", animation) + _three(self.size[0] - 1) + _three(self.size[1] - 1))
        self._chunk(b"ANIM", struct.pack("<IH", 0xFF000000, 0))

    def put(self, piece: _Piece) -> None:
        """Write one piece."""
        memory = io.BytesIO()
        piece.image.save(memory, format="WEBP", quality=_QUALITY, method=3)
        image = memory.getvalue()[12:]
        width, height = piece.image.size
        place = (piece.left // 2, piece.top // 2, width - 1, height - 1, self._lasts(piece, 1000))
        overwrite = b"\x02"
        self._chunk(b"ANMF", b"".join(map(_three, place)) + overwrite + image)

    def end(self) -> None:
        """Write the end."""
        self._chunk(WEBP_CHUNK, self.text.encode("ascii"))
        length = self.file.tell()
        self.file.seek(4)
        self.file.write(struct.pack("<I", length - 8))
        self.file.seek(0, io.SEEK_END)

    def _chunk(self, kind: bytes, content: bytes) -> None:
        self.file.write(kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2))


def _three(value: int) -> bytes:
    """A number as three bytes, least first."""
    return value.to_bytes(3, "little")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk of a PNG."""
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length

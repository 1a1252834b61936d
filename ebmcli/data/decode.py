"""From files to squares of uint8: one image with Pillow, and many on all cores, in order, in flat memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ebmcli.data.source import LARGEST
from ebmcli.errors import EBMError
from ebmcli.storage.plain import check_plain
from ebmcli.text import shortened

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ebmcli.data.cache import Writer
    from ebmcli.data.source import Item, Source

log = logging.getLogger("ebmcli.data")

_CHUNK = 64  # images a worker takes at once
_HELD = 16 * 2**20  # bytes of encoded images in one chunk, from where the next begins
_IN_FLIGHT = 256 * 2**20  # bytes of encoded images in all chunks that wait
_SHOWN = 3  # names in a message
_ROOM = 640 * 2**20  # bytes of pictures that are unpacked at one time
_STRIP = 512  # rows that are converted at once
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "DIB", "AVIF", "JPEG2000", "TGA", "PCX", "ICO", "QOI")
"""Formats that Pillow may take a file for; others need programs of their own, or are no pictures."""
FRAMES = "are animated or have several pages, of which the first is taken"


@dataclass(frozen=True)
class Form:
    """What every image is brought to.

    Attributes:
        image_size: side of the square, px.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB; grey images repeated).
        crop: side, px, of the square cut from the centre before the resize (what there is of it in a smaller
            image); None for no cut.

    Raises:
        EBMError: a size below 1 px, or other channels.
    """

    image_size: int
    channels: int
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise EBMError(f"images have 1 or 3 channels, received {self.channels}", "1 is grey, 3 is RGB")
        for what, value in (("image_size", self.image_size), ("crop", self.crop)):
            if value is not None and value < 1:
                raise EBMError(f"{what} must be at least 1 px, received {value}", "give a size in pixels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        return (self.channels, self.image_size, self.image_size)

    def __str__(self) -> str:
        kind = "grey" if self.channels == 1 else "RGB"
        cut = f"centre cut of {self.crop} px, " if self.crop else ""
        return f"{cut}{self.image_size}×{self.image_size} px, {kind}"


def fit(image: Image, form: Form) -> np.ndarray:
    """One image as uint8 `[c h w]`: turned as EXIF says, on white, in the channels asked for, cut, resized.

    After the cut of `crop` px the short side is resized bilinearly with antialiasing and the centre kept; a
    square that has the size already keeps its bytes.
    """
    import numpy as np
    from PIL import Image as pil
    from PIL import ImageOps

    image.load()  # what is damaged in the pixels shows here
    with suppress(SyntaxError):  # damaged EXIF says nothing about the pixels: the picture stays as it is
        ImageOps.exif_transpose(image, in_place=True)
    mode = "L" if form.channels == 1 else "RGB"
    if image.mode != mode or image.has_transparency_data:
        image = _by_strips(image, mode, _plain(image, mode))
    if form.crop:
        image = image.crop(_centre(image, min(form.crop, image.width), min(form.crop, image.height)))
    side = min(image.size)
    box = _centre(image, side, side)
    if side == form.image_size:
        image = image.crop(box)
    else:
        size = (form.image_size, form.image_size)
        image = image.resize(size, pil.Resampling.BILINEAR, box=box)
    pixels = np.asarray(image).reshape(form.image_size, form.image_size, form.channels)
    return pixels.transpose(2, 0, 1)


def _plain(image: Image, mode: str) -> Callable[[Image], Image]:
    """What brings an image, or a part of it, to 8 bits without transparency in `mode`, pixel by pixel.

    Raises:
        ValueError: its values are no brightness in 0..1, 0..255 or 0..65535.
    """
    import numpy as np
    from PIL import Image as pil

    deep, real = image.mode.startswith("I"), image.mode == "F"
    values = np.asarray(image) if deep or real else np.zeros(1)
    low, high = values.min(), values.max()
    del values
    if deep and not 0 <= low <= high <= 65535:
        raise ValueError(f"integers from {low} to {high}, not from 0 to 65535")
    if real and not 0 <= low <= high <= 255:
        raise ValueError(f"floats from {low:g} to {high:g}, neither in 0..1 nor in 0..255")
    factor = 255 if high <= 1 else 1

    def plain(part: Image) -> Image:
        if deep:  # 16-bit grey: 0..65535 -> 0..255, rounded
            part = pil.fromarray(((np.asarray(part).astype(np.uint32) + 128) // 257).astype(np.uint8))
        elif real:
            part = pil.fromarray((np.asarray(part) * factor).round().astype(np.uint8))
        if part.has_transparency_data:
            part = part.convert("RGBA")
            part = pil.alpha_composite(pil.new("RGBA", part.size, "white"), part)
        return part.convert(mode)

    return plain


def _by_strips(image: Image, mode: str, convert: Callable[[Image], Image]) -> Image:
    """A pixelwise conversion that takes little memory beside the picture and its result."""
    from PIL import Image as pil

    if image.height <= _STRIP:
        return convert(image)
    whole = pil.new(mode, image.size)
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        whole.paste(convert(image.crop(box)), box)
    return whole


def _centre(image: Image, width: int, height: int) -> tuple[int, int, int, int]:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return (left, top, left + width, top + height)


def decode(
    source: Source,
    count: int,
    form: Form,
    sink: Writer,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode the first `count` images on all cores and hand them to `sink` in order; what it has already is skipped.

    Images that cannot be decoded are left out. Pillow decodes and resizes without the interpreter's lock, so
    threads use all cores; a few chunks are in flight at a time, so memory does not grow with the set. The digests
    are of the images as stored (encoded files, or pixels of arrays), in order, before any resize: the identity
    that they make depends on no name, path, time or compression of an array.

    Raises:
        EBMError: more than half of the images cannot be decoded, or a file breaks its own format.
    """
    items = source.items(count)
    if sink.items:
        log.info(f"going on after {sink.items:,} images that were decoded before")
        items = itertools.islice(items, sink.items, None)
    with warnings.catch_warnings():
        # Pillow's remarks on odd but readable files would tear a progress bar.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for chunk in _in_order(items, form):
            sink.append(*chunk)
            if 2 * len(sink.bad) > count:
                raise _mostly_bad(sink.bad, sink.items, source)
            if progress:
                progress(sink.items, count)


class Chunk(NamedTuple):
    """Some images in their order.

    Attributes:
        block: those that could be decoded, [b c h w] uint8.
        digests: 32 bytes for each of all.
        broken: name and reason of those that could not.
        remarks: what was done with how many of them.
    """

    block: np.ndarray
    digests: bytes
    broken: dict[str, str]
    remarks: Counter[str]


def _in_order(items: Iterator[Item], form: Form) -> Iterator[Chunk]:
    """Chunks of decoded images in the order of `items`, with two chunks a core in flight."""
    workers = _cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Future[Chunk], int]] = deque()
        try:
            for chunk in _chunks(items):
                waiting.append((pool.submit(_decode_chunk, chunk, form), sum(map(_bytes, chunk))))
                while len(waiting) > 2 * workers or (waiting and sum(size for _, size in waiting) > _IN_FLIGHT):
                    yield waiting.popleft()[0].result()
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """The items, some at a time: so many, or so many bytes in memory."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        held += _bytes(item)
        chunk.append(item)
        if len(chunk) == _CHUNK or held >= _HELD:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _bytes(item: Item) -> int:
    """Bytes of an item in memory."""
    payload = item[1]
    return len(payload) if isinstance(payload, bytes) else 0 if isinstance(payload, Path) else payload.nbytes


def _decode_chunk(chunk: list[Item], form: Form) -> Chunk:
    import numpy as np

    block = np.empty((len(chunk), *form.shape), dtype=np.uint8)
    digests, broken, kept = [], {}, 0
    remarks: Counter[str] = Counter()
    for name, payload in chunk:
        digest = b""
        try:
            if isinstance(payload, Path | bytes):
                data = payload if isinstance(payload, bytes) else read_picture(payload)
                digest = hashlib.sha256(data).digest()
                block[kept] = _decode_file(data, form, remarks)
            else:
                digest = hashlib.sha256(np.ascontiguousarray(payload).data).digest()
                block[kept] = _decode_pixels(payload, form)
            kept += 1
        except MemoryError:
            raise
        except Exception as error:  # what damaged files make Pillow raise is not one class
            broken[name] = str(error) or type(error).__name__
        digests.append(digest)
    return Chunk(block[:kept], b"".join(digests), broken, remarks)


def read_picture(path: Path) -> bytes:
    """The bytes of an encoded picture.

    Raises:
        EBMError: it is no regular file, or larger than pictures are.
    """
    check_plain(path, LARGEST)
    return path.read_bytes()


def _decode_file(data: bytes, form: Form, remarks: Counter[str]) -> np.ndarray:
    if not data:
        raise ValueError("0 bytes")
    with open_picture(data) as image, _room(image):
        # A photograph may have a preview beside it (MPO): its first picture is the photograph.
        several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        pixels = fit(image, form)
    remarks.update([FRAMES] * several)
    return pixels


def open_picture(data: bytes) -> Image:
    """An encoded picture, of which only the header was read.

    Raises:
        ValueError: it is none, or none that is read.
        PIL.Image.DecompressionBombError: it would unpack to more pixels than pictures have.
    """
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    pil.init()
    try:
        return pil.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in pil.OPEN])
    except UnidentifiedImageError:
        raise ValueError(f"no picture that is read: it begins with {data[:8]!r}") from None


_used, _free = 0, threading.Condition()


@contextmanager
def _room(image: Image) -> Iterator[None]:
    """Wait until there is memory for the picture beside those that other threads unpack."""
    global _used
    need = 4 * image.width * image.height * (1 if image.mode in ("RGB", "L") else 2)
    if need > 2**30:
        raise ValueError(f"{image.width}×{image.height} px of {image.mode} are too many")
    with _free:
        _free.wait_for(lambda: _used == 0 or _used + need <= _ROOM)
        _used += need
    try:
        yield
    finally:
        with _free:
            _used -= need
            _free.notify_all()


def _decode_pixels(pixels: np.ndarray, form: Form) -> np.ndarray:
    import numpy as np
    from PIL import Image as pil

    if form.shape == (1, *pixels.shape) and not (form.crop and form.crop < form.image_size):
        return pixels[None]
    return fit(pil.fromarray(np.ascontiguousarray(pixels)), form)


def _mostly_bad(bad: dict[str, str], done: int, source: Source) -> EBMError:
    some = itertools.islice(bad.items(), _SHOWN)
    shown = "; ".join(f"{shortened(name, 80)} ({shortened(reason)})" for name, reason in some)
    where = f", in {source.files[0].path}" if len(source.files) == 1 else ""
    return EBMError(
        f"most images cannot be decoded: {len(bad):,} of the first {done:,} of {source.count:,}, as {shown}{where}",
        "check that the files were copied whole and are images",
    )


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1

"""From files to squares of uint8: one image with Pillow, and many on all cores, in order, in flat memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ebmcli.errors import EBMError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ebmcli.data.cache import Writer
    from ebmcli.data.source import Item, Source

log = logging.getLogger("ebmcli.data")

_CHUNK = 64  # images a worker takes at once
_HELD = 16 * 2**20  # bytes of encoded images in one chunk, from where the next begins
_SHOWN = 3  # names in a message


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
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: 0..65535 -> 0..255, rounded
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = pil.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if form.channels == 1 else "RGB")
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
        for block, digests, broken in _in_order(items, form):
            sink.append(block, digests, broken)
            if 2 * len(sink.bad) > count:
                raise _mostly_bad(sink.bad, sink.items, source)
            if progress:
                progress(sink.items, count)


Chunk = tuple["np.ndarray", bytes, dict[str, str]]


def _in_order(items: Iterator[Item], form: Form) -> Iterator[Chunk]:
    """Chunks of decoded images in the order of `items`, with two chunks a core in flight."""
    workers = _cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Chunk]] = deque()
        try:
            for chunk in _chunks(items):
                waiting.append(pool.submit(_decode_chunk, chunk, form))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """The items, some at a time: so many, or so many bytes in memory."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        payload = item[1]
        held += len(payload) if isinstance(payload, bytes) else 0 if isinstance(payload, Path) else payload.nbytes
        chunk.append(item)
        if len(chunk) == _CHUNK or held >= _HELD:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[Item], form: Form) -> Chunk:
    """Images `[b c h w]` that could be decoded, digests of all, name and reason of those that could not."""
    import numpy as np

    block = np.empty((len(chunk), *form.shape), dtype=np.uint8)
    digests, broken, kept = [], {}, 0
    for name, payload in chunk:
        digest = b""
        try:
            if isinstance(payload, Path | bytes):
                data = payload if isinstance(payload, bytes) else payload.read_bytes()
                digest = hashlib.sha256(data).digest()
                block[kept] = _decode_file(data, form)
            else:
                digest = hashlib.sha256(np.ascontiguousarray(payload).data).digest()
                block[kept] = _decode_pixels(payload, form)
            kept += 1
        except MemoryError:
            raise
        except Exception as error:  # what damaged files make Pillow raise is not one class
            broken[name] = str(error) or type(error).__name__
        digests.append(digest)
    return block[:kept], b"".join(digests), broken


def _decode_file(data: bytes, form: Form) -> np.ndarray:
    from PIL import Image as pil

    if not data:
        raise ValueError("0 bytes")
    with pil.open(io.BytesIO(data)) as image:
        return fit(image, form)


def _decode_pixels(pixels: np.ndarray, form: Form) -> np.ndarray:
    import numpy as np
    from PIL import Image as pil

    if form.shape == (1, *pixels.shape) and not (form.crop and form.crop < form.image_size):
        return pixels[None]
    return fit(pil.fromarray(np.ascontiguousarray(pixels)), form)


def _mostly_bad(bad: dict[str, str], done: int, source: Source) -> EBMError:
    shown = "; ".join(f"{name} ({reason})" for name, reason in itertools.islice(bad.items(), _SHOWN))
    return EBMError(
        f"most images cannot be decoded: {len(bad):,} of the first {done:,} of {source.count:,}, as {shown}",
        "check that the files were copied whole and are images",
    )


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1

"""Films: frames from a generator into one file, mp4, GIF, WebP or APNG by its name.

Frames are encoded as they come and the file grows under a temporary name, so that memory does not depend on the length
and nothing half written is left. H.264 is written with 4:2:0 colours (BT.709), even sides and the index at the front:
what browsers, phones and slides play.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ebmcli.errors import EBMError, UsageError
from ebmcli.media.animation import Apng, Gif, Webp, Writer
from ebmcli.media.files import as_text
from ebmcli.storage.files import replacing

_CRF = "19"
"""Quality of H.264, 0 (lossless) to 51; 18 to 20 cannot be told from the source at a normal distance."""
_BT709 = 1
"""Number of ITU-R BT.709 in the tables of ISO/IEC 23091-2 for primaries, transfer and matrix."""


class Film(NamedTuple):
    """A film that was written."""

    path: Path
    frames: int
    seconds: float
    size: tuple[int, int]
    """width and height, px"""


class _Mp4:
    """H.264 in an mp4 container, by PyAV."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, metadata: Mapping[str, Any]) -> None:
        import av

        self._av = av
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._file.metadata["comment"] = as_text(metadata)
        stream: Any = self._file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _CRF, "preset": "medium", "profile": "high"}
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1  # 16 to 235, "limited"
        self._stream = stream

    def write(self, frame: Image.Image) -> None:
        """Add a frame, RGB."""
        image = self._av.VideoFrame.from_image(frame)
        image = image.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self._file.mux(self._stream.encode(image))

    def close(self) -> None:
        """Encode what is still held back, and move the index to the front."""
        self._file.mux(self._stream.encode(None))
        self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._file.close()
        # PyAV keeps the threads of its colour conversion for the life of this one, and a later fork would wait for
        # them for ever; without the object that holds them they end.
        held: Any = getattr(self._av.video.frame, "_thread_local", None)
        if getattr(held, "reformatter", None) is not None:
            del held.reformatter


FORMATS: dict[str, Callable[..., Writer] | None] = {".mp4": None, ".gif": Gif, ".webp": Webp, ".apng": Apng}
"""By the end of the file's name; None is H.264, which writes by path and not into a file."""


def check_name(path: Path, fps: float = 30.0) -> None:
    """Nothing, if a film can be written under this name.

    Raises:
        UsageError: its ending is not of `FORMATS`, or a GIF cannot be that fast.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {path} is not a film's name", f"let it end in {', '.join(FORMATS)}")
    if path.suffix.lower() == ".gif" and fps > 50:
        raise UsageError(f"a GIF shows 50 frames a second at most, received {fps:g}", "use `fps` 25, or mp4")


def save_video(
    path: Path, frames: Iterable[np.ndarray | Image.Image], fps: float, metadata: Mapping[str, Any] | None = None
) -> Film:
    """Write a film; it replaces what has its name once it is whole.

    Args:
        path: its ending decides the format.
        frames: uint8 [h w 3] or RGB pictures, all of one size; drawn from as they are written. Odd sides are made
            even by repeating the last column or row; nothing is rescaled.
        fps: frames a second.
        metadata: what made it.

    Raises:
        UsageError: as `check_name`.
        EBMError: no frames, frames of different sizes, or the file cannot be written.
    """
    check_name(path, fps)
    pictures = (_even(f if isinstance(f, Image.Image) else Image.fromarray(f)) for f in frames)
    first = next(pictures, None)
    if first is None:
        raise EBMError(f"there are no frames to write to {path}")
    make = FORMATS[path.suffix.lower()]
    count = 0
    with replacing(path) as temporary:
        if make is None:
            mp4 = _Mp4(temporary, first.size, fps, metadata or {})
            try:
                for count, picture in enumerate(chain([first], pictures), 1):  # noqa: B007 - the last count is used
                    mp4.write(_same(picture, first))
                mp4.close()
            except BaseException:
                _quietly(mp4.abandon)
                raise
        else:
            with open(temporary, "w+b") as file:
                writer = make(file, first.size, fps, metadata or {})
                for count, picture in enumerate(chain([first], pictures), 1):  # noqa: B007 - the last count is used
                    writer.write(_same(picture, first))
                writer.close()
    return Film(path, count, count / fps, first.size)


def _even(picture: Image.Image) -> Image.Image:
    """The picture with even sides."""
    width, height = picture.size
    if width % 2 == 0 and height % 2 == 0:
        return picture
    pixels = np.asarray(picture)
    return Image.fromarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _same(picture: Image.Image, first: Image.Image) -> Image.Image:
    if picture.size != first.size:
        raise EBMError(f"a frame of {picture.size} px in a film of {first.size} px")
    return picture


def _quietly(close: Callable[[], None]) -> None:
    """Close a file whose writing has failed: it fails again, and that is known."""
    try:
        close()
    except Exception:
        return

"""Pictures of samples: grids of images, heat pictures of 2-D points, and a preview for terminals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from ebmcli.errors import EBMError

_HEAT = np.array(
    [
        (8, 8, 20),
        (40, 18, 90),
        (110, 25, 125),
        (190, 55, 95),
        (240, 120, 45),
        (252, 200, 90),
        (255, 255, 230),
    ],
    dtype=np.float64,
)
"""Colours of a heat picture from nothing to most, dark to light."""


def to_uint8(images: Any) -> np.ndarray:
    """Images as uint8.

    Args:
        images: `[n c h w]` or `[c h w]`, 1 or 3 channels; uint8, or floating point in [-1, 1] (values outside
            are cut off, values that are no numbers become mid grey). A tensor or an array.

    Returns:
        uint8 array `[n c h w]`.

    Raises:
        EBMError: the shape is another one.
    """
    if hasattr(images, "detach"):
        tensor = images.detach().cpu()
        images = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise EBMError(
            f"expected images [n c h w] with 1 or 3 channels, received shape {list(array.shape)}",
            "2-D points go to scatter" if array.ndim == 2 else "",
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise EBMError(f"expected images as uint8 or floating point, received {array.dtype}")
    array = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.rint((np.clip(array, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def is_plane(images: Any) -> bool:
    """Whether these are points in the plane, `[n 2 1 1]`, and not images."""
    return tuple(images.shape[1:]) == (2, 1, 1)


def picture(images: Any) -> Image.Image:
    """What states of a model look like: a heat picture of points in the plane, a grid of images."""
    return scatter(images) if is_plane(images) else grid(images)


def grid(images: Any, columns: int = 8, padding: int = 2, scale: int | None = None, width: int = 600) -> Image.Image:
    """Images side by side, row by row, each pixel drawn as `scale × scale` pixels.

    Args:
        images: as `to_uint8` takes them.
        columns: images in a row (fewer, if there are fewer images).
        padding: pixels between images and around them.
        scale: integer magnification; left out, what brings the picture to about `width` pixels.
        width: the width aimed at, in pixels; a picture is never made smaller than its images are.
    """
    array = to_uint8(images)
    n, channels, h, w = array.shape
    columns = max(1, min(columns, n))
    rows = math.ceil(n / columns)
    if scale is None:
        scale = max(1, round((width - padding * (columns + 1)) / (columns * w)))
    array = array.repeat(scale, axis=2).repeat(scale, axis=3)
    h, w = h * scale, w * scale
    sheet = np.zeros((rows * (h + padding) + padding, columns * (w + padding) + padding, channels), dtype=np.uint8)
    for number, image in enumerate(array):
        row, column = divmod(number, columns)
        top, left = padding + row * (h + padding), padding + column * (w + padding)
        sheet[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def scatter(
    points: Any, size: int = 480, bounds: tuple[float, float] | None = None, bins: int | None = None
) -> Image.Image:
    """2-D points as a heat picture: a histogram, logarithmic in the count, the second coordinate upwards.

    Args:
        points: `[n 2]` (or anything of n rows with two numbers each, such as `[n 2 1 1]`); points that are no
            numbers, or outside the bounds, are not drawn.
        size: width and height in pixels.
        bounds: least and greatest coordinate of both axes; left out, a symmetric square that holds all but
            the furthest one in a thousand.
        bins: histogram cells per side; left out, by the number of points.
    """
    if hasattr(points, "detach"):
        points = points.detach().cpu().double().numpy()
    array = np.asarray(points, dtype=np.float64)
    if array.ndim < 2 or array.size != 2 * len(array):
        raise EBMError(f"expected points [n 2], received shape {list(array.shape)}")
    array = array.reshape(-1, 2)
    array = array[np.isfinite(array).all(axis=1)]
    if bounds is None:
        reach = float(np.quantile(np.abs(array).max(axis=1), 0.999)) if len(array) else 1.0
        bounds = (-1.1 * reach, 1.1 * reach) if reach > 0 else (-1.0, 1.0)
    if bins is None:
        bins = int(np.clip(2 * math.sqrt(len(array)), 40, size))
    counts, _, _ = np.histogram2d(array[:, 0], array[:, 1], bins=bins, range=[bounds, bounds])
    heat = np.log1p(counts.T[::-1])
    heat = heat / heat.max() if heat.max() > 0 else heat
    return _colours(heat).resize((size, size), Image.Resampling.NEAREST)


def heat(values: Any, scale: int = 1) -> Image.Image:
    """An array `[h w]` as a heat picture: its least value dark, its greatest light (an energy on a plane)."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim != 2:
        raise EBMError(f"expected values [h w], received shape {list(array.shape)}")
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    picture = _colours(np.nan_to_num((array - low) / (high - low)) if high > low else np.zeros_like(array))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _colours(heat: np.ndarray) -> Image.Image:
    """Values in [0, 1] as colours."""
    stops = np.linspace(0.0, 1.0, len(_HEAT))
    channels = [np.interp(heat, stops, _HEAT[:, channel]) for channel in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))


def terminal(image: Image.Image, columns: int = 80) -> str:
    """A picture as text: two pixels a character (upper half block), 24-bit colours.

    Args:
        image: the picture; scaled to `columns` characters at most.
        columns: characters in a line.
    """
    picture = image.convert("RGB")
    width = min(columns, picture.width)
    height = max(2, round(picture.height * width / picture.width))
    picture = picture.resize((width, height + height % 2), Image.Resampling.BOX)
    pixels = np.asarray(picture)
    lines = []
    for top, bottom in zip(pixels[0::2], pixels[1::2], strict=True):
        cells = [
            "\033[38;2;{};{};{}m\033[48;2;{};{};{}m▀".format(*upper, *lower)
            for upper, lower in zip(top.tolist(), bottom.tolist(), strict=True)
        ]
        lines.append("".join(cells) + "\033[0m")
    return "\n".join(lines)

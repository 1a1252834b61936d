"""What decoded images are like that somebody should know before learning from them: all dark, all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NARROW = 51
"""Of the 255 steps from black to white: images whose values span no more lie in a small part of the range."""
_TAIL = 0.001
"""Share of the values at either end that are not counted: single bright pixels make no picture bright."""
_VALUES = 2**22
"""Values that are looked at, of images evenly over the set."""


def doubts(pixels: np.ndarray) -> list[str]:
    """What is odd about images `[n c h w]` uint8, one line each with figures and what to do."""
    import numpy as np

    n = len(pixels)
    if not n:
        return ["there are no images in it"]
    looked = max(1, min(n, _VALUES // max(1, int(np.prod(pixels.shape[1:])))))
    some = np.asarray(pixels[:: -(-n // looked)])
    counts = np.bincount(some.reshape(-1), minlength=256).cumsum()
    low = int(np.searchsorted(counts, _TAIL * counts[-1], side="right"))
    high = int(np.searchsorted(counts, (1 - _TAIL) * counts[-1], side="left"))
    least, most = (int(v) for v in (some.min(), some.max()))
    found = []
    if least == most:
        found.append(f"every value is {least} of 255: the pictures are empty")
    elif high - low <= NARROW and (high <= NARROW or low >= 255 - NARROW or most - least <= NARROW):
        kind = "nearly black" if high <= NARROW else "nearly white" if low >= 255 - NARROW else "in a narrow range"
        found.append(
            f"the pictures are {kind}: 99.8% of the values lie in {low} to {high} of 255, "
            f"a small part of the range ({_signed(low)} to {_signed(high)} of -1 to 1); {_advice(low, high, most)}"
        )
    if len(some) > 1 and least != most and (some == some[:1]).all():
        found.append(f"all {len(some):,} pictures that were looked at are the same")
    return found


def _advice(low: int, high: int, most: int) -> str:
    """What may have happened, and what to do about it."""
    if most == 1:
        return "multiply masks of 0 and 1, and floats that were divided by 255 twice, by 255"
    if most <= 16:
        return "values of 12 bits in a file of 16 are to be multiplied by 16, numbers of classes by 255 / the greatest"
    return f"if they should fill it, save (values - {low}) * (255 / {max(1, high - low)})"


def _signed(value: int) -> str:
    return f"{value / 127.5 - 1:.2f}"

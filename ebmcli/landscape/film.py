"""A path between two states as a film: the state on its way, and its energy."""

from __future__ import annotations

import math
from collections.abc import Iterator

from PIL import Image
from torch import Tensor

from ebmcli.landscape.barriers import points
from ebmcli.media.curve import BACKDROP, Curve, Spread
from ebmcli.media.film import Box, sheet

_SIDE, _PAD = 448, 32
"""Of the state's picture and around it, px."""
_UNKNOWN = Spread(math.nan, math.nan, math.nan)


def frames(path: Tensor, energy: Tensor) -> Iterator[Image.Image]:
    """There and back, a frame for each of the path's `barriers.points`.

    Args:
        path: [k c h w] on the CPU.
        energy: U there, as `barriers.profile` gives it.
    """
    states = points(path)
    values = energy.tolist()
    n = len(values)
    for here in [*range(n), *range(n - 2, 0, -1)]:
        curve = Curve((2 * _SIDE - _PAD, _SIDE), 22, 2, None)
        for number, u in enumerate(values):
            all_of_it = Spread(u, u, u)
            curve.add(number / (n - 1), [all_of_it, all_of_it if number <= here else _UNKNOWN])
        frame = Image.new("RGB", (3 * _SIDE + 2 * _PAD, _SIDE + 2 * _PAD), BACKDROP)
        state = sheet(states[here : here + 1], Box(0, 0, _SIDE, _SIDE))
        frame.paste(state, (_PAD, _PAD))
        frame.paste(curve.picture(), (_SIDE + 2 * _PAD, _PAD))
        yield frame

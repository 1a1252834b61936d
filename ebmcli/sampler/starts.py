"""Where chains start when nothing is known of the data: noise (§2.3)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.networks import Shape
from ebmcli.random.streams import Stream


def _uniform(stream: Stream, chains: Tensor, shape: Shape, scale: float) -> Tensor:
    return (2 * stream.uniform(chains, 0, shape) - 1) * scale


def _gaussian(stream: Stream, chains: Tensor, shape: Shape, scale: float) -> Tensor:
    return stream.normal(chains, 0, shape) * scale


NOISE: dict[str, Callable[[Stream, Tensor, Shape, float], Tensor]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
}
"""Non-informative starts (§2.3): uniform on [-scale, scale], or normal with sd scale."""


def noise_start(kind: str, stream: Stream, chains: Tensor, shape: Shape, scale: float = 1.0) -> Tensor:
    """Initial states [n c h w] from noise, one for each of `chains` (int64 [n]).

    Raises:
        EBMError: `kind` is not a key of `NOISE`.
    """
    if kind not in NOISE:
        raise EBMError(f"unknown noise {kind!r}", f"use one of {', '.join(NOISE)}")
    return NOISE[kind](stream, chains, shape, scale)

"""In what precision a backend computes, and that it gives the same bits each time.

On a GPU torch lets convolutions round their inputs to 10 bits (TF32) unless told not to, and a caller's autocast would
turn them into bfloat16. Both bias a Metropolis test and every long chain: at energies of 10⁴ a rounding of 10⁻³ is ten
nats. So backends compute inside `computing(device)`, which is plain float32 unless a potential was made for less.
Short chains of a non-convergent model can stand less, and on a GPU it is faster. For the same reason as fixed blocks,
convolutions take a deterministic algorithm that no timing has picked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ebmcli.errors import EBMError

PRECISIONS = ("float32", "tf32", "bf16")
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bf16": 1e-1}
"""Largest relative error of a gradient (against float64) with which a backend is accepted."""


def check(precision: str, device: torch.device) -> None:
    """Nothing, if a device has a precision and gains by it.

    Raises:
        EBMError: it has not, or it does not.
    """
    if precision not in PRECISIONS:
        raise EBMError(f"unknown precision {precision!r}", f"use {', '.join(PRECISIONS)}")
    if precision != "float32" and device.type != "cuda":
        why = "no such arithmetic" if precision == "tf32" else "bfloat16 only slows it down"
        raise EBMError(f"precision {precision} is for CUDA devices: on {device.type} there is {why}", "use float32")


def require_float32(target: object, what: str) -> None:
    """Nothing, if a target computes in float32; targets that do not say are taken to.

    Raises:
        EBMError: it computes in less.
    """
    precision = getattr(target, "precision", "float32")
    if precision != "float32":
        raise EBMError(
            f"{what} needs float32: differences of energies decide, and {precision} rounds them by many nats",
            "load the model without a precision",
        )


def _switches(precision: str = "float32") -> list[tuple[Any, str, object]]:
    """Where torch keeps how it computes, and the values wanted here."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    same: list[tuple[Any, str, object]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    short = precision == "tf32"
    # Newer torch has one switch an operation and refuses a mixture with the older ones.
    if hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv"):
        name = "tf32" if short else "ieee"
        return [*same, (matmul, "fp32_precision", name), (cudnn.conv, "fp32_precision", name)]
    return [*same, (matmul, "allow_tf32", short), (cudnn, "allow_tf32", short)]


@contextmanager
def computing(device: torch.device, precision: str = "float32") -> Iterator[None]:
    """Compute in one of `PRECISIONS` on `device`, repeatably; the caller's settings are back afterwards."""
    short = precision == "bf16"
    if device.type != "cuda" and not short and not torch.is_autocast_enabled(device.type):
        yield
        return
    # Without its cache: a recorded graph would read the weights that were rounded when it was recorded.
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=short, cache_enabled=False):
        switches = _switches(precision) if device.type == "cuda" else []
        before = [getattr(place, name) for place, name, _ in switches]
        try:
            for place, name, value in switches:
                setattr(place, name, value)
            yield
        finally:
            for (place, name, _), value in zip(switches, before, strict=True):
                setattr(place, name, value)

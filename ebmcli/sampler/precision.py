"""Float32 that is float32, and the same bits each time: what is set while a backend computes (floor 1).

On a GPU torch lets convolutions round their inputs to 10 bits (TF32) unless told not to, and a caller's autocast would
turn them into bfloat16. Both bias a Metropolis test and every long chain, so backends compute inside `float32()`.
Non-convergent sampling could stand TF32: it would be an argument here, refused by samplers that accept or reject.
For the same reason as fixed blocks, convolutions take a deterministic algorithm that no timing has picked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _switches() -> list[tuple[Any, str, object]]:
    """Where torch keeps how it computes, and the values wanted here."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    same: list[tuple[Any, str, object]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    # Newer torch has one switch an operation and refuses a mixture with the older ones.
    if hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv"):
        return [*same, (matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    return [*same, (matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Compute in plain float32 on `device`, repeatably; the caller's settings are back afterwards."""
    if device.type != "cuda" and not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        switches = _switches() if device.type == "cuda" else []
        before = [getattr(place, name) for place, name, _ in switches]
        try:
            for place, name, value in switches:
                setattr(place, name, value)
            yield
        finally:
            for (place, name, _), value in zip(switches, before, strict=True):
                setattr(place, name, value)

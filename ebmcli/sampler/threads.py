"""Who uses the cores (floor 1).

A thread of torch's that has done its part of an operation waits for the next one by spinning, for milliseconds. Where
chains are spread over the cores, such a thread takes a core from them. So all that surrounds them runs on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

_granted: ContextVar[int | None] = ContextVar("granted", default=None)


def count() -> int:
    """How many threads the caller may use: torch's number, or inside `alone` what that was before."""
    granted = _granted.get()
    return torch.get_num_threads() if granted is None else granted


@contextmanager
def alone() -> Iterator[int]:
    """torch's operations use the calling thread only; gives `count()`, for who spreads work by other means."""
    before, granted = torch.get_num_threads(), count()
    token = _granted.set(granted)
    torch.set_num_threads(1)
    try:
        yield granted
    finally:
        torch.set_num_threads(before)
        _granted.reset(token)


def around(potential: object) -> AbstractContextManager[object]:
    """`alone`, for work between the gradients of a potential whose backend spreads chains over the cores itself."""
    backend = getattr(potential, "backend", None)
    return alone() if backend is not None and backend.spreads else nullcontext()

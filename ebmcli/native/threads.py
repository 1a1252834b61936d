"""Who uses the cores.

A thread of torch's that has done its part of an operation waits for the next one by spinning, for milliseconds. Where
chains are spread over the cores, such a thread takes a core from them. So all that surrounds them runs on one thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

from ebmcli.native.cores import MOST

log = logging.getLogger("ebmcli.threads")

_granted: ContextVar[int | None] = ContextVar("granted", default=None)


def count() -> int:
    """How many threads the caller may use: torch's number, or inside `alone` what that was before; at most `MOST`."""
    granted = _granted.get()
    return min(torch.get_num_threads() if granted is None else granted, MOST)


@contextmanager
def alone() -> Iterator[int]:
    """torch's operations use the calling thread only; gives `count()`, for who spreads work by other means."""
    before, granted = torch.get_num_threads(), count()  # torch's own may be beyond MOST, and is put back as it was
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


class Crew:
    """Threads that wait for work, beside the caller's own; there are as many as the system gives."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._size = self._asked = 0
        self._growing = threading.Lock()

    def ready(self, wanted: int) -> int:
        """Have `wanted` threads, all of them begun; gives how many of them there are, which is fewer where the
        system gives no more. That is said, and not tried again for as many."""
        with self._growing:
            if wanted > self._asked:
                self._asked = wanted
                pool, size = _started(wanted, self._name)
                if size > self._size:
                    self._pool, self._size = pool, size
                if self._size < wanted:
                    log.warning("the system gives %d threads of %d: the work is done by fewer", self._size, wanted)
            return min(wanted, self._size)

    def submit(self, work: Callable[..., None], *arguments: object) -> Future[None]:
        """Have one of the threads do `work(*arguments)`. Raises RuntimeError where there is none."""
        if self._pool is None:
            raise RuntimeError("there are no threads: ask ready() how many")
        return self._pool.submit(work, *arguments)


def _started(wanted: int, name: str) -> tuple[ThreadPoolExecutor | None, int]:
    """A pool whose threads have all begun, and how many they are: `wanted`, or what the system gives."""
    while wanted:
        pool, gate, begun = ThreadPoolExecutor(wanted, thread_name_prefix=name), threading.Event(), 0
        try:
            for begun in range(1, wanted + 1):  # noqa: B007 - the number of the one that fails is wanted
                pool.submit(gate.wait)
        except RuntimeError:  # "can't start new thread": another pool, which asks for no more than there were
            begun -= 1
        finally:
            gate.set()
        if begun == wanted:
            return pool, wanted
        pool.shutdown()
        wanted = begun
    return None, 0

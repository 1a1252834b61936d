"""How many threads of the CPU a process may ask for.

torch starts as many threads as it is told to, and the process dies where the system does not give them. So a number is
checked before torch hears of it. This module imports torch only when it sets something: the command line reads `MOST`.
"""

from __future__ import annotations

import os
import threading

from ebmcli.errors import UsageError

MOST = max(1024, os.cpu_count() or 1)
"""Threads that may be asked for: 1,024, or one for each core of a larger machine."""


def use(asked: int | None, recorded: object = None) -> None:
    """Have torch use `asked` threads; where that is None as many as a record says, and else leave it as it is.

    Args:
        asked: what the caller wants, 1 … `MOST`.
        recorded: the same from the facts of a run that goes on, of any type: a file may say anything.

    Raises:
        UsageError: the number is none, or out of range, or more than the system gives to this process.
    """
    import torch

    given = recorded if asked is None else asked
    if given is None:
        given = torch.get_num_threads()
    hint = f"give `threads` a number from 1 to {MOST}"
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MOST:
        where = "threads" if asked is not None or recorded is None else "threads in the record of this run"
        raise UsageError(f"{where}: expected a whole number from 1 to {MOST}, received {given!r:.60}", hint)
    if given > (os.cpu_count() or 1):
        # torch has two sets of threads, OpenMP's and its own, and ends the process where one of them is cut short.
        started = _startable(2 * given)
        if started < 2 * given:
            raise UsageError(
                f"threads: {given} cannot be had, this system gives the process no more than {started // 2}",
                f"give `threads` {min(os.cpu_count() or 1, max(1, started // 2))}, the cores of this machine, or fewer",
            )
    torch.set_num_threads(given)


def _startable(wanted: int) -> int:
    """How many of `wanted` threads can live at the same time in this process."""
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # "can't start new thread"
        pass
    finally:
        end.set()
        for thread in threads:
            thread.join()
    return len(threads)

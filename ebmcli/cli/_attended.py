"""`ebm` for as long as the process that started it lives: how a sweep starts its learners.

The starter holds the other end of stdin. However it ends, by SIGKILL too, the system closes that end; the command is
then asked to stop as SIGTERM asks it, and saves what it has.
"""

from __future__ import annotations

import os
import signal
import threading

from ebmcli.cli import _app as cli


def _watch() -> None:
    while os.read(0, 1024):  # nothing is ever sent; an empty answer is the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The command line in `sys.argv`, stopped when stdin ends."""
    threading.Thread(target=_watch, name="attended", daemon=True).start()
    cli.main()


if __name__ == "__main__":
    main()

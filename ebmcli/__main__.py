"""The console script: `ebm`, and `python -m ebmcli`."""

import atexit
import os
import sys

# Of `signal` the part that is there from the start: `signal` itself takes milliseconds, in which Ctrl-C is a traceback.
from _signal import SIGINT, default_int_handler, getsignal, signal

INTERRUPTED = 130
"""Exit code, as `ebmcli.errors.Exit` has it, which is not imported yet when it is needed."""


def _leave(number: int, frame: object) -> None:
    """End as Ctrl-C ends a command, at once: there is nothing yet, or nothing any more, to save."""
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line from the first moment to the last."""
    # An exception would not do for the imports: modules in the middle of theirs catch it, or print a traceback.
    heard = getsignal(SIGINT) is default_int_handler  # not so where the caller ignores Ctrl-C
    if heard:
        signal(SIGINT, _leave)
    from ebmcli.cli._app import run
    from ebmcli.cli._streams import secure

    secure()
    if heard:
        signal(SIGINT, default_int_handler)
    code = run()
    if heard:
        signal(SIGINT, _leave)
    if code == INTERRUPTED:
        # Where Ctrl-C came into an `exec`, as importing torch has many, the interpreter would end itself by SIGINT.
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()

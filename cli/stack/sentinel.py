"""Ends what a stack leaves behind if the process that holds it dies without a word: a process of its own.

It waits until its standard input ends, which the kernel sees to, and then ends every process with the stack's mark:
children of children too, which no death of a parent reaches.
"""

import contextlib
import signal
import subprocess
import sys

from fingerpost.cli.stack.marks import end_marked

_GRACE_S = 3.0


def start_sentinel(stack: str) -> subprocess.Popen[bytes]:
    """Starts the sentinel of a stack; to close its `stdin` has it look for what is left, and end.

    Raises:
        OSError: no process can be made.
    """
    # Here, since the sentinel itself needs no settings.
    from fingerpost.environment import python_module

    return subprocess.Popen(
        python_module("fingerpost.cli.stack.sentinel", stack),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """Waits for the end of standard input; signals for the whole stack are not for this process."""
    stack = sys.argv[1]
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    end_marked(lambda mark: mark.stack == stack, _GRACE_S)


if __name__ == "__main__":
    main()

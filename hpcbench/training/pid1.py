"""First process of a rank's container:

`python -m hpcbench.training.pid1 ARGUMENT...` runs Python with these arguments, forwards signals, collects
orphaned processes and ends when its standard input closes. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KILLED_STATUS = 128 + signal.SIGKILL


def main(arguments: Sequence[str]) -> int:
    """Run Python; returns its exit status, 128 + the signal's number where one ended it."""
    # Blocked, signals wait for the thread that takes them, and none is lost: a handler would run in the main
    # thread, which does not hear of a signal that comes just before it begins to wait for its children.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_take_signals,  # there is one thread yet, so this is safe
    )
    for listen in (_listen_for_signals, _listen_to_client):
        threading.Thread(target=listen, args=(child.pid,), daemon=True).start()
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        if ended.si_pid == child.pid:  # it is collected with this process: until then its number is its own
            return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
        os.waitpid(ended.si_pid, 0)


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED_SIGNALS)


def _listen_for_signals(child: int) -> None:
    while True:
        os.kill(child, signal.sigwait(FORWARDED_SIGNALS))


def _listen_to_client(child: int) -> None:
    while signals := os.read(sys.stdin.fileno(), 4096):
        for number in signals:
            if number in FORWARDED_SIGNALS:
                os.kill(child, number)
    os.killpg(child, signal.SIGKILL)  # needed where this is not the first process of a container
    os._exit(KILLED_STATUS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

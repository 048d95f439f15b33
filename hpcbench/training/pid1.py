"""First process of a rank's container: `python -m hpcbench.training.pid1 ARGUMENT...` runs Python with them.

It hands signals on, which the kernel keeps from a first process that has not asked for them, and so it does
with each byte of its standard input, the number of one: what the container's client does with signals is not
to be relied on. It collects orphans. It ends, and the kernel all others in the container with it, when that
input closes: then the client is gone, however that came about.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
KILLED = 128 + signal.SIGKILL


def main(arguments: Sequence[str]) -> int:
    """Run Python; returns its exit status, 128 + the signal's number where one ended it."""
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        if child is None:
            received.append(number)
        else:
            os.kill(child.pid, number)  # it is collected below only when it is the last thing to do

    for each in HANDED_ON:
        signal.signal(each, hand_on)
    child = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.DEVNULL, start_new_session=True)
    for number in received:
        os.kill(child.pid, number)
    threading.Thread(target=_listen_to_client, args=(child.pid,), daemon=True).start()
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        if ended.si_pid == child.pid:
            return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
        os.waitpid(ended.si_pid, 0)


def _listen_to_client(child: int) -> None:
    while told := os.read(sys.stdin.fileno(), 4096):
        for number in told:
            if number in HANDED_ON:
                os.kill(child, number)
    os.killpg(child, signal.SIGKILL)  # where this is not the first process, nobody else would
    os._exit(KILLED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Where everything that a supervisor waits for arrives: the ends of ranks, and signals to itself."""

from __future__ import annotations

import signal
from queue import Empty, SimpleQueue
from types import FrameType

from hpcbench.cluster.ranks import Exit

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Inbox:
    """Messages to the supervisor, and whether it has been told to stop.

    SimpleQueue.put may be called from a signal handler, even while the same thread is inside `get`.
    """

    def __init__(self) -> None:
        self.messages: SimpleQueue[Exit | signal.Signals] = SimpleQueue()
        self.stopped_by: signal.Signals | None = None

    def listen(self) -> None:
        """Take signals as messages from now on; main thread only."""
        for each in STOP_SIGNALS:
            signal.signal(each, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number)
        self.messages.put(signal.Signals(number))

    def stopped(self) -> bool:
        """Return whether a signal has come."""
        return self.stopped_by is not None

    def next(self, timeout_s: float) -> Exit | signal.Signals | None:
        """Wait for a message; None if there was none in time."""
        try:
            return self.messages.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None

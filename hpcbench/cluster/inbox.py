"""Where everything that a supervisor waits for arrives: the ends of ranks, and signals to itself."""

from __future__ import annotations

import signal
import time
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from hpcbench.cluster.ranks import Exit

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ONE_REQUEST_S = 1.0


class Inbox:
    """Messages to the supervisor, and whether it has been told to stop.

    SimpleQueue.put may be called from a signal handler, even while the same thread is inside `get`.
    """

    def __init__(self) -> None:
        self.messages: SimpleQueue[Any] = SimpleQueue()
        self.stopped_by: signal.Signals | None = None
        self._last: tuple[signal.Signals | None, float] = (None, 0.0)

    def listen(self) -> None:
        """Take signals as messages from now on; main thread only."""
        for each in STOP_SIGNALS:
            signal.signal(each, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.take(signal.Signals(number))

    def take(self, number: signal.Signals) -> None:
        """Take a signal as if it had come to this process."""
        self.stopped_by = self.stopped_by or number
        again, self._last = self._last, (number, time.monotonic())
        # A job's end is said to each of its nodes, and each passes it on: that is one request, not several.
        if again[0] is not number or self._last[1] - again[1] > ONE_REQUEST_S:
            self.messages.put(number)

    def stopped(self) -> bool:
        """Return whether a signal has come."""
        return self.stopped_by is not None

    def wait(self) -> Any:
        """Wait for a message: an Exit, a signal, or what another supervisor says."""
        return self.messages.get()

    def next(self, timeout_s: float) -> Exit | signal.Signals | None:
        """Wait for a message; None if there was none in time."""
        try:
            message: Exit | signal.Signals = self.messages.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None
        return message

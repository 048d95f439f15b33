"""One rank's run from its first record to its last, whatever it trains with."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hpcbench.config.placement import Placement
from hpcbench.config.spec import RunSpec
from hpcbench.records.events import Event
from hpcbench.records.layout import RunFolder
from hpcbench.records.writer import EventWriter

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequestedError(Exception):
    """A signal has asked the run to stop; raised between two steps."""


@dataclass
class Session:
    """What a rank has to work with: its run, its place, its record, and how its time went by.

    `seconds` sums the wall time of each named part of the run; the parts do not overlap, so that what is
    missing from the whole is `other`.
    """

    spec: RunSpec
    declared: dict[str, Any] | None
    placement: Placement
    writer: EventWriter
    phase: str = "startup"
    seconds: dict[str, float] = field(default_factory=dict)
    stop_signal: signal.Signals | None = None

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(Path(self.placement.run_folder))

    def record(self, event: Event) -> None:
        """Take an event into the record's buffer."""
        self.writer.write(event)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as this part of the run."""
        before, began = self.phase, time.perf_counter()
        self.phase = name
        yield
        # Not in a finally clause: after an error `phase` has to say where it happened.
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.phase = before

    def age_s(self) -> float:
        """Return the seconds since the supervisor started this process."""
        return (time.time_ns() - self.placement.process_start_ns) / 1e9

    def listen_for_stop(self) -> None:
        """Let signals ask for a stop at the next step, instead of ending the process in mid-air."""

        def note(number: int, frame: FrameType | None) -> None:
            self.stop_signal = self.stop_signal or signal.Signals(number)

        for each in STOP_SIGNALS:
            signal.signal(each, note)

    def raise_if_stopped(self) -> None:
        """Raise StopRequestedError if a signal has come."""
        if self.stop_signal is not None:
            raise StopRequestedError(self.stop_signal.name)


def read_spec(folder: RunFolder) -> tuple[RunSpec, dict[str, Any] | None]:
    """Return the run to do, and the declared one where `--smoke` has scaled it down."""
    stored = json.loads(folder.spec.read_text())
    return RunSpec.from_json(stored["spec"]), stored.get("declared")

"""The session of a rank: its run, its place among the ranks, its record file, its time accounting and stop
signals; and how an out-of-memory error is recognised. Imports no torch.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hpcbench.runs.events import Event, RunFinished, RunStarted
from hpcbench.runs.placement import Placement
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PARTS = ("startup", "train", "evaluation", "check", "checkpoint")  # the named times of a finished run


class StopRequestedError(Exception):
    """A signal has asked the run to stop; raised between two steps."""


@dataclass
class RankSession:
    """What a rank has to work with: its run, its placement, its record file, and its time accounting.

    `seconds` sums the wall time of each named part of the run; the parts do not overlap, and the rest of the
    run's time is `other`.
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
        """Add an event to the record's buffer."""
        self.writer.write(event)

    def record_start(self, environment: dict[str, Any], **facts: Any) -> None:
        """Record that this process has joined the run; `facts` are further fields of RunStarted."""
        self.record(
            RunStarted(
                spec=self.spec.to_json(),
                declared=self.declared,
                environment=environment,
                processes=self.placement.processes,
                process_start_ns=self.placement.process_start_ns,
                warnings=self.placement.warnings,
                **facts,
            )
        )
        self.writer.flush()

    def record_finish(
        self, *, steps: int = 0, samples: int = 0, peak_memory_bytes: int | None = None
    ) -> None:
        """Record that this process has done all of its work, and in which parts its time was spent."""
        named_s = {f"{part}_s": self.seconds.get(part, 0.0) for part in PARTS}
        wall_s = self.age_s()
        self.record(
            RunFinished(
                wall_s=wall_s,
                **named_s,
                other_s=wall_s - sum(named_s.values()),
                steps=steps,
                samples=samples,
                peak_memory_bytes=peak_memory_bytes,
            )
        )
        self.writer.sync()

    @contextmanager
    def timed_part(self, name: str) -> Iterator[None]:
        """Count the time of the block as this part of the run."""
        before, began = self.phase, time.perf_counter()
        self.phase = name
        yield
        # Not in a finally clause: after an error `phase` is the part in which it happened.
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.phase = before

    def age_s(self) -> float:
        """Return the seconds since the supervisor started this process."""
        return (time.time_ns() - self.placement.process_start_ns) / 1e9

    def install_stop_handlers(self) -> None:
        """Let signals request a stop at the next step, instead of ending the process at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop_signal = self.stop_signal or signal.Signals(number)

        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, handle)

    def raise_if_stopped(self) -> None:
        """Raise StopRequestedError if this process has received a signal."""
        if self.stop_signal is not None:
            self.raise_stop()

    def raise_stop(self) -> NoReturn:
        """Raise StopRequestedError, with the signal, or because another rank has received one."""
        raise StopRequestedError(self.stop_signal.name if self.stop_signal else "on a peer")


# torch's error has this name; on a CPU torch raises a RuntimeError with these words.
OUT_OF_MEMORY_TYPE = "OutOfMemoryError"
OUT_OF_MEMORY_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
_REQUESTED_SIZE = re.compile(
    r"(?:[Tt]ried to allocate|Unable to allocate|images of) ([0-9][0-9.,]*) ?([KMGTPE]i?B|bytes|B)\b"
)
_UNIT_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


@dataclass(frozen=True)
class OutOfMemory:
    """What was asked for when memory ran out; None where the message does not say."""

    asked_bytes: int | None


def find_out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Return what was asked for if an error means that memory has run out."""
    text = str(error)
    by_type = isinstance(error, MemoryError) or type(error).__name__ == OUT_OF_MEMORY_TYPE
    by_words = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY_TEXTS)
    return OutOfMemory(_requested_bytes(text)) if by_type or by_words else None


def _requested_bytes(text: str) -> int | None:
    """Read the size out of the messages of torch, numpy and hpcbench (1 GiB and 1 GB are 2**30 there)."""
    found = _REQUESTED_SIZE.search(text)
    if found is None:
        return None
    number, unit = float(found[1].replace(",", "").rstrip(".")), found[2]
    return round(number * 1024.0 ** _UNIT_POWERS[unit[0] if unit[0] in "KMGTPE" else ""])

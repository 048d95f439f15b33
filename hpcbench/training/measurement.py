"""What a rank measures of itself: the phases of its steps on the timeline of its device, and its peak
memory.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpcbench.runs.events import PHASES

if TYPE_CHECKING:
    import torch

STEP_BEGINS = "data_wait"
STEP_EDGES = (STEP_BEGINS, "other")  # a step lasts until the next one, or until the window is over


@dataclass(frozen=True)
class WindowTimes:
    """`phase_s` partitions `wall_s`; `step_s` has the time of each step, begin to begin."""

    wall_s: float
    phase_s: dict[str, float]
    step_s: list[float]


class Timeline(Protocol):
    """A timeline on which moments can be marked, and read later."""

    def mark(self) -> Any:
        """Mark this moment."""

    def wait(self) -> None:
        """Wait until all work before the last mark is done."""

    def between_s(self, earlier: Any, later: Any) -> float:
        """Return the seconds between two marks; only after `wait`."""


class HostTimeline:
    """The host's monotonic clock."""

    def mark(self) -> int:
        """Return nanoseconds."""
        return time.perf_counter_ns()

    def wait(self) -> None:
        """Work on the host is done when its call returns."""

    def between_s(self, earlier: int, later: int) -> float:
        """Return the difference."""
        return (later - earlier) / 1e9


class CudaTimeline:
    """The queue of a CUDA device; events are made once and used again in every window."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[Any] = []
        self._used = 0

    def mark(self) -> Any:
        """Put an event into the current stream."""
        import torch

        if self._used == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))
        event = self._events[self._used]
        self._used += 1
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        """Synchronise the device; events may be used again after the window was read."""
        import torch

        torch.cuda.synchronize(self._device)
        self._used = 0

    def between_s(self, earlier: Any, later: Any) -> float:
        """Return the difference on the device's clock."""
        return float(earlier.elapsed_time(later)) / 1e3


class PhaseClock:
    """Measures a window: `begin`, `enter` a phase again and again, `end`."""

    def __init__(self, marker: Timeline) -> None:
        self._marker = marker
        self._marks: list[tuple[str, Any]] = []
        self._began_ns = 0

    def begin(self) -> None:
        """Start the window; call after a barrier."""
        self._marker.wait()
        self._began_ns = time.perf_counter_ns()
        self._marks = [("other", self._marker.mark())]

    def enter(self, phase: str) -> None:
        """Count what follows as this phase."""
        self._marks.append((phase, self._marker.mark()))

    def end(self) -> WindowTimes:
        """End the window when the device has done everything, and read it."""
        last = self._marker.mark()
        self._marker.wait()
        wall_s = (time.perf_counter_ns() - self._began_ns) / 1e9
        phase_s = dict.fromkeys(PHASES, 0.0)
        ends = [*(mark for _, mark in self._marks[1:]), last]
        for (phase, begin), end in zip(self._marks, ends, strict=True):
            phase_s[phase] += self._marker.between_s(begin, end)
        # What the timeline does not show (starting the window, the last wait) belongs to no phase.
        phase_s["other"] += wall_s - sum(phase_s.values())
        edges = [(phase, mark) for phase, mark in self._marks if phase in STEP_EDGES] + [("other", last)]
        step_s = [
            self._marker.between_s(begin, end)
            for (phase, begin), (_, end) in pairwise(edges)
            if phase == STEP_BEGINS
        ]
        return WindowTimes(wall_s, phase_s, step_s)


def timeline_for(device: torch.device) -> Timeline:
    """Return the timeline of a rank's device."""
    return CudaTimeline(device) if device.type == "cuda" else HostTimeline()


def clock_for(device: torch.device) -> PhaseClock:
    """Return the clock for a rank's device."""
    return PhaseClock(timeline_for(device))


PROC_STATUS = Path("/proc/self/status")
PEAK_LINE = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def resident_peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    Linux tells it in /proc (VmHWM, proc_pid_status(5)). getrusage, which is asked elsewhere, there counts the
    process that started this one as well: a rank that a large process starts would have its peak.
    """
    found = PEAK_LINE.search(PROC_STATUS.read_text()) if PROC_STATUS.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_peak_bytes(device: torch.device) -> int:
    """Return the largest amount allocated on a GPU since the last call, and begin anew.

    On a CPU this is the resident set of the process, which never begins anew.
    """
    if device.type != "cuda":
        return resident_peak_bytes()
    import torch

    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return int(peak)

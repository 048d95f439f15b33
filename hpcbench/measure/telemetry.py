"""What a node looks like while a run goes on, read once a second beside the ranks and never in one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import psutil

from hpcbench.measure.jobtime import JobProcesses
from hpcbench.measure.nvml import Gpus
from hpcbench.records.events import Telemetry

INTERVAL_S = 1.0
BATCH = 10
IDLE = ("idle", "iowait", "steal")  # not busy with anything of this machine


@dataclass(frozen=True)
class Processors:
    """Seconds since the machine's start: of all cores together, and of those that this process may use."""

    all_s: float
    busy_s: float
    usable_busy_s: float

    @classmethod
    def now(cls) -> Processors:
        """Read the counters."""
        usable = os.sched_getaffinity(0)
        cores = psutil.cpu_times(percpu=True)
        # Time in a guest is part of that in user mode already (proc(5)).
        all_s = [sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0) for core in cores]
        busy_s = [
            whole - sum(getattr(core, name, 0.0) for name in IDLE)
            for whole, core in zip(all_s, cores, strict=True)
        ]
        mine = sum(busy for number, busy in enumerate(busy_s) if number in usable)
        return cls(sum(all_s), sum(busy_s), mine)


class NodeMeter:
    """Reads the node; `event` hands over what was read since the last one."""

    def __init__(self, host: str, job: JobProcesses, gpus: Gpus | None) -> None:
        self._host, self._job, self._gpus = host, job, gpus
        self._readings: list[dict[str, Any]] = []
        self._spent_s = 0.0
        self._count = 0
        job.used_s()
        self._before, self._before_s = Processors.now(), time.monotonic()

    @property
    def full(self) -> bool:
        """Whether there is enough for an event."""
        return len(self._readings) >= BATCH

    def read(self) -> None:
        """Read everything once; rates are those since the last reading."""
        began = time.thread_time()
        now, now_s = Processors.now(), time.monotonic()
        before, passed_s = self._before, max(now_s - self._before_s, 1e-6)
        job_cores = self._job.used_s() / passed_s
        whole_s = max(now.all_s - before.all_s, 1e-6)
        reading: dict[str, Any] = {
            "read_ns": time.time_ns(),
            "cpu_percent": 100 * (now.busy_s - before.busy_s) / whole_s,
            "load": os.getloadavg()[0],
            "cpu_mhz": self._mhz(),
            "memory_used_bytes": psutil.virtual_memory().used,
            "other_cpu_cores": max(0.0, (now.usable_busy_s - before.usable_busy_s) / passed_s - job_cores),
        }
        if self._gpus:
            reading["gpus"] = self._gpus.read(self._job.pids)
        self._before, self._before_s = now, now_s
        self._readings.append(reading)
        self._spent_s += time.thread_time() - began

    def _mhz(self) -> float | None:
        """Return the mean clock of the cores, once for each event: the kernel asks every core for it."""
        self._count += 1
        if self._count % BATCH != 1:
            return None
        try:
            clock = psutil.cpu_freq()
        except (OSError, NotImplementedError):
            return None  # a kernel, or a virtual machine, that has the folder and not the file
        return clock.current if clock else None

    def event(self) -> Telemetry | None:
        """Return what was read since the last event; None if that is nothing."""
        readings, self._readings = self._readings, []
        spent_s, self._spent_s = self._spent_s, 0.0
        if not readings:
            return None
        told = [reading.pop("gpus", None) for reading in readings]
        columns = {name: [reading[name] for reading in readings] for name in readings[0]}
        return Telemetry(host=self._host, **columns, **_by_quantity(told), reading_s=spent_s)


def _by_quantity(told: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Turn readings of GPUs into columns; none where a reading is missing."""
    whole = [each for each in told if each is not None]
    if not whole or len(whole) < len(told):
        return {}
    return {name: [each[name] for each in whole] for name in whole[0]}

"""Utilisation of a node while a run goes on, read once a second by a thread of the supervisor and written
into its record.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hpcbench.launch.gpu_telemetry import GpuReader
from hpcbench.runs.claim import this_host
from hpcbench.runs.events import Telemetry
from hpcbench.runs.record_writer import EventWriter
from hpcbench.sweep.run_spec import RunSpec

PROC = Path("/proc")
logger = logging.getLogger(__name__)

SESSION, USER_TICKS, SYSTEM_TICKS = 3, 11, 12  # fields 6, 14, 15 of proc(5) stat, counted after the name
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class JobProcesses:
    """The processes of these `sessions`, this one, and those whose environment names `mark`.

    The mark is for containers whose processes an engine has started: they are in no session of ours.
    """

    def __init__(self, sessions: Collection[int], mark: str | None = None) -> None:
        self._sessions = frozenset(sessions)
        self._mark = mark.encode() if mark else None
        self._mine: dict[int, bool] = {}
        self._ticks: dict[int, int] = {}

    @property
    def pids(self) -> set[int]:
        """The processes of the job when it was last looked."""
        return set(self._ticks)

    def used_s(self) -> float:
        """Return the processor time that the job has used since the last call, of all cores together.

        What has ended in between is missing, at most its last interval.
        """
        there = {int(name) for name in os.listdir(PROC) if name.isdigit()}  # noqa: PTH208  once a second
        self._mine = {pid: mine for pid, mine in self._mine.items() if pid in there}
        before, self._ticks = self._ticks, {}
        used = 0
        for pid in there:
            if self._mine.get(pid, True):
                used += self._look_at(pid, before)
        return used / TICKS_PER_S

    def _look_at(self, pid: int, before: dict[int, int]) -> int:
        """Note a process's time if it is the job's; return how much was added since it was last seen."""
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0  # it has ended
        if pid not in self._mine:
            session = int(fields[SESSION])
            self._mine[pid] = pid == os.getpid() or session in self._sessions or self._is_marked(pid)
        if not self._mine[pid]:
            return 0
        ticks = self._ticks[pid] = int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])
        return ticks - before.get(pid, 0)

    def _is_marked(self, pid: int) -> bool:
        if self._mark is None:
            return False
        try:
            return self._mark in (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # another user's


INTERVAL_S = 1.0
READINGS_PER_EVENT = 10
IDLE_STATES = ("idle", "iowait", "steal")  # not busy with anything of this machine


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since the machine's start: of all cores together, and of those that this process may use."""

    all_s: float
    busy_s: float
    usable_busy_s: float

    @classmethod
    def now(cls) -> CpuTimes:
        """Read the counters."""
        usable = os.sched_getaffinity(0)
        cores = psutil.cpu_times(percpu=True)
        # Time in a guest is part of that in user mode already (proc(5)).
        all_s = [sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0) for core in cores]
        busy_s = [
            whole - sum(getattr(core, name, 0.0) for name in IDLE_STATES)
            for whole, core in zip(all_s, cores, strict=True)
        ]
        mine = sum(busy for number, busy in enumerate(busy_s) if number in usable)
        return cls(sum(all_s), sum(busy_s), mine)


class NodeMeter:
    """Reads the node; `event` hands over what was read since the last one."""

    def __init__(self, host: str, job: JobProcesses, gpus: GpuReader | None) -> None:
        self._host, self._job, self._gpus = host, job, gpus
        self._readings: list[dict[str, Any]] = []
        self._spent_s = 0.0
        self._count = 0
        job.used_s()
        self._before, self._before_s = CpuTimes.now(), time.monotonic()

    @property
    def full(self) -> bool:
        """Whether there is enough for an event."""
        return len(self._readings) >= READINGS_PER_EVENT

    def read(self) -> None:
        """Read everything once; rates are those since the last reading."""
        began = time.thread_time()
        now, now_s = CpuTimes.now(), time.monotonic()
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
        if self._count % READINGS_PER_EVENT != 1:
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
        gpus = [reading.pop("gpus", None) for reading in readings]
        columns = {name: [reading[name] for reading in readings] for name in readings[0]}
        return Telemetry(host=self._host, **columns, **_gpu_columns(gpus), reading_s=spent_s)


def _gpu_columns(readings: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Turn readings of GPUs into columns; none where a reading is missing."""
    complete = [reading for reading in readings if reading is not None]
    if not complete or len(complete) < len(readings):
        return {}
    return {name: [reading[name] for reading in complete] for name in complete[0]}


class NodeTelemetry:
    """Writes telemetry of a run's node into the supervisor's record, from `start` to `stop`."""

    def __init__(
        self, spec: RunSpec, record: Path, attempt: int, run_folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._spec, self._record, self._attempt = spec, record, attempt
        self._run_folder, self._environment = run_folder, environment
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, sessions: Collection[int]) -> None:
        """Begin to read; the ranks lead these sessions."""
        self._thread = threading.Thread(target=self._run, args=(sessions,), name="telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what was read, and end."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, sessions: Collection[int]) -> None:
        try:
            self._watch(self._meter(sessions))
        except (OSError, psutil.Error) as error:
            # A full disk, or a machine that hides its counters: the run itself goes on.
            logger.warning("%s: no telemetry any more: %s", self._spec.name, error)

    def _meter(self, sessions: Collection[int]) -> NodeMeter:
        contained = self._spec.container.runtime != "none"
        job = JobProcesses(sessions, str(self._run_folder) if contained else None)
        on_gpus = self._spec.device == "cuda"
        gpus = GpuReader.find(self._environment.get("CUDA_VISIBLE_DEVICES")) if on_gpus else None
        return NodeMeter(this_host(), job, gpus)

    def _watch(self, meter: NodeMeter) -> None:
        writer: EventWriter | None = None
        try:
            due = time.monotonic() + INTERVAL_S
            while not self._stopped.wait(max(0.0, due - time.monotonic())):
                meter.read()
                # After a standstill of the machine, what was missed is not read all at once.
                due = max(due + INTERVAL_S, time.monotonic() + INTERVAL_S / 2)
                if meter.full:
                    writer = self._write(writer, meter)
            writer = self._write(writer, meter)
        finally:
            if writer:
                writer.close()

    def _write(self, writer: EventWriter | None, meter: NodeMeter) -> EventWriter | None:
        """Write what was read; a run that was too short for a reading leaves no file."""
        event = meter.event()
        if event is None:
            return writer
        if writer is None:
            spec = self._spec
            writer = EventWriter(self._record, run_id=spec.run_id, attempt=self._attempt, rank=None)
        writer.write(event)
        writer.flush()
        return writer

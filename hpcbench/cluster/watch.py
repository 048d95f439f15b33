"""The supervisor's look at its node while the ranks work: once a second, from a thread of its own.

Not in the ranks: a thread there takes the interpreter's lock from the training.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

from hpcbench.cluster.processes import this_host
from hpcbench.config.spec import RunSpec
from hpcbench.measure.jobtime import JobProcesses
from hpcbench.measure.nvml import Gpus
from hpcbench.measure.telemetry import INTERVAL_S, NodeMeter
from hpcbench.records.writer import EventWriter


class NodeWatch:
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
            print(f"{self._spec.name}: no telemetry any more: {error}", file=sys.stderr)

    def _meter(self, sessions: Collection[int]) -> NodeMeter:
        contained = self._spec.container.runtime != "none"
        job = JobProcesses(sessions, str(self._run_folder) if contained else None)
        on_gpus = self._spec.device == "cuda"
        gpus = Gpus.find(self._environment.get("CUDA_VISIBLE_DEVICES")) if on_gpus else None
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

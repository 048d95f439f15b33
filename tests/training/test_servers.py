"""Real runs with a parameter server: what is learnt, what is recorded, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hpcbench.runs.events import (
    Check,
    Epoch,
    Evaluation,
    Event,
    Interrupted,
    RunFailed,
    RunFinished,
    RunStarted,
    Steps,
    Updates,
)
from hpcbench.runs.placement import Placement, without_launcher_variables
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec

E = TypeVar("E", bound=Event)
WORKERS, SERVER = 2, 2  # the ranks after the workers serve
PATIENCE_S = 120


@dataclass
class Run:
    """Processes of a run, started as a supervisor starts them."""

    spec: RunSpec
    folder: RunFolder
    processes: list[subprocess.Popen[bytes]]

    @classmethod
    def start(cls, path: Path, **fields: Any) -> Run:
        """Start two workers and a server; `fields` are those of the run."""
        options = fields.pop("options")
        spec = RunSpec(
            name="n",
            strategy="ps",
            strategy_options=options,
            ranks=WORKERS,
            servers=1,
            data_shards=WORKERS,
            backend="gloo",
            batch_size=32,
            **fields,
        )
        folder = RunFolder(path)
        folder.spec.write_text(json.dumps({"run_id": spec.run_id, "spec": spec.to_json(), "declared": None}))
        return cls(spec, folder, [cls._start_rank(path, rank, spec) for rank in range(spec.processes)])

    @staticmethod
    def _start_rank(path: Path, rank: int, spec: RunSpec) -> subprocess.Popen[bytes]:
        place = Placement(
            run_folder=str(path),
            attempt=0,
            rank=rank,
            processes=spec.processes,
            local_rank=rank,
            process_start_ns=time.time_ns(),
        )
        return subprocess.Popen(
            [sys.executable, "-m", "hpcbench.training.worker"],
            env={**without_launcher_variables(os.environ), "OMP_NUM_THREADS": "1", **place.to_environment()},
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> list[int]:
        """Return the exit status of every process; none may hang."""
        try:
            return [process.wait(timeout=PATIENCE_S) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def until_it_trains(self) -> None:
        """Wait for the first window of steps."""
        deadline = time.monotonic() + PATIENCE_S
        path = self.folder.events(0, 0)
        while not (path.exists() and '"event":"steps"' in path.read_text()):
            assert time.monotonic() < deadline, "the run did not begin to train"
            time.sleep(0.1)

    def events(self, rank: int, kind: type[E]) -> list[E]:
        """Return a rank's events of a kind."""
        records = read_events(self.folder.events(0, rank)).records
        return [record.event for record in records if isinstance(record.event, kind)]


@pytest.mark.parametrize(
    "options", [{"mode": "sync"}, {"mode": "async"}], ids=lambda options: str(options["mode"])
)
def test_digits_are_learnt_and_the_server_says_how(options: dict[str, Any], tmp_path: Path) -> None:
    """Two workers and a server reach 95 %, agree at each check, and the server records every update."""
    run = Run.start(tmp_path, options=options, epochs=8)
    assert run.wait() == [0, 0, 0]
    last = [run.events(rank, Evaluation)[-1] for rank in range(WORKERS)]
    assert sum(each.correct or 0 for each in last) >= 0.95 * sum(each.samples for each in last)
    mine, peers = (run.events(rank, Check) for rank in range(WORKERS))
    assert [(c.weights_checksum, c.buffers_checksum) for c in mine] == [
        (c.weights_checksum, c.buffers_checksum) for c in peers
    ]

    steps = run.events(0, Steps)
    updates = run.events(SERVER, Updates)
    each_step = 1 if options["mode"] == "sync" else WORKERS
    assert sum(u.updates for u in updates) == each_step * sum(s.steps for s in steps)
    assert sum(u.samples for u in updates) == sum(
        s.samples for r in range(WORKERS) for s in run.events(r, Steps)
    )
    assert all(len(u.staleness) == len(u.lead) == u.updates for u in updates)
    assert [u.counted for u in updates] == sorted(u.counted for u in updates)  # warm-up comes first
    assert {u.epoch for u in updates} == {e.epoch for e in run.events(0, Epoch)}
    assert all(u.idle_s + u.push_s + u.update_s <= u.wall_s for u in updates)
    assert all(s.push_s is not None and s.pull_s is not None for s in steps)
    assert all((s.push_s or 0) + (s.pull_s or 0) <= s.exchange_s for s in steps)
    # The server's windows are the workers' on its own clock, with what lies between two windows.
    served_s = sum(u.wall_s for u in updates)
    assert 0.9 * sum(s.wall_s for s in steps) < served_s < 1.1 * sum(e.wall_s for e in run.events(0, Epoch))

    assert [run.events(rank, RunStarted)[0].role for rank in range(3)] == ["train", "train", "serve"]
    assert run.events(SERVER, RunFinished)[0].samples == 0


@pytest.mark.parametrize(
    "options",
    [{"mode": "sync"}, {"mode": "bounded", "max_staleness": 0}],
    ids=lambda options: str(options["mode"]),
)
def test_a_signal_stops_workers_and_server(options: dict[str, Any], tmp_path: Path) -> None:
    """All processes leave together, and their records say that they were told to."""
    run = Run.start(tmp_path, options=options, epochs=10_000)
    run.until_it_trains()
    for process in run.processes:
        process.send_signal(signal.SIGTERM)
    assert run.wait() == [128 + signal.SIGTERM] * 3
    assert all(run.events(rank, Interrupted) for rank in range(3))
    assert not any(run.events(rank, RunFailed) for rank in range(3))


def test_a_signal_to_one_worker_stops_all(tmp_path: Path) -> None:
    """Workers in lockstep tell each other, and the server is told by them."""
    run = Run.start(tmp_path, options={"mode": "sync"}, epochs=10_000)
    run.until_it_trains()
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.wait() == [128 + signal.SIGTERM] * 3
    assert all(run.events(rank, Interrupted) for rank in range(3))


@pytest.mark.parametrize("victim", [0, SERVER])
def test_nobody_waits_for_the_dead(victim: int, tmp_path: Path) -> None:
    """When a process is gone, all others fail within seconds, long before any time-out, and say so."""
    run = Run.start(tmp_path, options={"mode": "async"}, epochs=10_000)
    run.until_it_trains()
    run.processes[victim].kill()
    killed = time.monotonic()
    others = [rank for rank in range(3) if rank != victim]
    statuses = run.wait()
    assert time.monotonic() - killed < 0.2 * run.spec.timeout_s
    assert [statuses[rank] for rank in others] == [1, 1]
    assert all(run.events(rank, RunFailed) for rank in others)

"""Runs a sweep for real, without a queue: a process for each rank, and the records that jobs would leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcbench.runs import ledger
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import RunSpec, Sweep
from hpcbench.sweep.sweep_loading import dump_sweep

ROOT = Path(__file__).parents[2]


def train_sweep(sweep: Sweep, results: Path) -> Path:
    """Do every run of a sweep; returns its results folder."""
    train_runs(sweep.runs, results)
    ResultsFolder(results).sweep.write_text(dump_sweep(sweep))
    return results


def train_runs(runs: Sequence[RunSpec], results: Path) -> Path:
    """Do runs; those with equally many processes share them, so that torch is imported once."""
    folder = ResultsFolder(results)
    results.mkdir(parents=True, exist_ok=True)
    for spec in runs:
        at = folder.run(spec.name, spec.repeat)
        at.path.mkdir(parents=True)
        at.spec.write_text(json.dumps({"run_id": spec.run_id, "spec": spec.to_json(), "declared": None}))
        at.claim(1).write_text("{}")
        name = f"{spec.name}/r{spec.repeat}"
        ledger.append_entry(
            folder.ledger, ledger.AttemptClaimed(job_id="1", run=name, run_id=spec.run_id, attempt=1)
        )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for processes in sorted({spec.processes for spec in runs}):
        command = [sys.executable, "-m", "tests.audit.rank"]
        ranks = [
            subprocess.Popen([*command, str(rank), str(processes), str(results)], cwd=ROOT, env=environment)
            for rank in range(processes)
        ]
        assert [rank.wait(timeout=240) for rank in ranks] == [0] * processes
    return results

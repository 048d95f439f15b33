"""What hpcbench adds to what Slurm, Python and torch take anyhow: ratios, of things measured in turn."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcbench.launch.machine_resources import usable_cores
from hpcbench.launch.rank_processes import WORKER_COMMAND
from hpcbench.launch.supervisor import thread_environment
from hpcbench.runs.events import Steps
from hpcbench.runs.placement import Placement
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import RunFolder, StoredRun, read_spec_file
from tests.slurm.helpers import PATIENCE_S, ClusterLab

pytestmark = [pytest.mark.slurm, pytest.mark.speed, pytest.mark.timeout(900)]

ROUNDS = 3
# Others may use the machine: what is compared is measured in turn, and the ratio is the median of all rounds.
# Where three rounds were not enough to get past a busy moment, there are more.
MOST_ROUNDS = 7
PACKED = 4
TRAINED: dict[str, Any] = {
    "strategy": "ddp", "dataset": "digits", "model": "smallconv", "batch_size": 16, "steps": 20,
    "window_steps": 1, "checkpoint": "none", "strategy_options": {},
    "probe": False,
}  # fmt: skip

# The smallest program whose ranks meet and do a step. torch imports its compiler when the first optimizer is
# made, which takes longer than all of its imports before.
BARE = """
import os, sys, time
import torch
import torch.distributed as dist

def note(what):
    with open(f"{sys.argv[2]}.{what}.{rank}", "w") as file:
        file.write(str(time.time_ns()))

rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
store = dist.TCPStore("n1", int(sys.argv[1]), size, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
dist.barrier()
note("met")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(16, 64)).sum().backward()
optimizer.step()
note("stepped")
dist.barrier()
dist.destroy_process_group()
"""


def ratio(ours: Callable[[int], float], theirs: Callable[[int], float], limit: float) -> float:
    """Measure two things in turn, and return how many times the second one's time the first takes."""
    taken: list[tuple[float, float]] = []
    while len(taken) < ROUNDS or (found(taken) > limit and len(taken) < MOST_ROUNDS):
        taken.append((ours(len(taken)), theirs(len(taken))))
    print(f"\nours, theirs [s]: {[(round(a, 2), round(b, 2)) for a, b in taken]}: {found(taken):.2f} times")
    return found(taken)


def found(taken: list[tuple[float, float]]) -> float:
    """Return the median ratio of all rounds."""
    return statistics.median(mine / bare for mine, bare in taken)


def test_the_first_step_comes_soon_after_the_allocation_starts(lab: ClusterLab) -> None:
    """Ranks on two nodes have done a step within 1.5 times what the smallest program takes for it."""
    program = lab.folder / "bare.py"
    program.write_text(BARE)
    mark = lab.folder / "began"
    stamp = f"date +%s%N > {mark}"

    def ours(number: int) -> float:
        name = f"sweep{number}"
        run = {"name": "run", "ranks": 2, "resources": {"nodes": 2, "time": "00:05:00"}}
        sweep = lab.sweep(run, name=name, **TRAINED)
        lab.queue(sweep, setup=f"['{stamp}']")
        lab.all_done(name)
        records = read_events(lab.results(name).run("run", 0).events(1, 0)).records
        first = next(record for record in records if isinstance(record.event, Steps))
        return (first.time_ns - int(mark.read_text())) / 1e9

    def theirs(number: int) -> float:
        arrived = lab.folder / f"arrived{number}"
        srun = f"srun --ntasks=2 --ntasks-per-node=1 {sys.executable} {program} {free_port()} {arrived}"
        out = lab.folder / "bare.log"
        script = f"{stamp}; export {' '.join(f'{k}={v}' for k, v in variables().items())}; {srun}"
        lab.slurm.ask("sbatch", "--wait", "-N2", "--exclusive", "-o", str(out), "--wrap", script)
        began = int(mark.read_text())
        met, stepped = (
            (max(int(Path(f"{arrived}.{what}.{rank}").read_text()) for rank in range(2)) - began) / 1e9
            for what in ("met", "stepped")
        )
        print(f"\nbare ranks had met after {met:.2f} s")
        return stepped

    assert ratio(ours, theirs, 1.5) <= 1.5


def variables() -> dict[str, str]:
    """Return what a rank of ours has in its environment, too."""
    return {**thread_environment(1), "GLOO_SOCKET_IFNAME": "lo"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_packed_runs_cost_little_more_than_their_processes(lab: ClusterLab) -> None:
    """Runs in one allocation take at most 1.2 times as long as their processes back to back."""
    mark = lab.folder / "began"
    runs = [{"name": f"run{number}", "ranks": 1} for number in range(PACKED)]

    def ours(number: int) -> float:
        name = f"sweep{number}"
        lab.queue(lab.sweep(*runs, name=name, **TRAINED), setup=f"['date +%s%N > {mark}']")
        lab.all_done(name, within_s=PATIENCE_S * 2)
        results = lab.results(name)
        claims = (results.run(str(run["name"]), 0).claim(1) for run in runs)
        return max(claim.stat().st_mtime_ns for claim in claims) / 1e9 - int(mark.read_text()) / 1e9

    def theirs(number: int) -> float:
        folders = [copy_of(lab, f"sweep{number}", str(run["name"])) for run in runs]
        began = time.monotonic()
        for folder in folders:
            process(folder)
        return time.monotonic() - began

    assert ratio(ours, theirs, 1.2) <= 1.2


def copy_of(lab: ClusterLab, sweep: str, run: str) -> RunFolder:
    """Return a folder for the same run, done by nobody."""
    stored = read_spec_file(lab.results(sweep).run(run, 0))
    folder = RunFolder(lab.folder / "bare" / sweep / run)
    StoredRun(spec=stored.spec, data=stored.data).write(folder)
    return folder


def process(folder: RunFolder) -> None:
    """Do a run's one process, with nothing around it."""
    place = Placement(
        run_folder=str(folder.path),
        attempt=1,
        rank=0,
        processes=1,
        local_rank=0,
        threads=usable_cores(),
        process_start_ns=time.time_ns(),
    )
    environment = {**os.environ, **thread_environment(place.threads), **place.to_environment()}
    subprocess.run(WORKER_COMMAND, env=environment, check=True, capture_output=True)

"""`hpcbench run`: one run, here, now, in a folder of the user's choice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hpcbench.cluster import queue
from hpcbench.cluster.admission import cores_shared_by, threads_per_rank, warnings_of, why_not
from hpcbench.cluster.claim import claim_next, latest_claim
from hpcbench.cluster.cores import cores_near_gpus, cores_of_ranks
from hpcbench.cluster.inbox import Inbox
from hpcbench.cluster.jobs import Jobs
from hpcbench.cluster.machine import Machine, this_machine
from hpcbench.cluster.place import become_worker, find_seat, take_seat
from hpcbench.cluster.plan import new_job_id
from hpcbench.cluster.status import RunStatus, run_status
from hpcbench.cluster.stored import StoredRun, read_raw
from hpcbench.cluster.supervisor import Assignment, supervise, thread_environment
from hpcbench.config.catalog import Catalog
from hpcbench.config.data import locate_data
from hpcbench.config.load import load_run
from hpcbench.config.placement import VARIABLE
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError
from hpcbench.records.layout import RunFolder
from hpcbench.records.tail import is_finished


def run_here(
    file: Path | None, settings: Sequence[str], out: Path, catalog: Catalog, *, data_root: str | None
) -> int:
    """Do a run in the foreground, or this process's part of it; returns the exit status."""
    if VARIABLE in os.environ:
        become_worker(None, {})
    machine = this_machine()
    spec = load_run(file, catalog, settings=settings, default_gpus_per_node=len(machine.gpus))
    data = locate_data([], [spec.dataset], catalog, data_root, smoke=spec.smoke)
    folder = RunFolder(out.absolute())
    _refuse_another(folder, spec)
    shares = cores_shared_by([spec])[spec.device]
    stored = StoredRun(spec=spec, data=data.get(spec.dataset), cores_shared_by=shares)
    threads = threads_per_rank(machine, shares)
    seat = find_seat(os.environ, spec)
    if seat is not None:
        _refuse_container(spec)
        become_worker(take_seat(seat, folder, stored, threads), thread_environment(threads))
    before = latest_claim(folder)
    if before is not None and is_finished(folder, before.attempt, spec.processes):
        print(f"{spec.name}: done already, in {out}")
        return 0
    obstacle = why_not(spec, machine, catalog, data)
    if obstacle:
        raise InputError(f"{spec.name}: it can't run here: {obstacle}")
    return _report(_supervise(folder, stored, machine, threads), out)


def _refuse_container(spec: RunSpec) -> None:
    if spec.container.runtime != "none":
        raise InputError(
            f"container {spec.container.runtime}: torchrun or srun has started this rank, "
            "and it can't go into an image any more: start the whole launch in the image, "
            "with container: none"
        )


def _refuse_another(folder: RunFolder, spec: RunSpec) -> None:
    if folder.spec.exists() and read_raw(folder)["run_id"] != spec.run_id:
        raise InputError(f"--out {folder.path}: another run has its records there. Say another folder")


def _supervise(folder: RunFolder, stored: StoredRun, machine: Machine, threads: int) -> RunStatus:
    inbox = Inbox()
    inbox.listen()
    stored.write(folder)
    spec = stored.spec
    shared = somebody_else_runs()
    if shared:
        print("hpcbench: a job is running on this machine: both will be slower", file=sys.stderr)
    near = () if shared else cores_near_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    task = Assignment(
        spec=spec,
        claim=claim_next(folder, spec, f"run-{new_job_id()}"),
        threads=threads,
        cores=cores_of_ranks(spec, near, threads),
        data=stored.data,
        warnings=warnings_of(spec, machine, shared=shared),
        environment=dict(os.environ),
    )
    supervise(task, inbox)
    return run_status(spec.name, spec.repeat, folder, Jobs(), [])


def somebody_else_runs() -> bool:
    """Return whether a job has its turn on this machine, or waits for it."""
    folder = queue.existing_folder()
    return folder is not None and any(ticket.alive() for ticket in queue.tickets(folder))


def _report(status: RunStatus, out: Path) -> int:
    if status.state == "done":
        limit = f" (out of {status.limit}, which is a result)" if status.limit else ""
        print(f"{status.name}: done in {status.wall_s or 0:.1f} s{limit}, records in {out}")
        return 0
    for line in status.last_lines:
        print(f"    {line}", file=sys.stderr)
    print(f"hpcbench: {status.name}: {status.state}: {status.reason}", file=sys.stderr)
    return 128 + signal.SIGINT if status.state == "interrupted" else 1

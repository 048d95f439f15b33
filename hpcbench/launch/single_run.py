"""`hpcbench run`: one run in the foreground on this machine, or this process as one rank of a launch by
torchrun or srun.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.admission import devices_sharing_cores, obstacle_to_run, threads_per_rank, warnings_of
from hpcbench.launch.job_execution import rank_runtime
from hpcbench.launch.machine_queue import is_machine_busy
from hpcbench.launch.machine_resources import Machine, cores_near_gpus, cores_of_ranks, this_machine
from hpcbench.launch.rank_processes import WORKER_COMMAND, SupervisorInbox
from hpcbench.launch.supervisor import Assignment, supervise, thread_environment
from hpcbench.runs.claim import Claim, claim_next, latest_claim
from hpcbench.runs.jobs import Jobs
from hpcbench.runs.ledger import new_job_id
from hpcbench.runs.placement import PLACEMENT_VARIABLE, TORCHRUN, Placement, without_launcher_variables
from hpcbench.runs.record_reader import is_finished
from hpcbench.runs.results_folder import RunFolder, StoredRun, read_spec_json
from hpcbench.runs.run_status import RunStatus, run_status
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.data_location import locate_data
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.sweep_loading import load_run

logger = logging.getLogger(__name__)

CLAIM_WAIT_S = 120.0
CLAIM_POLL_S = 0.05
SRUN_VARIABLES = (
    "SLURM_STEP_ID",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "SLURM_NODEID",
)


@dataclass(frozen=True, kw_only=True)
class LaunchedRank:
    """A rank's place as its launcher tells it; `launch` names this one start of all ranks."""

    launch: str
    rank: int
    processes: int
    local_rank: int
    node: int
    nodes: int


def find_launched_rank(environment: Mapping[str, str], spec: RunSpec) -> LaunchedRank | None:
    """Return this process's place in a launch around us; None where it has to start its own ranks.

    Raises InputError where torchrun has started another number of ranks than the run has.
    """
    if all(name in environment for name in TORCHRUN):
        return _launched_by_torchrun(environment, spec)
    if all(name in environment for name in SRUN_VARIABLES):
        # A step of another size is none of this run: it has started one hpcbench on a node.
        matches = spec.processes > 1 and int(environment["SLURM_NTASKS"]) == spec.processes
        return _launched_by_srun(environment) if matches else None
    return None


def _launched_by_torchrun(environment: Mapping[str, str], spec: RunSpec) -> LaunchedRank:
    processes = int(environment["WORLD_SIZE"])
    if processes != spec.processes:
        raise InputError(
            f"torchrun has started {processes} processes, and the run has {spec.processes}: "
            "say --ranks, or start as many"
        )
    local = int(environment.get("LOCAL_WORLD_SIZE", processes))
    identity = (environment.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    restart = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return LaunchedRank(
        launch=f"torchrun-{'-'.join(identity)}-{restart}",
        rank=int(environment["RANK"]),
        processes=processes,
        local_rank=int(environment["LOCAL_RANK"]),
        node=int(environment.get("GROUP_RANK", "0")),
        nodes=-(-processes // local),
    )


def _launched_by_srun(environment: Mapping[str, str]) -> LaunchedRank:
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return LaunchedRank(
        launch=f"srun-{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}-{restart}",
        rank=int(environment["SLURM_PROCID"]),
        processes=int(environment["SLURM_NTASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        node=int(environment["SLURM_NODEID"]),
        nodes=int(environment.get("SLURM_STEP_NUM_NODES", "1")),
    )


def join_launch(launched: LaunchedRank, folder: RunFolder, stored: StoredRun, threads: int) -> Placement:
    """Join the launch: rank 0 claims the next attempt, the others wait for it."""
    if launched.rank == 0:
        stored.write(folder)
        claim = claim_next(folder, stored.spec, launched.launch)
    else:
        claim = _wait_for_claim(launched, folder)
    return Placement(
        run_folder=str(folder.path),
        attempt=claim.attempt,
        rank=launched.rank,
        processes=launched.processes,
        local_rank=launched.local_rank,
        node=launched.node,
        nodes=launched.nodes,
        address="127.0.0.1" if launched.nodes == 1 else claim.owner.host,
        threads=threads,
        data=stored.data,
        process_start_ns=time.time_ns(),
    )


def _wait_for_claim(launched: LaunchedRank, folder: RunFolder) -> Claim:
    deadline = time.monotonic() + CLAIM_WAIT_S
    while time.monotonic() < deadline:
        claim = latest_claim(folder)
        if claim is not None and claim.job_id == launched.launch:
            return claim
        time.sleep(CLAIM_POLL_S)
    raise HpcbenchError(
        f"rank 0 has not claimed {folder.path} within {CLAIM_WAIT_S:.0f} s: did it fail to start?"
    )


def exec_worker(placement: Placement | None, thread_variables: Mapping[str, str]) -> None:
    """Turn this process into a rank; does not return. None: a supervisor has placed it already."""
    environment = dict(os.environ)
    if placement is not None:
        environment = {
            **without_launcher_variables(environment),
            **thread_variables,
            **placement.to_environment(),
        }
    assert PLACEMENT_VARIABLE in environment
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, WORKER_COMMAND, environment)


def run_here(
    file: Path | None, settings: Sequence[str], out: Path, catalog: Catalog, *, data_root: str | None
) -> tuple[RunStatus, bool]:
    """Do a run in the foreground; returns its status, and whether it was done before.

    In a launch by torchrun or srun this process becomes a rank instead.
    """
    if PLACEMENT_VARIABLE in os.environ:
        exec_worker(None, {})
    machine = this_machine()
    spec = load_run(file, catalog, settings=settings, default_gpus_per_node=len(machine.gpus))
    data = locate_data([], [spec.dataset], catalog, data_root, smoke=spec.smoke)
    folder = RunFolder(out.absolute())
    _refuse_other_run(folder, spec)
    shares = devices_sharing_cores([spec])[spec.device]
    stored = StoredRun(spec=spec, data=data.get(spec.dataset), cores_shared_by=shares)
    threads = threads_per_rank(machine, shares)
    launched = find_launched_rank(os.environ, spec)
    if launched is not None:
        _refuse_container(spec)
        exec_worker(join_launch(launched, folder, stored, threads), thread_environment(threads))
    before = latest_claim(folder)
    if before is not None and is_finished(folder, before.attempt, spec.processes):
        return run_status(spec.name, spec.repeat, folder, Jobs(), []), True
    obstacle = obstacle_to_run(spec, machine, catalog, data)
    if obstacle:
        raise InputError(f"{spec.name}: it can't run here: {obstacle}")
    return _run_supervised(folder, stored, machine, threads), False


def _refuse_container(spec: RunSpec) -> None:
    if spec.container.runtime != "none":
        raise InputError(
            f"container {spec.container.runtime}: torchrun or srun has started this rank, "
            "and it can't go into an image any more: start the whole launch in the image, "
            "with container: none"
        )


def _refuse_other_run(folder: RunFolder, spec: RunSpec) -> None:
    if folder.spec.exists() and read_spec_json(folder)["run_id"] != spec.run_id:
        raise InputError(f"--out {folder.path}: another run has its records there. Say another folder")


def _run_supervised(folder: RunFolder, stored: StoredRun, machine: Machine, threads: int) -> RunStatus:
    inbox = SupervisorInbox()
    inbox.listen()
    stored.write(folder)
    spec = stored.spec
    shared = is_machine_busy()
    if shared:
        logger.warning("a job is running on this machine: both will be slower")
    near = () if shared else cores_near_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    task = Assignment(
        spec=spec,
        claim=claim_next(folder, spec, f"run-{new_job_id()}"),
        threads=threads,
        cores=cores_of_ranks(spec, near, threads),
        data=stored.data,
        warnings=warnings_of(spec, machine, shared=shared),
        environment=dict(os.environ),
        runtime=rank_runtime(stored, folder, os.environ),
    )
    supervise(task, inbox)
    return run_status(spec.name, spec.repeat, folder, Jobs(), [])

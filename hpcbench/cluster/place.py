"""`hpcbench run` as one rank of many: started by torchrun, or by srun inside a step of the run's size.

All ranks of such a launch share the run's folder. Rank 0 describes the run there and claims the attempt; the
others wait for that claim, and learn from it the number of the attempt and where rank 0 is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from hpcbench.cluster.claim import Claim, claim_next, latest_claim
from hpcbench.cluster.stored import StoredRun
from hpcbench.config.placement import TORCHRUN, VARIABLE, Placement, without_foreign
from hpcbench.config.spec import RunSpec
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.records.layout import RunFolder

WAIT_S = 120.0
POLL_S = 0.05
SRUN = ("SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID")


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A rank's place as its launcher tells it; `launch` names this one start of all ranks."""

    launch: str
    rank: int
    processes: int
    local_rank: int
    node: int
    nodes: int


def find_seat(environment: Mapping[str, str], spec: RunSpec) -> Seat | None:
    """Return this process's place in a launch around us; None where it has to start its own ranks.

    Raises InputError where torchrun has started another number of ranks than the run has.
    """
    if all(name in environment for name in TORCHRUN):
        return _of_torchrun(environment, spec)
    if all(name in environment for name in SRUN):
        # A step of another size is not about us: it is how somebody started one hpcbench on a node.
        matches = spec.processes > 1 and int(environment["SLURM_NTASKS"]) == spec.processes
        return _of_srun(environment) if matches else None
    return None


def _of_torchrun(environment: Mapping[str, str], spec: RunSpec) -> Seat:
    processes = int(environment["WORLD_SIZE"])
    if processes != spec.processes:
        raise InputError(
            f"torchrun has started {processes} processes, and the run has {spec.processes}: "
            "say --ranks, or start as many"
        )
    local = int(environment.get("LOCAL_WORLD_SIZE", processes))
    identity = (environment.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    restart = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Seat(
        launch=f"torchrun-{'-'.join(identity)}-{restart}",
        rank=int(environment["RANK"]),
        processes=processes,
        local_rank=int(environment["LOCAL_RANK"]),
        node=int(environment.get("GROUP_RANK", "0")),
        nodes=-(-processes // local),
    )


def _of_srun(environment: Mapping[str, str]) -> Seat:
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return Seat(
        launch=f"srun-{environment['SLURM_JOB_ID']}.{environment['SLURM_STEP_ID']}-{restart}",
        rank=int(environment["SLURM_PROCID"]),
        processes=int(environment["SLURM_NTASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        node=int(environment["SLURM_NODEID"]),
        nodes=int(environment.get("SLURM_STEP_NUM_NODES", "1")),
    )


def take_seat(seat: Seat, folder: RunFolder, stored: StoredRun, threads: int) -> Placement:
    """Join the launch: rank 0 claims the next attempt, the others wait for it."""
    if seat.rank == 0:
        stored.write(folder)
        claim = claim_next(folder, stored.spec, seat.launch)
    else:
        claim = _wait_for_claim(seat, folder)
    return Placement(
        run_folder=str(folder.path),
        attempt=claim.attempt,
        rank=seat.rank,
        processes=seat.processes,
        local_rank=seat.local_rank,
        node=seat.node,
        nodes=seat.nodes,
        address="127.0.0.1" if seat.nodes == 1 else claim.owner.host,
        threads=threads,
        data=stored.data,
        process_start_ns=time.time_ns(),
    )


def _wait_for_claim(seat: Seat, folder: RunFolder) -> Claim:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        claim = latest_claim(folder)
        if claim is not None and claim.job_id == seat.launch:
            return claim
        time.sleep(POLL_S)
    raise HpcbenchError(f"rank 0 has not claimed {folder.path} within {WAIT_S:.0f} s: did it fail to start?")


def become_worker(placement: Placement | None, thread_variables: Mapping[str, str]) -> None:
    """Turn this process into a rank; does not return. None: a supervisor has placed it already."""
    environment = dict(os.environ)
    if placement is not None:
        environment = {**without_foreign(environment), **thread_variables, **placement.to_environment()}
    assert VARIABLE in environment
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", "hpcbench.training.worker"], environment)

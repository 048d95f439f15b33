"""Queries to Slurm's commands, each with a time limit: configuration of the cluster, and the states of
jobs from squeue and sacct.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcbench.errors import HpcbenchError
from hpcbench.sweep.run_spec import is_time_limit, seconds_of

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 30.0
CONFIGURATION_FILES = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")


class SlurmError(HpcbenchError):
    """Slurm refuses, or does not answer; the message is its own."""


def run_slurm(command: Sequence[str], *, text: str | None = None, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
    """Return what a command of Slurm prints; raises SlurmError with its message."""
    logger.debug("%s", shlex.join(command))
    try:
        done = subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment_without_defaults(),
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} here: load the Slurm module") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: Slurm did not answer within {timeout_s:.0f} s") from None
    if done.returncode:
        message = " ".join((done.stderr.strip() or done.stdout.strip()).split("\n"))
        raise SlurmError(message or f"{command[0]} left with exit status {done.returncode}")
    return done.stdout


def environment_without_defaults() -> dict[str, str]:
    """Return the environment without the caller's defaults for sbatch and its like.

    A job states all that it wants. Inside an allocation those of the allocation would also apply to it.
    """
    foreign = ("SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def is_installed() -> bool:
    """Return whether jobs can be handed to Slurm from here."""
    return shutil.which("sbatch") is not None


def is_configured() -> bool:
    """Return whether this machine belongs to a cluster, whatever commands it has."""
    named = os.environ.get("SLURM_CONF")
    return any(Path(path).exists() for path in ([named] if named else CONFIGURATION_FILES))


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """`max_array_size` is one more than the largest index of a job array."""

    max_array_size: int
    accounting: bool
    kill_wait_s: int


def read_cluster_config() -> ClusterConfig:
    """Ask the controller; raises SlurmError where there is none or it does not answer."""
    settings = dict(
        re.findall(r"^(\w+)\s*= (.*?)\s*$", run_slurm(["scontrol", "show", "config"]), re.MULTILINE)
    )
    return ClusterConfig(
        max_array_size=int(settings.get("MaxArraySize", "1001")),
        accounting=settings.get("AccountingStorageType", "") == "accounting_storage/slurmdbd",
        kill_wait_s=int(settings.get("KillWait", "30").split()[0]),
    )


def longest_job_s(partition: str | None) -> int | None:
    """Return the time limit of a partition (None: the default one) in seconds; None for no limit."""
    for line in run_slurm(["scontrol", "--oneliner", "show", "partition"]).splitlines():
        facts = dict(each.split("=", 1) for each in line.split() if "=" in each)
        if facts.get("PartitionName") == partition or (partition is None and facts.get("Default") == "YES"):
            limit = facts.get("MaxTime", "UNLIMITED")
            return seconds_of(limit) if is_time_limit(limit) else None
    return None


# Wide enough for anything; squeue pads and cuts each column.
SQUEUE_COLUMNS = {"JobArrayID": 40, "Name": 200, "State": 20, "RestartCnt": 12, "Reason": 80, "NodeList": 400}
FINISHED_STATES = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
WAITING_STATES = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING", "SPECIAL_EXIT"}
)
# Reasons for which a job waits until a person changes something.
PERMANENT_REASONS = frozenset(
    {
        "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "JobHeldAdmin",
        "JobHeldUser", "PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit",
        "PartitionTimeLimit", "ReqNodeNotAvail", "Reservation",
    }
)  # fmt: skip

JobKey = tuple[str, int | None]  # name of a job, index in its array


@dataclass(frozen=True, kw_only=True)
class SlurmJobState:
    """A job, or an element of an array, as Slurm has it."""

    scheduler_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: str = ""

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or is just about to be gone."""
        return self.state not in FINISHED_STATES

    @property
    def waiting(self) -> bool:
        """Whether it has not begun, or has to begin again."""
        return self.state in WAITING_STATES

    def __str__(self) -> str:
        if self.waiting:
            why = f", {self.reason}" if self.reason not in ("", "None") else ""
            stuck = " (it will not start by itself)" if self.reason in PERMANENT_REASONS else ""
            return f"queued as Slurm job {self.scheduler_id}{why}{stuck}"
        on = f" on {self.nodes}" if self.nodes else ""
        return f"Slurm job {self.scheduler_id}: {self.state}{on}"


@dataclass
class SlurmSnapshot:
    """What Slurm knows of some jobs, at the moment of the first question."""

    names: Sequence[str]
    since: str  # ISO time before which none of them was submitted; for the accounting
    _states: dict[JobKey, SlurmJobState] | None = None
    _ended: dict[JobKey, SlurmJobState] | None = None
    problem: str | None = field(default=None)

    def find(self, name: str, index: int | None) -> SlurmJobState | None:
        """Return where a job stands; None for one that the controller does not know (any more)."""
        if self._states is None:
            try:
                self._states = _squeue(self.names)
            except SlurmError as error:
                self._states, self.problem = {}, str(error)
        return self._states.get((name, index))

    def alive(self, name: str, index: int | None) -> bool:
        """Return whether a job waits or works; as long as Slurm does not answer, it may."""
        state = self.find(name, index)
        return state.alive if state else self.problem is not None

    def ending(self, name: str, index: int | None) -> SlurmJobState | None:
        """Return how a job ended: what the controller still knows, else what the accounting has."""
        state = self.find(name, index)
        if state is not None:
            return state
        if self._ended is None:
            try:
                self._ended = _sacct(self.names, self.since)
            except SlurmError:
                self._ended = {}  # no accounting here: only the records are left
        return self._ended.get((name, index))


def _squeue(names: Sequence[str]) -> dict[JobKey, SlurmJobState]:
    layout = ",".join(f"{column}:{width}" for column, width in SQUEUE_COLUMNS.items())
    lines = run_slurm(
        ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", f"--Format={layout}"]
    ).splitlines()
    states = {}
    for line in lines:
        cells, at = {}, 0
        for column, width in SQUEUE_COLUMNS.items():
            cells[column], at = line[at : at + width].strip(), at + width
        slurm_id = cells["JobArrayID"]
        states[cells["Name"], _array_index(slurm_id)] = SlurmJobState(
            scheduler_id=slurm_id,
            state=cells["State"],
            reason=cells["Reason"],
            nodes=cells["NodeList"],
            restarts=int(cells["RestartCnt"] or 0),
        )
    return states


def _sacct(names: Sequence[str], since: str) -> dict[JobKey, SlurmJobState]:
    listing = run_slurm(
        [
            "sacct", "--noheader", "--allocations", "--parsable2", f"--name={','.join(names)}",
            f"--starttime={since}", "--format=JobID,JobName,State,ExitCode,NodeList",
        ]
    )  # fmt: skip
    states = {}
    for line in listing.splitlines():
        slurm_id, name, state, exit_code, nodes = line.split("|")
        if "[" not in slurm_id:  # elements that never began
            # "CANCELLED by 1000"
            states[name, _array_index(slurm_id)] = SlurmJobState(
                scheduler_id=slurm_id, state=state.split()[0], nodes=nodes, exit_code=exit_code
            )
    return states


def _array_index(slurm_id: str) -> int | None:
    _, underscore, index = slurm_id.partition("_")
    return int(index) if underscore and index.isdigit() else None

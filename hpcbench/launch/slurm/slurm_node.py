"""What each node of a Slurm job executes (`python -m hpcbench.launch.slurm.slurm_node PLAN`), and how a
job requeues itself.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpcbench.errors import JOB_LOG, HpcbenchError, log_to_stderr
from hpcbench.launch.job_execution import BeforeFirstRun, JobExecution, submitter_environment
from hpcbench.launch.machine_resources import this_machine
from hpcbench.launch.node_staging import keep_staged
from hpcbench.launch.rank_processes import RankSet, SupervisorInbox
from hpcbench.launch.slurm.peers import (
    DistributedRanks,
    NodesMissingError,
    PeerConnection,
    PeerMessage,
    PeerNodes,
    PeerServer,
    PeerSupervisor,
    connect_to_first_node,
)
from hpcbench.launch.slurm.slurm_client import SlurmError, SlurmSnapshot, run_slurm
from hpcbench.launch.supervisor import GRACE_S, Assignment, local_ranks, rank_environment
from hpcbench.runs import ledger
from hpcbench.runs.claim import (
    AlreadyClaimedError,
    Claim,
    claim_next,
    latest_claim,
    read_claim,
    write_identity,
)
from hpcbench.runs.jobs import is_job_over
from hpcbench.runs.ledger import JobPlan, array_element_id, read_plan, run_key
from hpcbench.runs.placement import ranks_on_node
from hpcbench.runs.record_reader import is_finished
from hpcbench.runs.results_folder import ResultsFolder, RunFolder, StoredRun, read_spec_file
from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class SlurmTask:
    """A node of a job. `index` is that of an array's element, `names` are the job's nodes, first to last."""

    slurm_id: str
    index: int | None
    node: int
    names: tuple[str, ...]
    restart: int

    @property
    def name(self) -> str:
        """What Slurm calls this node."""
        return self.names[self.node]

    def own_runs(self, runs: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
        """Return the runs of a job that are this element's, where it is an array."""
        return runs if self.index is None else runs[self.index : self.index + 1]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SlurmTask:
        """Read Slurm's variables; raises SlurmError where its commands are missing on a node."""
        index = environment.get("SLURM_ARRAY_TASK_ID")
        listed = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        # "n[1-3,7]": only Slurm itself reads every form of it.
        several = "[" in listed or "," in listed
        names = run_slurm(["scontrol", "show", "hostnames", listed]).split() if several else [listed]
        job = environment["SLURM_JOB_ID"]
        return cls(
            slurm_id=job if index is None else f"{environment['SLURM_ARRAY_JOB_ID']}_{index}",
            index=None if index is None else int(index),
            node=int(environment.get("SLURM_NODEID", "0")),
            names=tuple(names),
            restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        )


logger = logging.getLogger(__name__)

# Sent before the end of the time limit (--signal), and by preemption where the site has it so.
NOTICE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


def requeue_unfinished(
    plan: JobPlan, here: SlurmTask, job_id: str, runs: Sequence[tuple[str, int]], inbox: SupervisorInbox
) -> None:
    """Requeue this job if it was not cancelled, has work left, and may still try."""
    results = ResultsFolder(Path(plan.results))
    left = [run_key(name, repeat) for name, repeat in runs if not _is_run_over(results, name, repeat, job_id)]
    if not left or not _is_end_notice(inbox.stopped_by, here):
        return
    tries = sum(
        isinstance(entry, ledger.JobRequeued) and entry.job_id == job_id and entry.runs[:1] == left[:1]
        for _, entry in ledger.read_ledger(results.ledger)
    )
    if tries >= plan.max_requeues:
        logger.warning("not requeued: %s was not finished in %d starts (max_requeues)", left[0], tries + 1)
        return
    assert inbox.stopped_by is not None
    entry = ledger.JobRequeued(job_id=job_id, runs=left, reason=f"told by {inbox.stopped_by.name}")
    ledger.append_entry(results.ledger, entry)
    logger.info("requeued with %d runs", len(left))
    try:
        run_slurm(["scontrol", "requeue", here.slurm_id])
    except SlurmError as error:
        logger.error("Slurm did not requeue the job: %s", error)


def _is_run_over(results: ResultsFolder, name: str, repeat: int, job_id: str) -> bool:
    """Return whether nothing is left to do of a run: it is done, or has failed."""
    folder = results.run(name, repeat)
    claim = latest_claim(folder)
    if claim is None:
        return False
    if claim.ending and claim.ending.state == "failed":
        return True
    return is_finished(folder, claim.attempt, read_spec_file(folder).spec.processes)


def _is_end_notice(number: signal.Signals | None, here: SlurmTask) -> bool:
    """Return whether a signal means that time is up, and not that the job was cancelled.

    SIGTERM comes with both: only Slurm knows whether a running job is to make room for another.
    """
    if number in NOTICE_SIGNALS:
        return True
    try:
        facts = run_slurm(["scontrol", "--oneliner", "show", "job", here.slurm_id])
    except SlurmError:
        return False
    preempted = re.search(r"PreemptTime=(\S+)", facts)
    return "JobState=RUNNING" in facts and preempted is not None and preempted[1] != "None"


# Nodes of one job start within seconds of each other, but a file may be seen late on some of them.
RENDEZVOUS_TIMEOUT_S = 120.0


def main(plan_path: str) -> int:
    """Do this node's part of a job; returns the exit status."""
    from hpcbench.launch.ceiling_probing import measure_before_first_run

    log_to_stderr(JOB_LOG)
    inbox = SupervisorInbox()
    inbox.listen()
    try:
        plan = _read_plan_on_node(Path(plan_path))
        here = SlurmTask.from_environment(os.environ)
        if not plan.array:
            here = replace(here, index=None)  # a user's own array, inside which we were called
        if here.node == 0:
            return run_first_node(plan, here, inbox, measure_before_first_run)
        return run_other_node(plan, here, inbox)
    except HpcbenchError as error:
        logger.error("%s", error)
        return error.exit_code


def _read_plan_on_node(path: Path) -> JobPlan:
    try:
        return read_plan(path)
    except FileNotFoundError:
        submit_host, node = (os.environ.get(name, "?") for name in ("SLURM_SUBMIT_HOST", "SLURMD_NODENAME"))
        raise HpcbenchError(
            f"{path} was written on {submit_host}, and node {node} does not see it: the results folder must "
            "be on a file system that all nodes share (--results DIR)"
        ) from None


@dataclass(frozen=True, kw_only=True)
class SlurmJobExecution(JobExecution):
    """A job of Slurm, as node 0 does it."""

    here: SlurmTask
    others: PeerNodes | None = None

    @property
    def job_id(self) -> str:
        """How the ledger names this job, or this element of it."""
        return array_element_id(self.plan.job_id, self.here.index)

    def claim(self, folder: RunFolder, spec: RunSpec) -> Claim:
        """Claim the next attempt at a run, unless this job has had its chance at it."""
        before = latest_claim(folder)
        if before and before.job_id == self.job_id and before.ending and before.ending.state == "failed":
            raise AlreadyClaimedError("it has failed in this job before")
        return claim_next(
            folder,
            spec,
            self.job_id,
            silent=self.plan.presume_silent_dead,
            restart=self.here.restart,
            nodes=self.here.names,
            is_over=partial(is_job_over, ResultsFolder(Path(self.plan.results)), SlurmSnapshot),
        )

    def stopped(self) -> bool:
        """Return whether nothing more is to be begun: also where a node is lost."""
        return super().stopped() or bool(self.others and self.others.lost)

    def ranks(self, task: Assignment) -> RankSet:
        """Return what starts the ranks of a run."""
        report = self.inbox.messages.put
        return DistributedRanks(report, task, self.others) if self.others else local_ranks(task, report)

    def assignment(self, stored: StoredRun, claim: Claim) -> Assignment:
        """Return what node 0 gives its ranks."""
        task = replace(super().assignment(stored, claim), grace_s=max(GRACE_S, self.plan.notice_s / 2))
        connections = self.others.server.connections if self.others else {}
        return replace(
            task,
            environment=_with_network_interface(task.environment, next(iter(connections.values()), None)),
        )


def _with_network_interface(environment: Any, connection: PeerConnection | None) -> dict[str, str]:
    """Say which interface leads to the other nodes: a host's own name often leads to its loopback."""
    interface = connection.interface if connection else None
    if interface is None:
        return dict(environment)
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, **environment}


def run_first_node(
    plan: JobPlan, here: SlurmTask, inbox: SupervisorInbox, before_first_run: BeforeFirstRun | None = None
) -> int:
    """Do the runs; the job is requeued where it was stopped for want of time before all were done."""
    write_identity(plan.folder.owner)
    logger.info("Slurm job %s on %s, start %d", here.slurm_id, ", ".join(here.names), here.restart + 1)
    environment = submitter_environment(os.environ, os.environ.get("CUDA_VISIBLE_DEVICES"))
    job = SlurmJobExecution(
        plan=plan, machine=this_machine(environment), environment=environment, inbox=inbox, here=here
    )
    if len(here.names) > 1:
        server = PeerServer(_rendezvous_file(plan, here), list(here.names))
        others = PeerNodes(server, here.names, inbox)
        server.accept_all(others.on_message, RENDEZVOUS_TIMEOUT_S)
        job = replace(job, others=others)
    runs = here.own_runs(plan.runs)
    job.do_runs(runs, before_first_run)
    if inbox.stopped():
        requeue_unfinished(plan, here, job.job_id, runs, inbox)
    if job.others:
        job.others.server.send_all({"do": "leave"})
        if job.others.lost:
            raise HpcbenchError(f"lost {', '.join(job.others.lost)}: what is left can't be done here")
    return 1 if job.failed else 0


def run_other_node(plan: JobPlan, here: SlurmTask, inbox: SupervisorInbox) -> int:
    """Start ranks when node 0 says so."""
    connection = connect_to_first_node(_rendezvous_file(plan, here), here.node, RENDEZVOUS_TIMEOUT_S)
    connection.listen(lambda message: inbox.messages.put(message or {"do": "lost"}))
    environment = submitter_environment(os.environ, os.environ.get("CUDA_VISIBLE_DEVICES"))
    job = JobExecution(
        plan=plan,
        machine=this_machine(environment),
        environment=_with_network_interface(environment, connection),
        inbox=inbox,
    )

    def assign(order: PeerMessage) -> tuple[Assignment, dict[int, dict[str, str]]]:
        folder = RunFolder(Path(order["folder"]))
        stored = read_spec_file(folder)
        task = job.assignment(stored, read_claim(folder, order["attempt"]))
        task = replace(task, node=here.node, address=connection.peer)
        ranks = ranks_on_node(stored.spec, here.node)
        key = run_key(stored.spec.name, stored.spec.repeat)
        logger.info("%s: ranks %s", key, ", ".join(map(str, ranks)) or "none")
        return task, {rank: rank_environment(task, rank) for rank in ranks}

    with keep_staged(Path(plan.results), here.own_runs(plan.runs)):
        if PeerSupervisor(connection, inbox, assign).serve():
            return 0
    raise NodesMissingError(f"the supervisor on {here.names[0]} has gone")


def _rendezvous_file(plan: JobPlan, here: SlurmTask) -> Path:
    part = f"{'' if here.index is None else here.index}r{here.restart}"
    return plan.folder.rendezvous(part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""What each node of a Slurm job executes: `python -m hpcbench.cluster.slurm.node PLAN`.

Node 0 does the runs one after the other; the others start their share of the ranks when it says so. All of it
happens on the host, whatever the ranks run in: so the job can be put back into the queue from here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpcbench.cluster.claim import AlreadyClaimedError, Claim, claim_next, latest_claim, read_claim
from hpcbench.cluster.inbox import Inbox
from hpcbench.cluster.job import Work, submitters_environment
from hpcbench.cluster.joblog import say
from hpcbench.cluster.jobs import is_over, write_identity
from hpcbench.cluster.machine import this_machine
from hpcbench.cluster.plan import JobPlan, element_id, read_plan, run_key
from hpcbench.cluster.probing import probe_first
from hpcbench.cluster.ranks import RankSet
from hpcbench.cluster.seats import ranks_on
from hpcbench.cluster.slurm import requeue
from hpcbench.cluster.slurm.here import Here
from hpcbench.cluster.slurm.link import Message, NodesMissingError, Post, Wire, connect
from hpcbench.cluster.slurm.party import Follower, Others, Party
from hpcbench.cluster.staging import kept_staged
from hpcbench.cluster.stored import StoredRun, read_stored
from hpcbench.cluster.supervisor import GRACE_S, Assignment, rank_environment, ranks_here
from hpcbench.config.spec import RunSpec
from hpcbench.errors import HpcbenchError
from hpcbench.records.layout import ResultsFolder, RunFolder

# Nodes of one job start within seconds of each other, but a file may be seen late on some of them.
MEET_S = 120.0


def main(plan_path: str) -> int:
    """Do this node's part of a job; returns the exit status."""
    inbox = Inbox()
    inbox.listen()
    try:
        plan = _read(Path(plan_path))
        here = Here.find(os.environ)
        if not plan.array:
            here = replace(here, index=None)  # somebody's own array, inside which we were called
        if here.node == 0:
            return lead(plan, here, inbox)
        return follow(plan, here, inbox)
    except HpcbenchError as error:
        print(f"hpcbench: {error}", file=sys.stderr)
        return error.exit_code


def _read(path: Path) -> JobPlan:
    try:
        return read_plan(path)
    except FileNotFoundError:
        there, here = os.environ.get("SLURM_SUBMIT_HOST", "?"), os.environ.get("SLURMD_NODENAME", "?")
        raise HpcbenchError(
            f"{path} was written on {there}, and node {here} does not see it: the results folder has to be "
            "on a file system that all nodes share (--results DIR)"
        ) from None


@dataclass(frozen=True, kw_only=True)
class ClusterWork(Work):
    """A job of Slurm, as node 0 does it."""

    here: Here
    others: Others | None = None

    @property
    def job_id(self) -> str:
        """How the ledger names this job, or this element of it."""
        return element_id(self.plan.job_id, self.here.index)

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
            is_over=partial(is_over, ResultsFolder(Path(self.plan.results))),
        )

    def ranks(self, task: Assignment) -> RankSet:
        """Return who starts the ranks of a run."""
        report = self.inbox.messages.put
        return Party(report, task, self.others) if self.others else ranks_here(task, report)

    def assignment(self, stored: StoredRun, claim: Claim) -> Assignment:
        """Return what node 0 gives its ranks."""
        task = replace(super().assignment(stored, claim), grace_s=max(GRACE_S, self.plan.notice_s / 2))
        wires = self.others.post.wires if self.others else {}
        return replace(task, environment=_on_network(task.environment, next(iter(wires.values()), None)))


def _on_network(environment: Any, wire: Wire | None) -> dict[str, str]:
    """Say which interface leads to the other nodes: a host's own name often leads to its loopback."""
    interface = wire.interface if wire else None
    if interface is None:
        return dict(environment)
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface, **environment}


def lead(plan: JobPlan, here: Here, inbox: Inbox) -> int:
    """Do the runs, and see to it that what is left of them is done later if there is no time."""
    write_identity(plan.folder.owner)
    say(f"Slurm job {here.slurm_id} on {', '.join(here.names)}, start {here.restart + 1}")
    environment = submitters_environment(os.environ, os.environ.get("CUDA_VISIBLE_DEVICES"))
    work = ClusterWork(
        plan=plan, machine=this_machine(environment), environment=environment, inbox=inbox, here=here
    )
    if len(here.names) > 1:
        post = Post(_meeting(plan, here), list(here.names))
        others = Others(post, here.names, inbox)
        post.gather(others.hear, MEET_S)
        work = replace(work, others=others)
    runs = here.part_of(plan.runs)
    with kept_staged(Path(plan.results), runs, inbox.stopped):
        probe_first(work, runs)
        for name, repeat in runs:
            if inbox.stopped() or (work.others and work.others.lost):
                break
            work.do(name, repeat)
    if inbox.stopped():
        requeue.if_worth_it(plan, here, work.job_id, runs, inbox)
    if work.others:
        work.others.post.send_all({"do": "leave"})
        if work.others.lost:
            raise HpcbenchError(f"lost {', '.join(work.others.lost)}: what is left can't be done here")
    return 1 if work.failed else 0


def follow(plan: JobPlan, here: Here, inbox: Inbox) -> int:
    """Start ranks when node 0 says so."""
    wire = connect(_meeting(plan, here), here.node, MEET_S)
    wire.listen(lambda message: inbox.messages.put(message or {"do": "lost"}))
    environment = submitters_environment(os.environ, os.environ.get("CUDA_VISIBLE_DEVICES"))
    work = Work(
        plan=plan,
        machine=this_machine(environment),
        environment=_on_network(environment, wire),
        inbox=inbox,
    )

    def assign(order: Message) -> tuple[Assignment, dict[int, dict[str, str]]]:
        folder = RunFolder(Path(order["folder"]))
        stored = read_stored(folder)
        task = work.assignment(stored, read_claim(folder, order["attempt"]))
        task = replace(task, node=here.node, address=wire.peer)
        mine = ranks_on(stored.spec, here.node)
        say(f"{run_key(stored.spec.name, stored.spec.repeat)}: ranks {', '.join(map(str, mine)) or 'none'}")
        return task, {rank: rank_environment(task, rank) for rank in mine}

    with kept_staged(Path(plan.results), here.part_of(plan.runs)):
        if Follower(wire, inbox, assign).obey():
            return 0
    raise NodesMissingError(f"the supervisor on {here.names[0]} has gone")


def _meeting(plan: JobPlan, here: Here) -> Path:
    part = f"{'' if here.index is None else here.index}r{here.restart}"
    return plan.folder.meeting(part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

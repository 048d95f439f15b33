"""What a job executes: it waits for its turn on the machine, then does its runs one after the other."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hpcbench.errors import JOB_LOG, HpcbenchError, log_to_stderr
from hpcbench.launch import machine_queue
from hpcbench.launch.admission import is_oversubscribed, threads_per_rank, warnings_of
from hpcbench.launch.machine_resources import Machine, cores_near_gpus, cores_of_ranks, this_machine
from hpcbench.launch.node_staging import keep_staged
from hpcbench.launch.rank_processes import BareRuntime, RankRuntime, RankSet, SupervisorInbox
from hpcbench.launch.supervisor import Assignment, local_ranks, supervise
from hpcbench.runs import ledger
from hpcbench.runs.claim import AlreadyClaimedError, Claim, Ending, claim_next, write_identity
from hpcbench.runs.ledger import JobPlan, read_plan, run_key
from hpcbench.runs.results_folder import ResultsFolder, RunFolder, StoredRun, read_spec_file
from hpcbench.sweep.run_spec import RunSpec

logger = logging.getLogger(__name__)

SRUN_POLL_S = 0.2


def run_job(plan_path: str, before_first_run: BeforeFirstRun | None = None) -> None:
    """Do the runs of a plan. A run that fails does not end the others; a signal ends the job."""
    log_to_stderr(JOB_LOG)
    inbox = SupervisorInbox()
    inbox.listen()
    plan = read_plan(Path(plan_path))
    write_identity(plan.folder.owner)
    environment = submitter_environment(os.environ, plan.visible_devices)
    job = JobExecution(plan=plan, machine=this_machine(environment), environment=environment, inbox=inbox)
    with machine_queue.wait_for_turn(
        plan.job_id,
        Path(plan.results),
        shared=plan.shared and not job.wants_all_cores(),
        folder=machine_queue.queue_folder(),
        stopped=inbox.stopped,
    ):
        if plan.nodes > 1:
            run_on_allocation(plan, inbox)
        else:
            job.do_runs(plan.runs, before_first_run)


def run_on_allocation(plan: JobPlan, inbox: SupervisorInbox) -> None:
    """Do the runs on several nodes of the allocation around this process, with a supervisor on each."""
    process = subprocess.Popen(
        [
            "srun", "--overlap", f"--nodes={plan.nodes}", f"--ntasks={plan.nodes}", "--ntasks-per-node=1",
            "--cpu-bind=none", "--kill-on-bad-exit=1", "--unbuffered",
            sys.executable, "-u", "-m", "hpcbench.launch.slurm.slurm_node", str(plan.folder.plan),
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    signalled = False
    while process.poll() is None:
        if inbox.stopped() and not signalled:
            signalled = True
            process.send_signal(signal.SIGTERM)  # srun passes it on to every node
        time.sleep(SRUN_POLL_S)


def submitter_environment(environment: Mapping[str, str], visible_devices: str | None) -> dict[str, str]:
    """Return the environment without the changes of submitit: its own variables, and the GPUs it hides."""
    hidden = ("SUBMITIT_", "CUDA_VISIBLE_DEVICES")
    kept = {key: value for key, value in environment.items() if not key.startswith(hidden)}
    return kept if visible_devices is None else kept | {"CUDA_VISIBLE_DEVICES": visible_devices}


@dataclass(frozen=True, kw_only=True)
class JobExecution:
    """A job that has its turn."""

    plan: JobPlan
    machine: Machine
    environment: dict[str, str]
    inbox: SupervisorInbox
    failed: list[str] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        """How the ledger names this job."""
        return self.plan.job_id

    def wants_all_cores(self) -> bool:
        """Return whether a run has more processes than there are cores: such a run goes alone."""
        results = ResultsFolder(Path(self.plan.results))
        specs = (read_spec_file(results.run(name, repeat)).spec for name, repeat in self.plan.runs)
        return any(is_oversubscribed(spec, self.machine) for spec in specs)

    def stopped(self) -> bool:
        """Return whether nothing more is to be begun."""
        return self.inbox.stopped()

    def do_runs(self, runs: Sequence[tuple[str, int]], before_first_run: BeforeFirstRun | None) -> None:
        """Do runs in their order, with the data set on this node's disk that several of them stage."""
        with keep_staged(Path(self.plan.results), runs, self.inbox.stopped):
            if before_first_run:
                self._call_hook(before_first_run, runs)
            for name, repeat in runs:
                if self.stopped():
                    break
                self.do_run(name, repeat)
        if self.inbox.stopped():
            logger.info("stopped by %s", self.inbox.stopped_by)

    def _call_hook(self, hook: BeforeFirstRun, runs: Sequence[tuple[str, int]]) -> None:
        """Call what is to be done before the first run. Its failure is logged and fails no run."""
        try:
            hook(self, runs)
        except Exception:
            logger.exception("what was to be done before the first run failed; the runs are done")

    def do_run(self, name: str, repeat: int) -> None:
        """Do a run, unless another process has it."""
        results = ResultsFolder(Path(self.plan.results))
        folder, key = results.run(name, repeat), run_key(name, repeat)
        began = time.monotonic()
        try:
            stored = read_spec_file(folder)
            claim = self.claim(folder, stored.spec)
            entry = ledger.AttemptClaimed(
                job_id=claim.job_id, run=key, run_id=stored.spec.run_id, attempt=claim.attempt
            )
            ledger.append_entry(results.ledger, entry)
            ending = self.supervise(stored, claim)
        except AlreadyClaimedError as error:
            logger.info("%s: skipped: %s", key, error)
        except (HpcbenchError, OSError) as error:
            # A full disk, a folder that was removed: the other runs may still be possible.
            logger.error("%s: could not be done: %s", key, error)
            self.failed.append(key)
        else:
            logger.info("%s: %s after %.1f s", key, _describe_ending(ending), time.monotonic() - began)
            if ending.state == "failed":
                self.failed.append(key)

    def supervise(self, stored: StoredRun, claim: Claim) -> Ending:
        """Do a claimed attempt with this job's cores, devices and nodes."""
        task = self.assignment(stored, claim)
        return supervise(task, self.inbox, self.ranks(task))

    def claim(self, folder: RunFolder, spec: RunSpec) -> Claim:
        """Claim the next attempt at a run; raises AlreadyClaimedError."""
        return claim_next(folder, spec, self.job_id, silent=self.plan.presume_silent_dead)

    def ranks(self, task: Assignment) -> RankSet:
        """Return what starts the ranks of a run."""
        return local_ranks(task, self.inbox.messages.put)

    def assignment(self, stored: StoredRun, claim: Claim) -> Assignment:
        """Return what is needed to start the ranks of a claimed run."""
        threads = threads_per_rank(self.machine, stored.cores_shared_by)
        near = () if self.plan.shared else cores_near_gpus(self.environment.get("CUDA_VISIBLE_DEVICES"))
        return Assignment(
            spec=stored.spec,
            claim=claim,
            threads=threads,
            cores=cores_of_ranks(stored.spec, near, threads),
            data=stored.data,
            warnings=warnings_of(stored.spec, self.machine, shared=self.plan.shared),
            environment=self.environment,
            runtime=rank_runtime(stored, claim.folder, self.environment),
        )


# Given a job that has its turn, and its runs.
BeforeFirstRun = Callable[[JobExecution, Sequence[tuple[str, int]]], None]


def rank_runtime(
    stored: StoredRun, folder: RunFolder, environment: Mapping[str, str]
) -> Callable[[], RankRuntime]:
    """Return what makes ready to start a run's ranks here: in containers where the run has an image."""
    if stored.spec.container.runtime == "none":
        return BareRuntime
    # Only here: it needs numpy and more, which a run without an image need not wait for.
    from hpcbench.launch.containers.rank_containers import prepare_containers

    return partial(prepare_containers, stored.spec, folder.path, stored.data, environment)


def _describe_ending(ending: Ending) -> str:
    return f"{ending.state}: {ending.reason}" if ending.reason else ending.state

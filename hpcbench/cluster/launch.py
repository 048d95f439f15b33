"""Hands a job to submitit, in a session of its own: `python -m hpcbench.cluster.launch PLAN`.

submitit starts a local job as a child in its caller's process group. There it would get the Ctrl-C and the
hang-up of the submitter's terminal; from here it gets neither.
"""

from __future__ import annotations

import sys
from pathlib import Path

import submitit

from hpcbench.cluster.job import run_job
from hpcbench.cluster.jobs import write_identity
from hpcbench.cluster.plan import read_plan

# submitit ends a local job after this long, and counts the time in the machine's queue, which nobody can
# know. The limits of the runs are the supervisor's business.
LONGER_THAN_ANY_QUEUE_MIN = 365 * 24 * 60


def main(plan_path: str) -> None:
    """Submit, note who executes it, and leave: the job outlives this process."""
    plan = read_plan(Path(plan_path))
    executor = submitit.LocalExecutor(folder=plan.folder.path / "submitit")
    executor.update_parameters(timeout_min=LONGER_THAN_ANY_QUEUE_MIN)
    job = executor.submit(run_job, plan_path)
    write_identity(plan.folder.controller, int(job.job_id))


if __name__ == "__main__":
    main(sys.argv[1])

"""Starts a local job through submitit in a session of its own:

`python -m hpcbench.launch.start_local_job PLAN`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import submitit

from hpcbench.launch.job_execution import run_job
from hpcbench.runs.claim import write_identity
from hpcbench.runs.ledger import read_plan

# submitit ends a local job after this long, and counts the time in the machine's queue, which is
# unknown. The limits of the runs are the supervisor's business.
JOB_TIMEOUT_MIN = 365 * 24 * 60


def main(plan_path: str) -> None:
    """Submit, record which process executes it, and leave: the job outlives this process."""
    from hpcbench.launch.ceiling_probing import measure_before_first_run

    plan = read_plan(Path(plan_path))
    executor = submitit.LocalExecutor(folder=plan.folder.path / "submitit")
    executor.update_parameters(timeout_min=JOB_TIMEOUT_MIN)
    job = executor.submit(run_job, plan_path, measure_before_first_run)
    write_identity(plan.folder.controller, int(job.job_id))


if __name__ == "__main__":
    main(sys.argv[1])

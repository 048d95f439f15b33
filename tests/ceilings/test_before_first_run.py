"""What a job calls before its first run is never the reason that a run fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpcbench.runs.ledger import JobPlan
from hpcbench.runs.results_folder import StoredRun
from tests.cluster.helpers import Lab, noop

HOOKS = {"none": "None", "fails": "lambda job, runs: 1 / 0"}


def write_plan(lab: Lab) -> Path:
    """Return the plan of a job with one run that trains nothing."""
    StoredRun(spec=noop()).write(lab.results().run("run", 0))
    plan = JobPlan(job_id="job", results=str(lab.results().path), runs=(("run", 0),))
    plan.write()
    return plan.folder.plan


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_fails_fails_no_run(lab: Lab, hook: str) -> None:
    """The job does its runs without a hook, and with one that raises, which the log shows."""
    code = (
        f"import sys; from hpcbench.launch.job_execution import run_job; run_job(sys.argv[1], {HOOKS[hook]})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, write_plan(lab)],
        env=lab.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert lab.states()["run/r0"].state == "done"
    assert ("ZeroDivisionError" in done.stderr) == (hook == "fails")


def test_the_module_of_jobs_does_not_import_probing() -> None:
    """Only the entry point of a job names what it does before its first run."""
    code = "import sys, hpcbench.launch.job_execution\nsys.exit(sys.argv[1] in sys.modules)"
    subprocess.run([sys.executable, "-c", code, "hpcbench.launch.ceiling_probing"], check=True)

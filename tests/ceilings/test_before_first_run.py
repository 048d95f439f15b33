"""What a job calls before its first run: named in its plan, and never the reason that a run fails."""

from __future__ import annotations

import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcbench.cli.submit_and_wait import CEILING_HOOK
from hpcbench.errors import HpcbenchError
from hpcbench.launch.job_execution import BeforeFirstRun
from hpcbench.runs.ledger import JobPlan, read_plan
from hpcbench.runs.spec_file import StoredRun
from tests.cluster.helpers import Lab, noop


def write_plan(lab: Lab, hook: str | None) -> Path:
    """Return the plan of a job with one run that trains nothing."""
    StoredRun(spec=noop()).write(lab.results().run("run", 0))
    plan = JobPlan(job_id="job", results=str(lab.results().path), runs=(("run", 0),), before_first_run=hook)
    plan.write()
    return plan.folder.plan


@pytest.mark.parametrize("hook", [None, "hpcbench.removed:hook", "hpcbench.errors:nearest"])
def test_a_hook_that_fails_fails_no_run(lab: Lab, hook: str | None) -> None:
    """The job does its runs without a hook, with one that does not exist, and with one that raises."""
    code = "import sys; from hpcbench.launch.job_execution import run_job; run_job(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, write_plan(lab, hook)],
        env=lab.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert lab.states()["run/r0"].state == "done"
    assert hook is None or hook in done.stdout + done.stderr


def test_a_plan_names_functions_of_this_package_only(lab: Lab) -> None:
    """The name is imported and called: a plan cannot make a job call something else."""
    with pytest.raises(HpcbenchError, match="os:getcwd"):
        read_plan(write_plan(lab, "os:getcwd"))
    path = write_plan(lab, None)
    before = json.loads(path.read_text())
    del before["before_first_run"]  # a plan that was queued by an earlier version
    path.write_text(json.dumps(before))
    assert read_plan(path).before_first_run is None


def test_the_command_line_names_the_hook_and_jobs_import_it_by_name(lab: Lab) -> None:
    """The name leads to a function that takes a job and its runs; the job's own module does not import it."""
    hook: BeforeFirstRun = pkgutil.resolve_name(CEILING_HOOK)
    assert [*inspect.signature(hook).parameters] == ["work", "runs"]
    code = "import sys, hpcbench.launch.slurm.slurm_node\nsys.exit(sys.argv[1] in sys.modules)"
    subprocess.run([sys.executable, "-c", code, CEILING_HOOK.partition(":")[0]], check=True)
    lab.submit(lab.sweep({"name": "a", "ranks": 1}))
    plan = next(lab.results().jobs.iterdir()) / "plan.json"
    assert read_plan(plan).before_first_run == CEILING_HOOK

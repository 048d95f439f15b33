"""The same truth on a cluster that keeps no accounts."""

from __future__ import annotations

import os
import signal

import pytest

from hpcbench.runs.claim import latest_claim
from tests.cluster.helpers import eventually
from tests.slurm.helpers import ClusterLab, long_run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_done_and_lost_without_accounting(bare_lab: ClusterLab) -> None:
    """Runs are done by their records, running by the queue, and lost when the job left no record."""
    bare_lab.queue(bare_lab.sweep({"name": "short"}, name="first"))
    bare_lab.all_done("first")
    bare_lab.queue(bare_lab.sweep(long_run()))
    bare_lab.training()
    assert bare_lab.status()["long/r0"]["state"] == "running"
    claim = latest_claim(bare_lab.results().run("long", 0))
    assert claim is not None
    os.kill(claim.owner.pid, signal.SIGKILL)
    assert "FAILED" in bare_lab.until("long/r0", "lost")["reason"]
    eventually(lambda: not bare_lab.ranks(), within_s=10)

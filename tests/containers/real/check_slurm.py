"""Ranks in containers on a real cluster: the supervisors are on the host, the ranks in the image."""

from __future__ import annotations

import pytest

from hpcbench.runs.events import Interrupted, Resumed, RunStarted
from tests.containers.real.engines import Engine
from tests.slurm.helpers import PATIENCE_S, ClusterLab, long_run

pytestmark = pytest.mark.timeout(1800)
TWO_NODES = {"nodes": 2, "time": "00:05:00"}


def image_of(engine: Engine) -> dict[str, object]:
    """Return what a run says of its image; the variables of the engine's command come with sbatch."""
    return {"container": {"runtime": engine.name, "image": engine.image}}


def test_two_nodes_train_in_the_image(lab: ClusterLab, engine: Engine) -> None:
    """A run over two nodes is done in containers that find each other, and each record has the digest."""
    run = {
        "name": "run", "dataset": "digits", "model": "smallconv", "ranks": 4, "batch_size": 16,
        "probe": False,
        "resources": TWO_NODES, **image_of(engine),
    }  # fmt: skip
    lab.queue(lab.sweep(run, strategy="ddp", strategy_options={}))
    lab.all_done(within_s=PATIENCE_S * 3)
    assert lab.nodes_of("run") == ("n1", "n2")
    for rank in range(4):
        (started,) = lab.events("run", RunStarted, rank=rank)
        assert started.environment["image_digest"] == engine.digest()


def test_a_requeued_job_goes_on_in_the_image(lab: ClusterLab, engine: Engine) -> None:
    """Ranks leave in good order inside; Slurm starts the job again, and the run goes on in the image."""
    lab.queue(lab.sweep(long_run(epochs=6, **image_of(engine))))
    lab.training(epochs=2)
    (job,) = lab.slurm.jobs()
    lab.slurm.ask("scontrol", "requeue", job)
    lab.all_done(within_s=PATIENCE_S * 3)
    assert lab.events("long", Interrupted)
    assert all(event.epoch > 0 for event in lab.events("long", Resumed))

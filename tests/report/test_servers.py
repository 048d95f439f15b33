from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpcbench.report.collection import collect_results
from hpcbench.runs.events import RunFinished, RunStarted, Steps, Updates
from hpcbench.runs.record_writer import EventWriter
from tests.report.records import RunBuilder, Story, Sweep, spec

ASYNC = {"strategy": "ps", "servers": 1, "strategy_options": {"server": "cpu", "mode": "async"}}


class WithServer(RunBuilder):
    """A run whose workers time push and pull, and whose server writes what it applied."""

    def _window(self, epoch: int, first: int, steps: int, *, counted: bool) -> Steps:
        window = super()._window(epoch, first, steps, counted=counted)
        return replace(window, push_s=window.exchange_s * 0.7, pull_s=window.exchange_s * 0.3)

    def serve(self) -> None:
        """Write the server's record: ten updates of 32 samples a second, and two that were dropped."""
        path = self.folder.events(1, self.spec.ranks)
        with EventWriter(path, run_id=self.spec.run_id, attempt=1, rank=self.spec.ranks) as writer:
            writer.write(RunStarted(spec={}, environment={}, role="serve", process_start_ns=0))
            for number in range(5):
                writer.write(
                    Updates(
                        epoch=1, first_step=10 * number, counted=number > 0, wall_s=2.0, updates=20,
                        samples=20 * 32, dropped=2, dropped_samples=64, workers=[0, 1] * 10,
                        staleness=[0] * 5 + [1] * 12 + [2] * 3, idle_s=0.2, push_s=0.5, update_s=0.4,
                    )
                )  # fmt: skip
            writer.write(
                RunFinished(wall_s=12, startup_s=1, train_s=10, evaluation_s=0, check_s=0, checkpoint_s=0,
                            other_s=1, steps=0, samples=0)
            )  # fmt: skip


def test_an_asynchronous_run_is_as_fast_as_its_server_applies_updates(tmp_path: Path) -> None:
    """Samples of applied updates over the server's wall time, warm-up and dropped gradients left out."""
    sweep = Sweep(tmp_path / "sweep")
    run = WithServer(sweep, spec("async", **ASYNC), Story(rng=random.Random(1)))
    run.finish()
    run.serve()
    synchronous = {**ASYNC, "strategy_options": {"server": "cpu", "mode": "sync"}}
    other = WithServer(sweep, spec("sync", **synchronous), Story(rng=random.Random(2)))
    other.finish()
    other.serve()
    report = collect_results([sweep.folder.path]).report
    runs = pd.read_parquet(report / "runs.parquet").set_index("experiment")
    assert runs.loc["async", "throughput_samples_s"] == pytest.approx(320)
    assert runs.loc["sync", "throughput_samples_s"] == pytest.approx(64 / 0.02, rel=0.05)
    assert runs.loc["async", "push_s"] == pytest.approx(0.7 * runs.loc["async", "exchange_s"])
    pictures = {path.name for path in (report / "plots").glob("*.png")}
    assert any(name.endswith(".staleness.png") for name in pictures)

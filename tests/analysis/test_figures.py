"""Figures of single runs: percentiles, stragglers, energy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.analysis.results_loading import load_results
from hpcbench.analysis.run_figures import RunFigures
from hpcbench.runs.events import Steps
from tests.audit.written import Change, alone, changing, run, telemetry, unchanged, write


def figures_of(folder: Path, change: Change = unchanged, **story: object) -> RunFigures:
    """Return the figures of one repeat of a run of two ranks."""
    write(folder, run("ddp"), change, repeats=1, **story)
    found = load_results([folder]).keyed[0][1].figures
    assert found is not None
    return found


def test_percentiles_are_over_the_steps_of_all_ranks_together(tmp_path: Path) -> None:
    """One rank of two that takes 30 ms instead of 20: the median lies between, the rest is its."""
    slow = changing(Steps, 1, step_s=lambda event: [0.03] * event.steps)
    found = figures_of(tmp_path, slow, noise=0.0)
    assert found.step_p50_s == pytest.approx(0.025)
    assert found.step_p90_s == found.step_p99_s == pytest.approx(0.03)


def test_warm_up_is_in_no_percentile(tmp_path: Path) -> None:
    """Its steps are ten times as long, and do not count."""
    found = figures_of(tmp_path, noise=0.0)
    assert found.step_p99_s == pytest.approx(0.02)


def test_the_slowest_rank_is_held_against_the_median_rank(tmp_path: Path) -> None:
    """One of two works 1.5 times as long as the other: 1.2 times their median."""

    def longer(event: Steps) -> float:
        return 1.5 * (event.forward_backward_s + event.data_wait_s) - event.data_wait_s

    found = figures_of(tmp_path / "slow", changing(Steps, 1, forward_backward_s=longer))
    assert found.slowest_rank_ratio == pytest.approx(1.2)
    assert figures_of(tmp_path / "even").slowest_rank_ratio == pytest.approx(1.0)


def test_one_rank_has_no_other_to_wait_for(tmp_path: Path) -> None:
    """So there is no ratio."""
    write(tmp_path, alone(), repeats=1)
    found = load_results([tmp_path]).keyed[0][1].figures
    assert found is not None and found.slowest_rank_ratio is None


def test_energy_is_power_while_at_work_over_throughput(tmp_path: Path) -> None:
    """Two devices of 300 W; readings in which nothing works do not count."""
    watts = [[300.0, 300.0]] * 5 + [[60.0, 60.0]] * 5
    percent = [[90.0, 95.0]] * 5 + [[0.0, 0.0]] * 5
    seen = [telemetry(device_watts=watts, device_percent=percent)]
    found = figures_of(tmp_path / "gpus", telemetry=seen)
    assert found.throughput_samples_s is not None
    assert found.joules_per_sample == pytest.approx(600 / found.throughput_samples_s)
    assert figures_of(tmp_path / "cpu", telemetry=[telemetry()]).joules_per_sample is None

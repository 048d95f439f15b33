"""Which steps a run does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.sweep.run_spec import Optimizer, RunSpec, Schedule
from hpcbench.training.step_plan import StepPlan, TooFewSamplesError, learning_rate


def _spec(**fields: Any) -> RunSpec:
    return RunSpec(name="n", strategy="single_gpu", **{"epochs": 2, "batch_size": 10, **fields})


@given(
    samples=st.integers(10, 500),
    epochs=st.integers(1, 4),
    warmup=st.integers(0, 30),
    window=st.integers(1, 20),
)
def test_windows_partition_the_steps_of_a_run(samples: int, epochs: int, warmup: int, window: int) -> None:
    """Every step is in exactly one window, in order; windows are counted from the end of warm-up on."""
    plan = StepPlan.of(_spec(epochs=epochs, warmup_steps=warmup, window_steps=window), samples)
    windows = [each for epoch in range(plan.epochs) for each in plan.windows(epoch)]
    assert [step for each in windows for step in each.steps] == list(range(epochs * (samples // 10)))
    assert all(each.counted == (each.steps.start >= plan.warmup_steps) for each in windows)
    assert sum(len(each.steps) for each in windows if not each.counted) == plan.warmup_steps
    assert all(0 < len(each.steps) <= window for each in windows)


def test_steps_end_a_run_inside_an_epoch() -> None:
    """`steps` counts optimizer steps over the run; the last epoch is cut short."""
    plan = StepPlan.of(_spec(epochs=None, steps=25), 100)
    assert (plan.epochs, plan.total_steps, list(plan.steps_of(2))) == (3, 25, list(range(20, 25)))


def test_smoke_cuts_epochs_short() -> None:
    """A scaled-down run has as many epochs as it says, each of as many steps as it may."""
    plan = StepPlan.of(_spec(epochs=2, steps_per_epoch=3), 1000)
    assert (plan.epochs, plan.steps_per_epoch, plan.total_steps) == (2, 3, 6)


def test_short_run_warms_up_half_of_its_steps_at_most() -> None:
    """A run shorter than its warm-up still has steps that count."""
    plan = StepPlan.of(_spec(epochs=None, steps=4, warmup_steps=100), 100)
    assert plan.warmup_steps == 2


def test_an_asynchronous_epoch_consumes_the_training_set_once() -> None:
    """Two workers that update alone share an epoch: half the steps, each of two updates."""
    alone = _spec(data_shards=2, updates_per_step=2)
    assert alone.global_batch == _spec().global_batch
    assert StepPlan.of(alone, 1000).steps_per_epoch * 2 == StepPlan.of(_spec(), 1000).steps_per_epoch


def test_training_set_smaller_than_a_global_batch_is_refused() -> None:
    """An epoch of no steps would train nothing and look fast."""
    with pytest.raises(TooFewSamplesError, match=r"takes 20 samples, .* set of 15"):
        StepPlan.of(_spec(data_shards=2), 15)


def test_number_of_ranks_changes_no_step() -> None:
    """The same global batch means the same steps, however many shards it is cut into."""
    one = StepPlan.of(_spec(batch_size=40), 1437)
    four = StepPlan.of(_spec(batch_size=10, data_shards=4), 1437)
    assert one == four


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(name="constant"), [1.0, 1.0, 1.0, 1.0]),
        (Schedule(name="cosine"), [1.0, 0.8535534, 0.5, 0.1464466]),
        (Schedule(name="step", step_epochs=1, gamma=0.1), [1.0, 1.0, 0.1, 0.1]),
        (Schedule(name="constant", warmup_epochs=1), [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_follow_their_formula(schedule: Schedule, expected: list[float]) -> None:
    """The rate of each of four steps in two epochs, against values worked out by hand."""
    spec = replace(_spec(), schedule=schedule, optimizer=Optimizer(lr=1.0))
    plan = StepPlan.of(spec, 20)
    assert [learning_rate(spec, plan, step) for step in range(4)] == pytest.approx(expected, abs=1e-6)

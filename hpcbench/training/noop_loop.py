"""The strategy `noop` and its loop: writes the records of a run without training and without torch, for
tests of queues and supervisors.
"""

from __future__ import annotations

import time

from hpcbench.runs.events import Checkpoint, Epoch, Resumed, Steps
from hpcbench.runs.run_environment import describe_environment
from hpcbench.strategies.data_parallel_entries import NoopOptions
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.tasks.task_registry import DATASETS
from hpcbench.training.checkpoint import CheckpointMark, newest_checkpoint
from hpcbench.training.measurement import resident_peak_bytes
from hpcbench.training.session import RankSession
from hpcbench.training.step_plan import StepPlan


class PretendedFailureError(RuntimeError):
    """The failure that `fail_at_step` asked for."""


class NoopStrategy:
    """A step that only takes time."""

    def __init__(self, options: NoopOptions) -> None:
        self.options = options

    def step(self, index: int) -> None:
        """Sleep for `step_s`, or fail at the step that the options name."""
        if index == self.options.fail_at_step:
            raise PretendedFailureError(f"asked to fail at step {index}")
        time.sleep(self.options.step_s)


def run_noop(session: RankSession) -> None:
    """Write the records of a training run, without training."""
    spec = session.spec
    entry = STRATEGIES[spec.strategy]
    strategy: NoopStrategy = entry.load()(entry.options(**spec.strategy_options))
    samples = DATASETS[spec.dataset].train_samples or spec.dataset_options["samples"]
    plan = StepPlan.of(spec, samples)
    session.record_start(
        describe_environment(),
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        train_samples=samples,
    )
    session.seconds["startup"] = session.age_s()
    epochs_done = _resume_noop(session)
    plan = plan.resumed_at(epochs_done)
    for epoch in range(epochs_done, plan.epochs):
        _run_epoch(session, strategy, plan, epoch)
        _write_mark(session, epoch + 1)
    session.record_finish(
        steps=plan.total_steps,
        samples=plan.total_steps * spec.batch_size,
        peak_memory_bytes=resident_peak_bytes(),
    )


def _resume_noop(session: RankSession) -> int:
    mark = newest_checkpoint(session.folder, session.spec, session.placement.attempt)
    if mark is None:
        return 0
    session.record(Resumed(epoch=mark.epoch, from_attempt=mark.attempt))
    return mark.epoch


def _write_mark(session: RankSession, epoch: int) -> None:
    """Mark an epoch's end: there is no state to keep with it."""
    if session.spec.checkpoint == "epoch" and session.placement.rank == 0:
        spec = session.spec
        attempt = session.placement.attempt
        CheckpointMark(attempt=attempt, epoch=epoch, run_id=spec.run_id, ranks=spec.ranks).write(
            session.folder
        )
        session.record(Checkpoint(epoch=epoch, wall_s=0.0, size_bytes=0))


def _run_epoch(session: RankSession, strategy: NoopStrategy, plan: StepPlan, epoch: int) -> None:
    began = time.perf_counter()
    trained_before = session.seconds.get("train", 0.0)
    for window in plan.windows(epoch):
        with session.timed_part("train"):
            step_s = []
            for step in window.steps:
                session.raise_if_stopped()
                step_began = time.perf_counter()
                strategy.step(step)
                step_s.append(time.perf_counter() - step_began)
        session.record(
            Steps(
                epoch=epoch + 1,
                first_step=window.steps.start,
                steps=len(step_s),
                counted=window.counted,
                samples=len(step_s) * session.spec.batch_size,
                wall_s=sum(step_s),
                data_wait_s=0.0,
                forward_backward_s=sum(step_s),
                exchange_s=0.0,
                update_s=0.0,
                other_s=0.0,
                step_s=step_s,
                lr=session.spec.optimizer.lr,
                peak_memory_bytes=resident_peak_bytes(),
            )
        )
        session.writer.flush()
    wall_s = time.perf_counter() - began
    train_s = session.seconds["train"] - trained_before
    steps = len(plan.steps_of(epoch))
    session.record(
        Epoch(
            epoch=epoch + 1,
            steps=steps,
            samples=steps * session.spec.batch_size,
            train_s=train_s,
            evaluation_s=0.0,
            check_s=0.0,
            checkpoint_s=0.0,
            other_s=wall_s - train_s,
            wall_s=wall_s,
            peak_memory_bytes=resident_peak_bytes(),
        )
    )
    session.writer.sync()

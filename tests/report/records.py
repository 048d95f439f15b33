"""Builds results folders of honest, random runs with the real writer, for tests of what reads them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcbench.runs import ledger
from hpcbench.runs.events import (
    Epoch,
    Evaluation,
    Event,
    Interrupted,
    Resumed,
    RunFailed,
    RunFinished,
    RunStarted,
    Steps,
)
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.sweep.run_spec import RunSpec

TRAIN_SAMPLES = 1437
EVALUATION_SAMPLES = 360
SECOND_NS = 10**9


def spec(name: str = "ddp_gloo", **fields: Any) -> RunSpec:
    """Return a run of two ranks on digits."""
    defaults: dict[str, Any] = {
        "strategy": "ddp", "backend": "gloo", "ranks": 2, "data_shards": 2, "batch_size": 32, "epochs": 3,
        "warmup_steps": 5,
    }  # fmt: skip
    return RunSpec(name=name, **{**defaults, **fields})


def single(name: str = "single_gpu", **fields: Any) -> RunSpec:
    """Return a run of one process that learns the same as `spec`."""
    alone = {"strategy": "single_gpu", "backend": None, "ranks": 1, "data_shards": 1, "batch_size": 64}
    return spec(name, **{**alone, **fields})


@dataclass
class Story:
    """What a run shall do: its speed, and what it learns."""

    step_s: float = 0.02
    noise: float = 0.02  # relative, of each window
    final_acc: float = 0.97
    shares: Sequence[float] = (0.08, 0.6, 0.2, 0.09, 0.03)  # of the five phases
    rng: random.Random = field(default_factory=lambda: random.Random(1))


class Sweep:
    """A results folder to write runs into; with a ledger and claims, as jobs leave them."""

    def __init__(self, path: Path) -> None:
        self.folder = ResultsFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        self.folder.ledger.touch()

    def repeats(self, run: RunSpec, story: Story | None = None, count: int = 3) -> None:
        """Write finished repeats, each with its own seed and its own slightly different machine."""
        story = story or Story()
        for repeat in range(count):
            slower = 1 + 0.03 * repeat  # the machine as all runs of this block find it
            RunBuilder(
                self,
                replace(run, repeat=repeat, seed=run.seed + repeat),
                replace(story, step_s=story.step_s * slower),
            ).finish()

    def run(self, run: RunSpec, story: Story | None = None) -> RunBuilder:
        """Return a builder for one repeat."""
        return RunBuilder(self, run, story or Story())


class RunBuilder:
    """Writes attempts at one repeat of a run."""

    def __init__(self, sweep: Sweep, run: RunSpec, story: Story) -> None:
        self.sweep, self.spec, self.story = sweep, run, story
        self.folder: RunFolder = sweep.folder.run(run.name, run.repeat)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.folder.spec.write_text(
            json.dumps({"run_id": run.run_id, "spec": run.to_json(), "declared": None})
        )
        self.steps_per_epoch = TRAIN_SAMPLES // run.global_batch

    def claim(self, attempt: int, *, file: bool = True, entry: bool = True) -> None:
        """Claim an attempt, as a supervisor does."""
        if file:
            self.folder.claim(attempt).write_text("{}")
        if entry:
            run = f"{self.spec.name}/r{self.spec.repeat}"
            line = ledger.AttemptClaimed(job_id="1", run=run, run_id=self.spec.run_id, attempt=attempt)
            ledger.append_entry(self.sweep.folder.ledger, line)

    def finish(self, attempt: int = 1) -> None:
        """Write a whole run in one attempt."""
        self.attempt(attempt)

    def attempt(
        self, number: int, *, first_epoch: int = 1, last_epoch: int | None = None, end: Event | None = None,
        claimed: bool = True, stop_in_epoch: int | None = None, silent_ranks: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Write an attempt from one epoch to another; `end` stands instead of `run_finished` on every rank.

        `stop_in_epoch` ends the attempt after two windows of that epoch; `silent_ranks` write no end.
        """
        if claimed:
            self.claim(number)
        last = last_epoch or self.spec.epochs or 1
        lines: list[list[Event]] = [self._started(first_epoch) for _ in range(self.spec.ranks)]
        for epoch in range(first_epoch, last + 1):
            self._epoch(lines, epoch, cut=epoch == stop_in_epoch, first_epoch=first_epoch)
        for rank, events in enumerate(lines):
            if rank not in silent_ranks:
                whole = stop_in_epoch is None
                events.append(end if end is not None else self._finished(events)) if whole or end else None
            with EventWriter(
                self.folder.events(number, rank), run_id=self.spec.run_id, attempt=number, rank=rank
            ) as writer:
                for event in events:
                    writer.write(event)

    def fail(
        self, *, limit: str | None = None, reason: str = "RuntimeError: broken", attempt: int = 1
    ) -> None:
        """Write a run that fails in its second epoch."""
        self.attempt(attempt, last_epoch=2, end=RunFailed(reason=reason, limit=limit), stop_in_epoch=2)

    def interrupt(self, attempt: int = 1, *, in_epoch: int = 2) -> None:
        """Write a run that was told to stop within an epoch."""
        self.attempt(attempt, last_epoch=in_epoch, end=Interrupted(reason="SIGTERM"), stop_in_epoch=in_epoch)

    def resume(self, attempt: int, *, epoch: int) -> None:
        """Go on from the checkpoint after an epoch, to the end."""
        self.attempt(attempt, first_epoch=epoch + 1)

    def _started(self, first_epoch: int) -> list[Event]:
        started = RunStarted(
            spec=self.spec.to_json(), environment={}, processes=self.spec.processes,
            process_start_ns=time.time_ns(), steps_per_epoch=self.steps_per_epoch,
            train_samples=TRAIN_SAMPLES, evaluation_samples=EVALUATION_SAMPLES,
        )  # fmt: skip
        return [started, *([Resumed(epoch=first_epoch - 1, from_attempt=1)] if first_epoch > 1 else [])]

    def _epoch(self, lines: list[list[Event]], epoch: int, *, cut: bool, first_epoch: int) -> None:
        step = (epoch - 1) * self.steps_per_epoch
        end = epoch * self.steps_per_epoch
        first = (first_epoch - 1) * self.steps_per_epoch
        windows = 0
        while step < end and not (cut and windows == 2):
            warm = step < first + self.spec.warmup_steps
            stop = min(end, first + self.spec.warmup_steps if warm else step + self.spec.window_steps)
            for events in lines:
                events.append(self._window(epoch, step, stop - step, counted=not warm))
            step, windows = stop, windows + 1
        if not cut:
            for rank, events in enumerate(lines):
                events += self._epoch_end(events, epoch, rank)

    def _window(self, epoch: int, first: int, steps: int, *, counted: bool) -> Steps:
        rng, batch = self.story.rng, self.spec.batch_size
        wall_s = self.story.step_s * steps * (1 + rng.uniform(-self.story.noise, self.story.noise))
        data, forward, exchange, update, other = (share * wall_s for share in self.story.shares)
        losses = [2.3 * 0.97 ** (first + i) * rng.uniform(0.85, 1.15) + 0.05 for i in range(steps)]
        return Steps(
            epoch=epoch, first_step=first, steps=steps, counted=counted, samples=steps * batch, wall_s=wall_s,
            data_wait_s=data, forward_backward_s=forward, exchange_s=exchange, update_s=update, other_s=other,
            step_s=[wall_s / steps] * steps, loss_sum=[loss * batch for loss in losses],
            correct=[round(batch * (1 - loss / 3)) for loss in losses], loss_samples=batch, lr=0.1,
            peak_memory_bytes=200_000_000 + rng.randrange(10**7),
        )  # fmt: skip

    def _epoch_end(self, events: list[Event], epoch: int, rank: int) -> list[Event]:
        rng = self.story.rng
        windows = [e for e in events if isinstance(e, Steps) and e.epoch == epoch]
        samples = EVALUATION_SAMPLES // self.spec.ranks
        samples += EVALUATION_SAMPLES % self.spec.ranks if rank == 0 else 0
        accuracy = self.story.final_acc * (1 - 0.5**epoch) * rng.uniform(0.98, 1.02)
        evaluation = Evaluation(
            epoch=epoch,
            wall_s=0.05,
            samples=samples,
            loss_sum=samples * 0.4**epoch,
            correct=round(samples * accuracy),
        )
        train_s = sum(window.wall_s for window in windows)
        return [
            evaluation,
            Epoch(
                epoch=epoch, steps=self.steps_per_epoch, samples=self.steps_per_epoch * self.spec.batch_size,
                train_s=train_s, evaluation_s=0.05, check_s=0.01, checkpoint_s=0.0, other_s=0.0,
                wall_s=train_s + 0.06, peak_memory_bytes=210_000_000,
            ),
        ]  # fmt: skip

    def _finished(self, events: list[Event]) -> RunFinished:
        epochs = [e for e in events if isinstance(e, Epoch)]
        train_s = sum(epoch.train_s for epoch in epochs)
        return RunFinished(
            wall_s=3.0 + train_s + 0.06 * len(epochs), startup_s=3.0, train_s=train_s,
            evaluation_s=0.05 * len(epochs), check_s=0.01 * len(epochs), checkpoint_s=0.0, other_s=0.0,
            steps=sum(e.steps for e in epochs), samples=sum(e.samples for e in epochs),
            peak_memory_bytes=211_000_000,
        )  # fmt: skip

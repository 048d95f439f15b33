"""Writes records of runs that never happened: honest ones, and ones with some events changed."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcbench.runs import ledger
from hpcbench.runs.events import (
    Check,
    Epoch,
    Evaluation,
    Event,
    RunFinished,
    RunStarted,
    Steps,
    Telemetry,
    Updates,
)
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import RunSpec

TRAIN_SAMPLES, EVALUATION_SAMPLES = 1437, 360
ENVIRONMENT = {
    "hpcbench": "0.1", "python": "3.11.7", "packages": {"torch": "2.13.0"}, "hostname": "n1", "cpu": "a CPU",
    "cores_usable": 8, "load_1min": 0.3, "git": {"commit": "c0ffee", "dirty": False}, "variables": {},
}  # fmt: skip
Change = Callable[[int, Event], Event]


def unchanged(rank: int, event: Event) -> Event:
    """Change nothing."""
    return event


@dataclass
class Story:
    """What a run is like; `learns` is the share of the way to 97 % that is left after each epoch."""

    step_s: float = 0.02
    noise: float = 0.05
    learns: float = 0.4
    environment: dict[str, Any] = field(default_factory=lambda: dict(ENVIRONMENT))
    warnings: list[str] = field(default_factory=list)
    emulated: bool = False
    staleness: list[int] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)


def run(name: str = "ddp", **fields: Any) -> RunSpec:
    """Return a run of two ranks on digits."""
    defaults: dict[str, Any] = {
        "strategy": "ddp", "backend": "gloo", "ranks": 2, "data_shards": 2, "batch_size": 32, "epochs": 4,
    }  # fmt: skip
    return RunSpec(name=name, **{**defaults, **fields})


def alone(name: str = "single_gpu", **fields: Any) -> RunSpec:
    """Return a run of one process that learns the same."""
    one = {"strategy": "single_gpu", "backend": None, "ranks": 1, "data_shards": 1, "batch_size": 64}
    return run(name, **{**one, **fields})


def write(
    results: Path,
    spec: RunSpec,
    change: Change = unchanged,
    *,
    repeats: int = 3,
    **story: Any,
) -> Path:
    """Write finished repeats of a run, each event of each rank after `change`; returns the results folder."""
    for repeat in range(repeats):
        _Writer(results, replace(spec, repeat=repeat, seed=spec.seed + repeat), Story(**story)).write(change)
    return results


def changing(kind: type[Event], rank: int | None = None, **fields: Any) -> Change:
    """Return a change of all events of a kind, of one rank or all; a callable gets the event."""

    def change(number: int, event: Event) -> Event:
        if not isinstance(event, kind) or rank not in (None, number):
            return event
        values = {key: value(event) if callable(value) else value for key, value in fields.items()}
        return dataclasses.replace(event, **values)

    return change


def telemetry(**fields: Any) -> Telemetry:
    """Return ten readings of a node that does nothing else; a single value stands for ten of it."""
    n = 10
    quiet: dict[str, Any] = {
        "read_ns": list(range(n)), "cpu_percent": [90.0] * n, "load": [1.0] * n, "cpu_mhz": [3000.0] * n,
        "memory_used_bytes": [10**9] * n, "other_cpu_cores": [0.02] * n,
    }  # fmt: skip
    return Telemetry(host="n1", reading_s=0.001, **quiet | fields)


class _Writer:
    def __init__(self, results: Path, spec: RunSpec, story: Story) -> None:
        self.folder, self.spec, self.story = ResultsFolder(results), spec, story
        self.rng = random.Random(f"{spec.name} {spec.repeat}")
        self.per_epoch = TRAIN_SAMPLES // spec.samples_per_step
        self.at = self.folder.run(spec.name, spec.repeat)

    def write(self, change: Change) -> None:
        spec = self.spec
        self.at.path.mkdir(parents=True)
        self.at.spec.write_text(json.dumps({"run_id": spec.run_id, "spec": spec.to_json(), "declared": None}))
        self.at.claim(1).write_text("{}")
        line = ledger.AttemptClaimed(
            job_id="1", run=f"{spec.name}/r{spec.repeat}", run_id=spec.run_id, attempt=1
        )
        ledger.append_entry(self.folder.ledger, line)
        wall_s = [self._walls() for _ in range(spec.epochs or 1)]  # the barriers make them everybody's
        for rank in range(spec.ranks):
            self._file(rank, self._events(rank, wall_s), change)
        if self.story.telemetry:
            seen = self.at.supervisor_events(1, 0)
            with EventWriter(seen, run_id=spec.run_id, attempt=1, rank=None) as writer:
                for line in self.story.telemetry:
                    writer.write(line)
        for server in range(spec.servers):
            self._file(spec.ranks + server, self._served(), change)

    def _file(self, rank: int, events: list[Event], change: Change) -> None:
        path = self.at.events(1, rank)
        with EventWriter(path, run_id=self.spec.run_id, attempt=1, rank=rank) as writer:
            for event in events:
                writer.write(change(rank, event))

    def _walls(self) -> list[float]:
        noise = self.story.noise
        return [self.story.step_s * (1 + self.rng.uniform(-noise, noise)) for _ in range(self.per_epoch)]

    def _events(self, rank: int, wall_s: list[list[float]]) -> list[Event]:
        events: list[Event] = [self._started(), self._check("start", 0, rank)]
        for epoch, walls in enumerate(wall_s, start=1):
            windows = self._windows(rank, epoch, walls)
            train_s = sum(window.wall_s for window in windows)
            events += [*windows, self._evaluation(rank, epoch), self._check("epoch", epoch, rank)]
            events.append(
                Epoch(
                    epoch=epoch, steps=self.per_epoch, samples=self.per_epoch * self.spec.batch_size,
                    train_s=train_s, evaluation_s=0.02, check_s=0.001, checkpoint_s=0.0, other_s=0.01,
                    wall_s=train_s + 0.031,
                )
            )  # fmt: skip
        return [*events, self._finished([event for event in events if isinstance(event, Epoch)])]

    def _started(self, role: str = "train") -> RunStarted:
        return RunStarted(
            spec=self.spec.to_json(), environment=self.story.environment, role=role,
            processes=self.spec.processes, process_start_ns=time.time_ns(), steps_per_epoch=self.per_epoch,
            train_samples=TRAIN_SAMPLES, evaluation_samples=EVALUATION_SAMPLES,
            warnings=self.story.warnings, emulated=self.story.emulated,
        )  # fmt: skip

    def _check(self, when: str, epoch: int, rank: int) -> Check:
        # Running statistics are those of shard 0 and may differ elsewhere; the weights may not.
        weights = f"{self.spec.precision == 'fp64'} {self.spec.seed} {epoch and self.spec.name} {epoch}"
        return Check(
            when=when,
            epoch=epoch,
            weights_checksum=weights,
            buffers_checksum=f"{weights} {rank}",
            wall_s=0.001,
        )

    def _windows(self, rank: int, epoch: int, walls: list[float]) -> list[Steps]:
        windows, first = [], (epoch - 1) * self.per_epoch
        for at in range(0, self.per_epoch, self.spec.window_steps):
            steps_s = walls[at : at + self.spec.window_steps]
            warm = first + at < self.spec.warmup_steps
            windows.append(
                self._window(epoch, first + at, [10 * s for s in steps_s] if warm else steps_s, warm)
            )
        return windows

    def _window(self, epoch: int, first: int, steps_s: list[float], warm: bool) -> Steps:
        wall_s, batch, steps = sum(steps_s), self.spec.batch_size, range(first, first + len(steps_s))
        return Steps(
            epoch=epoch, first_step=first, steps=len(steps), counted=not warm, samples=len(steps) * batch,
            wall_s=wall_s, data_wait_s=0.05 * wall_s, forward_backward_s=0.7 * wall_s,
            exchange_s=0.15 * wall_s, update_s=0.08 * wall_s, other_s=0.02 * wall_s, step_s=steps_s,
            loss_sum=[batch * self._loss(step) for step in steps], correct=[batch // 2] * len(steps),
            loss_samples=batch, lr=0.1,
        )  # fmt: skip

    def _loss(self, step: int) -> float:
        """Return what every strategy has to see at a step: it depends on the seed alone."""
        return 2.3 * 0.97**step + 0.01 * random.Random(f"{self.spec.seed} {step}").random()

    def _evaluation(self, rank: int, epoch: int) -> Evaluation:
        ranks = self.spec.ranks
        samples = EVALUATION_SAMPLES // ranks + (EVALUATION_SAMPLES % ranks if rank == 0 else 0)
        share = 0.97 * (1 - self.story.learns**epoch)
        return Evaluation(
            epoch=epoch, wall_s=0.02, samples=samples, loss_sum=0.1 * samples, correct=round(share * samples)
        )

    def _finished(self, epochs: list[Epoch]) -> RunFinished:
        train_s, n = sum(epoch.train_s for epoch in epochs), len(epochs)
        return RunFinished(
            wall_s=3.0 + train_s + 0.031 * n, startup_s=3.0, train_s=train_s, evaluation_s=0.02 * n,
            check_s=0.001 * n, checkpoint_s=0.0, other_s=0.01 * n, steps=n * self.per_epoch,
            samples=sum(epoch.samples for epoch in epochs),
        )  # fmt: skip

    def _served(self) -> list[Event]:
        ages = self.story.staleness
        updates = Updates(
            epoch=1, first_step=0, counted=True, wall_s=1.0, updates=len(ages), samples=32 * len(ages),
            workers=[0] * len(ages), staleness=ages, idle_s=0.1, push_s=0.1, update_s=0.8,
        )  # fmt: skip
        return [self._started("serve"), updates]

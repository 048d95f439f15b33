"""The training loop, the same for every strategy: windows, evaluation, checksums of the weights, and the
records of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpcbench.runs.events import Check, Epoch, Evaluation, Steps
from hpcbench.strategies.server_channel import CommandKind, ServerCommand, send_command
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.tasks.batches import Batch, LossSums, ShardLoader
from hpcbench.training.measurement import PhaseClock, WindowTimes, device_peak_bytes
from hpcbench.training.precision import RunPrecision
from hpcbench.training.process_group import barrier, is_true_on_any_rank
from hpcbench.training.resume import save_if_due
from hpcbench.training.session import RankSession, StopRequestedError
from hpcbench.training.step_plan import StepPlan, StepWindow, learning_rate

INTEGER_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MULTIPLIER = 0x9E3779B1  # 2^32 over the golden ratio: neighbouring positions get unlike factors


def tensor_checksum(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits over the named tensors, in the order of the names.

    Each word is multiplied by an odd factor of its position and summed modulo 2^64: exact integer arithmetic,
    so that equal bits give equal sums on any device, and two swapped values do not.
    """
    total = 0
    for index, name in enumerate(names):
        tensor = tensors[name].detach().contiguous()
        words = (
            tensor.view(-1).view(INTEGER_VIEWS[tensor.element_size()]).long()
            if tensor.numel()
            else tensor.long()
        )
        factors = torch.arange(words.numel(), device=words.device, dtype=torch.int64) * MULTIPLIER | 1
        part = int((words.view(-1) * factors).sum())
        total = (total * 6364136223846793005 + part + index + 1) % 2**64
    return f"{total:016x}"


@dataclass(frozen=True)
class TrainedParameters:
    """The parameters of the whole model, whichever of them this rank has: names, numbers, bytes."""

    names: tuple[str, ...]
    numbers: int
    size_bytes: int

    @classmethod
    def of(cls, model: nn.Module) -> TrainedParameters:
        """Look at a model that is still in one piece."""
        parameters = dict(model.named_parameters())
        return cls(
            names=tuple(parameters),
            numbers=sum(p.numel() for p in parameters.values()),
            size_bytes=sum(p.numel() * p.element_size() for p in parameters.values()),
        )


@dataclass
class Training:
    """Everything that a training rank works with. `samples` counts those that it has trained on."""

    session: RankSession
    world: World
    strategy: Strategy
    arithmetic: RunPrecision
    loader: ShardLoader
    plan: StepPlan
    clock: PhaseClock
    trained: TrainedParameters
    peak_memory_bytes: int = 0
    samples: int = 0

    def run(self, done: int = 0) -> None:
        """Train, from the first step to the last; `done` epochs were trained before this process began."""
        if done == 0:
            self.check("start", epoch=0)
        kept = time.monotonic()
        for epoch in range(done, self.plan.epochs):
            before, began = dict(self.session.seconds), time.perf_counter()
            samples_before = self.samples
            batches = self.loader.train(
                epoch, [step % self.plan.steps_per_epoch for step in self.plan.steps_of(epoch)]
            )
            self.train_epoch(epoch, batches)
            with self.session.part("settle"):
                self.strategy.settle()
            if self.session.spec.evaluate:
                self.evaluate(epoch + 1)
            self.check("end" if epoch + 1 == self.plan.epochs else "epoch", epoch + 1)
            self.record_epoch(epoch, before, self.samples - samples_before, time.perf_counter() - began)
            self.session.writer.sync()
            # After its records are safe: an attempt that goes on from here repeats nothing of this epoch.
            last = epoch + 1 == self.plan.epochs
            if not last and save_if_due(self, epoch + 1, time.monotonic() - kept):
                kept = time.monotonic()

    def train_epoch(self, epoch: int, batches: Iterator[list[Batch]]) -> None:
        """Do the steps of an epoch; all ranks stop after it or inside it if any was told to."""
        stop = False
        for window in self.plan.windows(epoch):
            stop = self.train(epoch, window, batches)
            if stop:
                break
        send_command(self.world, ServerCommand(kind=CommandKind.REST, epoch=epoch + 1))
        if is_true_on_any_rank(self.world, stop):
            raise StopRequestedError(
                self.session.stop_signal.name if self.session.stop_signal else "on a peer"
            )

    def train(self, epoch: int, window: StepWindow, batches: Iterator[list[Batch]]) -> bool:
        """Do the steps of a window and record them; return whether this rank has to stop.

        Ranks that keep step begin and end a window together. Others wait for nobody: what such a run achieves
        stands in the record of its servers (MEASURING rule 3).
        """
        together = self.strategy.lockstep
        skipped_before = self.arithmetic.skipped_updates
        seen: list[LossSums | None] = []
        if together:
            barrier(self.world)
        kind = CommandKind.WINDOW if window.counted else CommandKind.WARM_UP
        send_command(self.world, ServerCommand(kind=kind, epoch=epoch + 1, first_step=window.steps.start))
        with self.session.part("train"):
            self.clock.begin()
            for step in window.steps:
                self.clock.enter("data_wait")
                micro_batches = next(batches)
                self.clock.enter("forward_backward")
                lr = learning_rate(self.session.spec, self.plan, step)
                self.strategy.begin_step(lr)
                seen.append(self.strategy.forward_backward(micro_batches))
                self.clock.enter("exchange")
                self.strategy.exchange()
                self.clock.enter("update")
                self.strategy.update(lr)
            self.clock.enter("other")
            stop = self.session.stop_signal is not None
            stop = is_true_on_any_rank(self.world, stop) if together else stop
            times = self.clock.end()
        skipped = self.arithmetic.skipped_updates - skipped_before
        self.record_window(epoch, window, times, [sums for sums in seen if sums is not None], skipped)
        return stop

    def evaluate(self, epoch: int) -> None:
        """See every sample of the validation set once, over all shards together."""
        barrier(self.world)
        with self.session.part("evaluation"):
            began = time.perf_counter()
            total: LossSums | None = None
            for batch, mask in self.loader.evaluation():
                sums = self.strategy.evaluate(batch, mask)
                if sums is not None:
                    total = sums if total is None else total + sums
            loss_sum = None if total is None else finite_or_none(float(total.loss_sum))
            correct = None if total is None else int(total.correct)
            wall_s = time.perf_counter() - began
        samples = 0 if total is None else total.samples
        self.session.record(
            Evaluation(epoch=epoch, wall_s=wall_s, samples=samples, loss_sum=loss_sum, correct=correct)
        )

    def check(self, when: str, epoch: int) -> None:
        """Record checksums of the whole model; replicas that have drifted apart show here."""
        with self.session.part("check"):
            began = time.perf_counter()
            weights = self.strategy.weights()
            trained = self.trained.names
            buffers = [name for name in weights if name not in set(trained)]
            event = Check(
                when=when,
                epoch=epoch,
                weights_checksum=tensor_checksum(weights, trained),
                buffers_checksum=tensor_checksum(weights, buffers),
                wall_s=time.perf_counter() - began,
            )
        self.session.record(event)

    def record_window(
        self, epoch: int, window: StepWindow, times: WindowTimes, seen: list[LossSums], skipped: int
    ) -> None:
        """Record a window. Results come off the device here, all at once, after the clock has stopped.

        Where several ranks share a shard, the one that sees the loss counts its samples.
        """
        peak = device_peak_bytes(self.world.device)
        figures = self.strategy.figures()
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)
        losses = torch.stack([sums.loss_sum for sums in seen]).tolist() if seen else []
        right = torch.stack([sums.correct for sums in seen]).tolist() if seen else []
        samples = sum(sums.samples for sums in seen)
        self.samples += samples
        self.session.record(
            Steps(
                epoch=epoch + 1,
                first_step=window.steps.start,
                steps=len(window.steps),
                counted=window.counted,
                samples=samples,
                wall_s=times.wall_s,
                data_wait_s=times.phase_s["data_wait"],
                forward_backward_s=times.phase_s["forward_backward"],
                exchange_s=times.phase_s["exchange"],
                update_s=times.phase_s["update"],
                other_s=times.phase_s["other"],
                step_s=times.step_s,
                loss_sum=[finite_or_none(loss) for loss in losses] if seen else None,
                correct=right if seen else None,
                loss_samples=seen[0].samples if seen else None,
                non_finite=sum(not math.isfinite(loss) for loss in losses),
                skipped_updates=skipped,
                lr=learning_rate(self.session.spec, self.plan, window.steps[-1]),
                peak_memory_bytes=peak,
                push_s=figures.get("push_s"),
                pull_s=figures.get("pull_s"),
            )
        )
        self.session.writer.flush()

    def record_epoch(self, epoch: int, before: dict[str, float], samples: int, wall_s: float) -> None:
        """Record where the time of an epoch went; `before` is what had gone by when it began."""
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in self.session.seconds.items()}
        named = {part: spent.get(part, 0.0) for part in ("train", "evaluation", "check", "checkpoint")}
        steps = len(self.plan.steps_of(epoch))
        self.session.record(
            Epoch(
                epoch=epoch + 1,
                steps=steps,
                samples=samples,
                train_s=named["train"],
                evaluation_s=named["evaluation"],
                check_s=named["check"],
                checkpoint_s=named["checkpoint"],
                other_s=wall_s - sum(named.values()),
                wall_s=wall_s,
                peak_memory_bytes=self.peak_memory_bytes,
                replaced_samples=self.loader.dataset.take_replaced(),
            )
        )


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is infinite or no number."""
    return value if math.isfinite(value) else None

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
from hpcbench.tasks.batches import Batch, LossSums, ShardLoader
from hpcbench.training.measurement import PhaseClock, WindowTimes, device_peak_bytes
from hpcbench.training.process_group import barrier, is_true_on_any_rank
from hpcbench.training.resume import RankState, save_if_due
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
class ModelParameters:
    """Names, number and size of the parameters of the whole model, whichever of them this rank holds."""

    names: tuple[str, ...]
    count: int
    size_bytes: int

    @classmethod
    def of(cls, model: nn.Module) -> ModelParameters:
        """Describe a model that is not divided yet."""
        parameters = dict(model.named_parameters())
        return cls(
            names=tuple(parameters),
            count=sum(p.numel() for p in parameters.values()),
            size_bytes=sum(p.numel() * p.element_size() for p in parameters.values()),
        )


@dataclass(kw_only=True)
class Training(RankState):
    """The training of one rank: everything it works with, and the loop over epochs, windows and steps."""

    loader: ShardLoader
    plan: StepPlan
    clock: PhaseClock
    parameters: ModelParameters
    peak_memory_bytes: int = 0

    def run(self, epochs_done: int = 0) -> None:
        """Train to the last step; `epochs_done` epochs were trained before this process began."""
        if epochs_done == 0:
            self.check("start", epoch=0)
        last_save = time.monotonic()
        for epoch in range(epochs_done, self.plan.epochs):
            before, began = dict(self.session.seconds), time.perf_counter()
            samples_before = self.samples
            batches = self.loader.train(
                epoch, [step % self.plan.steps_per_epoch for step in self.plan.steps_of(epoch)]
            )
            self.train_epoch(epoch, batches)
            with self.session.timed_part("settle"):
                self.strategy.synchronize()
            if self.session.spec.evaluate:
                self.evaluate(epoch + 1)
            is_last = epoch + 1 == self.plan.epochs
            self.check("end" if is_last else "epoch", epoch + 1)
            self.record_epoch(epoch, before, self.samples - samples_before, time.perf_counter() - began)
            self.session.writer.sync()
            # After the records are on disk: an attempt that resumes here repeats nothing of this epoch.
            if not is_last and save_if_due(self, epoch + 1, time.monotonic() - last_save):
                last_save = time.monotonic()

    def train_epoch(self, epoch: int, batches: Iterator[list[Batch]]) -> None:
        """Do the steps of an epoch; all ranks stop after it or inside it if any has received a signal."""
        stop = False
        for window in self.plan.windows(epoch):
            stop = self.train(epoch, window, batches)
            if stop:
                break
        send_command(self.world, ServerCommand(kind=CommandKind.END_EPOCH, epoch=epoch + 1))
        if is_true_on_any_rank(self.world, stop):
            self.session.raise_stop()

    def train(self, epoch: int, window: StepWindow, batches: Iterator[list[Batch]]) -> bool:
        """Do the steps of a window and record them; return whether this rank has to stop.

        Synchronous ranks begin and end a window together. Others do not wait for each other; the throughput
        of such a run follows from the records of its servers (docs/methodology.md, M3).
        """
        synchronized = self.strategy.is_synchronous
        skipped_before = self.arithmetic.skipped_updates
        sums: list[LossSums | None] = []
        if synchronized:
            barrier(self.world)
        kind = CommandKind.WINDOW if window.counted else CommandKind.WARM_UP
        send_command(self.world, ServerCommand(kind=kind, epoch=epoch + 1, first_step=window.steps.start))
        with self.session.timed_part("train"):
            self.clock.begin()
            for step in window.steps:
                self.clock.enter("data_wait")
                micro_batches = next(batches)
                self.clock.enter("forward_backward")
                lr = learning_rate(self.session.spec, self.plan, step)
                self.strategy.begin_step(lr)
                sums.append(self.strategy.forward_backward(micro_batches))
                self.clock.enter("exchange")
                self.strategy.exchange()
                self.clock.enter("update")
                self.strategy.update(lr)
            self.clock.enter("other")
            stop = self.session.stop_signal is not None
            stop = is_true_on_any_rank(self.world, stop) if synchronized else stop
            times = self.clock.end()
        skipped = self.arithmetic.skipped_updates - skipped_before
        self.record_window(epoch, window, times, [step for step in sums if step is not None], skipped)
        return stop

    def evaluate(self, epoch: int) -> None:
        """See every sample of the validation set once, over all shards together."""
        barrier(self.world)
        with self.session.timed_part("evaluation"):
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
        """Record checksums of the whole model; replicas that differ have different ones."""
        with self.session.timed_part("check"):
            began = time.perf_counter()
            weights = self.strategy.weights()
            parameters = self.parameters.names
            buffers = [name for name in weights if name not in set(parameters)]
            event = Check(
                when=when,
                epoch=epoch,
                weights_checksum=tensor_checksum(weights, parameters),
                buffers_checksum=tensor_checksum(weights, buffers),
                wall_s=time.perf_counter() - began,
            )
        self.session.record(event)

    def record_window(
        self, epoch: int, window: StepWindow, times: WindowTimes, sums: list[LossSums], skipped: int
    ) -> None:
        """Record a window. Results come off the device here, all at once, after the clock has stopped.

        Where several ranks share a shard, the one that sees the loss counts its samples.
        """
        peak = device_peak_bytes(self.world.device)
        measured = self.strategy.measurements()
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)
        losses = torch.stack([step.loss_sum for step in sums]).tolist() if sums else []
        correct = torch.stack([step.correct for step in sums]).tolist() if sums else []
        samples = sum(step.samples for step in sums)
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
                loss_sum=[finite_or_none(loss) for loss in losses] if sums else None,
                correct=correct if sums else None,
                loss_samples=sums[0].samples if sums else None,
                non_finite=sum(not math.isfinite(loss) for loss in losses),
                skipped_updates=skipped,
                lr=learning_rate(self.session.spec, self.plan, window.steps[-1]),
                peak_memory_bytes=peak,
                push_s=measured.get("push_s"),
                pull_s=measured.get("pull_s"),
            )
        )
        self.session.writer.flush()

    def record_epoch(self, epoch: int, before: dict[str, float], samples: int, wall_s: float) -> None:
        """Record where the time of an epoch went; `before` has the seconds of each part at its beginning."""
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
                replaced_samples=self.loader.dataset.pop_replaced_count(),
            )
        )


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where it is infinite or no number."""
    return value if math.isfinite(value) else None

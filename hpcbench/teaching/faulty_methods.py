"""Strategies, a clock and a data set with mistakes, for teaching. Never ranked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.data_parallel_entries import FaultyOptions
from hpcbench.strategies.strategy_base import ReplicatedStrategy, Strategy
from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy, World
from hpcbench.tasks.batches import Batch, LossSums
from hpcbench.tasks.image_pipeline import DataContext
from hpcbench.tasks.in_memory_datasets import Digits
from hpcbench.tasks.task_registry import FaultyDigitsOptions


class CorrectDataParallel(ReplicatedStrategy):
    """What the others begin with: equal replicas, gradients averaged parameter by parameter."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Make the replicas equal."""
        super().prepare(model, make_optimizer)
        self.broadcast_initial_state(model)

    def exchange(self) -> None:
        """Average each gradient over the ranks."""
        for parameter in self.model.parameters():
            if parameter.grad is not None and self.world.trainers is not None:
                dist.all_reduce(parameter.grad, group=self.world.trainers)
                parameter.grad /= self.divisor()

    def divisor(self) -> int:
        """Return what turns the sum of gradients into their mean."""
        return self.world.training_ranks


class UnequalStart(CorrectDataParallel):
    """Study 1's all-reduce: each rank starts from its own model, and all apply the same gradients."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Leave out what would make the replicas equal."""
        torch.manual_seed(torch.initial_seed() + self.world.rank)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
        ReplicatedStrategy.prepare(self, model, make_optimizer)


class SummedGradients(CorrectDataParallel):
    """Gradients are summed and never divided: the learning rate is too high by the number of ranks."""

    def divisor(self) -> int:
        """Forget to divide."""
        return 1


class InflatedCount(CorrectDataParallel):
    """Samples are counted as if more ranks had trained: all of them, or study 1's four of which three did."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Train as ever and multiply what was counted."""
        sums = super().forward_backward(micro_batches)
        assert sums is not None
        counted = self.options.counted_ranks or self.world.training_ranks**2
        factor = counted / self.world.training_ranks
        return LossSums(sums.loss_sum * factor, (sums.correct * factor).long(), round(sums.samples * factor))


class StragglingRank(CorrectDataParallel):
    """The last rank does everything twice as slowly."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Train, and let the last rank sleep for as long as that took."""
        began = time.perf_counter()
        sums = super().forward_backward(micro_batches)
        if self.world.rank == self.world.training_ranks - 1:
            time.sleep(time.perf_counter() - began)
        return sums


class EvaluatesEverything(CorrectDataParallel):
    """Study 2: every rank evaluates the whole validation set, and all of them count it."""

    @torch.no_grad()
    def evaluate(self, batch: Batch, mask: Tensor) -> LossSums | None:
        """Collect the shards of all ranks and evaluate them here too."""
        return super().evaluate(
            Batch(self._of_all(batch.images), self._of_all(batch.labels)), self._of_all(mask.long()).bool()
        )

    def _of_all(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.world.training_ranks)]
        dist.all_gather(parts, tensor.contiguous(), group=self.world.trainers)
        return torch.cat(parts)


class CountsPadding(CorrectDataParallel):
    """What pads the last batch of an evaluation is counted."""

    def evaluate(self, batch: Batch, mask: Tensor) -> LossSums | None:
        """Forget the mask."""
        return super().evaluate(batch, torch.ones_like(mask))


class DropsLastBatch(CorrectDataParallel):
    """An evaluation leaves out the batches that are not full."""

    def evaluate(self, batch: Batch, mask: Tensor) -> LossSums | None:
        """Count full batches only."""
        return super().evaluate(batch, mask if bool(mask.all()) else torch.zeros_like(mask))


class BlindClock(ReplicatedStrategy):
    """Each step is put into a thread's queue, as a GPU's driver does it, and the clock is read too early.

    One rank. The losses that are recorded are read too early as well.
    """

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Open the queue."""
        super().prepare(model, make_optimizer)
        self._queue = ThreadPoolExecutor(max_workers=1)
        self._done: list[Future[Any]] = []

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Put forward and backward into the queue; return sums that will be filled in some day."""
        promised = LossSums(
            torch.zeros(()),
            torch.zeros((), dtype=torch.int64),
            sum(len(batch.labels) for batch in micro_batches),
        )
        self._done.append(self._queue.submit(self._work, list(micro_batches), promised))
        return promised

    def update(self, lr: float) -> None:
        """Put the update into the queue."""
        self._done.append(self._queue.submit(super().update, lr))

    def synchronize(self) -> None:
        """Wait, when no clock runs any more."""
        for work in self._done:
            work.result()
        self._done.clear()

    def _work(self, micro_batches: Sequence[Batch], promised: LossSums) -> None:
        sums = super().forward_backward(micro_batches)
        assert sums is not None
        promised.loss_sum.copy_(sums.loss_sum)
        promised.correct.copy_(sums.correct)


MISTAKES: dict[str, type[Strategy]] = {
    "unequal_start": UnequalStart,
    "summed_gradients": SummedGradients,
    "inflated_count": InflatedCount,
    "straggling_rank": StragglingRank,
    "evaluates_everything": EvaluatesEverything,
    "counts_padding": CountsPadding,
    "drops_last_batch": DropsLastBatch,
    "blind_clock": BlindClock,
}


def build(world: World, precision: PrecisionPolicy, options: FaultyOptions) -> Strategy:
    """Return the strategy that makes the mistake that `options` name."""
    return MISTAKES[options.mistake](world, precision, options)


CACHE_SAMPLES = 64


class FaultyDigits(Digits):
    """Either the cache changes what is learnt, or every rank decodes the batches of all of them."""

    def __init__(self, options: FaultyDigitsOptions, context: DataContext) -> None:
        super().__init__(context.device, context.dtype)
        cached = context.spec.cache != "none"
        self._remembered = CACHE_SAMPLES if cached and options.mistake == "forgetful_cache" else None
        everything = context.spec.data_shards if options.mistake == "decodes_everything" else 0
        self._decoding_s = everything * options.decode_ms / 1e3

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples, or those that the cache has in their place."""
        if self._decoding_s:
            time.sleep(self._decoding_s * len(samples))
        return super().train_batch(samples if self._remembered is None else samples % self._remembered, epoch)


def load_faulty_digits_dataset(
    *, options: FaultyDigitsOptions, context: DataContext, **_: Any
) -> FaultyDigits:
    """Return the data set on a device."""
    return FaultyDigits(options, context)

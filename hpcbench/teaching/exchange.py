"""Data parallelism with mistakes: in the beginning, in the exchange, in counting, in keeping step."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.base import Batch, MakeOptimizer, Replicated, Sums


class Faultless(Replicated):
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


class UnequalStart(Faultless):
    """Study 1's all-reduce: each rank starts from its own model, and all apply the same gradients."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Leave out what would make the replicas equal."""
        torch.manual_seed(torch.initial_seed() + self.world.rank)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
        Replicated.prepare(self, model, make_optimizer)


class SummedGradients(Faultless):
    """Gradients are summed and never divided: the learning rate is too high by the number of ranks."""

    def divisor(self) -> int:
        """Forget to divide."""
        return 1


class InflatedCount(Faultless):
    """Samples are counted as if more ranks had trained: all of them, or study 1's four of which three did."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Sums | None:
        """Train as ever and multiply what was counted."""
        sums = super().forward_backward(micro_batches)
        assert sums is not None
        counted = self.options.counted_ranks or self.world.training_ranks**2
        factor = counted / self.world.training_ranks
        return Sums(sums.loss_sum * factor, (sums.correct * factor).long(), round(sums.samples * factor))


class StragglingRank(Faultless):
    """The last rank does everything twice as slowly."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Sums | None:
        """Train, and let the last rank sleep for as long as that took."""
        began = time.perf_counter()
        sums = super().forward_backward(micro_batches)
        if self.world.rank == self.world.training_ranks - 1:
            time.sleep(time.perf_counter() - began)
        return sums


class EvaluatesEverything(Faultless):
    """Study 2: every rank evaluates the whole validation set, and all of them count it."""

    @torch.no_grad()
    def evaluate(self, batch: Batch, mask: Tensor) -> Sums | None:
        """Collect the shards of all ranks and evaluate them here too."""
        return super().evaluate(
            Batch(self._of_all(batch.images), self._of_all(batch.labels)), self._of_all(mask.long()).bool()
        )

    def _of_all(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.world.training_ranks)]
        dist.all_gather(parts, tensor.contiguous(), group=self.world.trainers)
        return torch.cat(parts)


class CountsPadding(Faultless):
    """What pads the last batch of an evaluation is counted."""

    def evaluate(self, batch: Batch, mask: Tensor) -> Sums | None:
        """Forget the mask."""
        return super().evaluate(batch, torch.ones_like(mask))


class DropsLastBatch(Faultless):
    """An evaluation leaves out the batches that are not full."""

    def evaluate(self, batch: Batch, mask: Tensor) -> Sums | None:
        """Count full batches only."""
        return super().evaluate(batch, mask if bool(mask.all()) else torch.zeros_like(mask))

"""Data parallelism with explicit all-reduces: per parameter, in buckets after backward, or in buckets that
overlap backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.data_parallel_entries import CollectiveOptions
from hpcbench.strategies.strategy_base import ReplicatedStrategy
from hpcbench.strategies.traffic import MEBIBYTE
from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy, World
from hpcbench.tasks.batches import Batch, LossSums


def build(world: World, precision: PrecisionPolicy, options: CollectiveOptions) -> CollectiveStrategy:
    """Return the variant that `exchange` names."""
    variants = {
        "per_parameter": PerParameterExchange,
        "bucketed": BucketedExchange,
        "overlapped": OverlappedExchange,
    }
    return variants[options.exchange](world, precision, options)


class CollectiveStrategy(ReplicatedStrategy):
    """The base of the variants: replicas begin equal."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Make the replicas equal before the first step."""
        super().prepare(model, make_optimizer)
        self.broadcast_initial_state(model)


class PerParameterExchange(CollectiveStrategy):
    """One all-reduce for each parameter, one after the other."""

    def exchange(self) -> None:
        """Average each gradient over the ranks."""
        if self.skips_exchange:
            return
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=self.world.trainers)
                parameter.grad /= self.world.training_ranks


class GradientBucket:
    """Gradients of consecutive parameters in one flat tensor; each `grad` is a view into it."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.flat = torch.zeros(
            sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
        )
        views = self.flat.split([p.numel() for p in parameters])
        self.views = [view.view_as(p) for view, p in zip(views, parameters, strict=True)]
        self.ready = 0

    def attach(self) -> None:
        """Let backward accumulate into the flat tensor."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


def cut_into_buckets(parameters: Sequence[nn.Parameter], bucket_bytes: float) -> list[GradientBucket]:
    """Cut parameters into buckets of at most that size, last parameter first, as backward reaches them."""
    groups: list[list[nn.Parameter]] = []
    size = 0.0
    for parameter in reversed(parameters):
        own = parameter.numel() * parameter.element_size()
        if not groups or size + own > bucket_bytes or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            size = 0.0
        groups[-1].append(parameter)
        size += own
    return [GradientBucket(group) for group in groups]


class BucketedExchange(CollectiveStrategy):
    """One all-reduce for each bucket, all begun at once after backward."""

    buckets: list[GradientBucket]

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Lay the gradients out in buckets."""
        super().prepare(model, make_optimizer)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.buckets = cut_into_buckets(trained, self.options.bucket_mb * MEBIBYTE)
        for bucket in self.buckets:
            bucket.attach()

    def exchange(self) -> None:
        """Average the buckets over the ranks."""
        if self.skips_exchange:
            return
        self.finish([self.begin(bucket) for bucket in self.buckets])

    def begin(self, bucket: GradientBucket) -> dist.Work:
        """Start to sum a bucket over the ranks."""
        work: dist.Work = dist.all_reduce(bucket.flat, group=self.world.trainers, async_op=True)
        return work

    def finish(self, begun: Sequence[dist.Work]) -> None:
        """Wait for all sums and turn them into means."""
        for work in begun:
            work.wait()
        torch._foreach_div_([bucket.flat for bucket in self.buckets], float(self.world.training_ranks))

    def clear_gradients(self) -> None:
        """Zero the buckets; the gradients stay views into them."""
        torch._foreach_zero_([bucket.flat for bucket in self.buckets])


class OverlappedExchange(BucketedExchange):
    """A bucket is reduced as soon as backward has filled it.

    Buckets are begun in their fixed order, so that all ranks issue the same sequence of collectives even
    where their backward passes finish parameters in different orders.
    """

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Have every parameter report when its gradient is complete."""
        super().prepare(model, make_optimizer)
        self.begun: list[dist.Work] = []
        self.in_last_micro_batch = False
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._reporter(bucket))

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Train as ever; the hooks do the rest."""
        for bucket in self.buckets:
            bucket.ready = 0
        return super().forward_backward(micro_batches)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Note whether gradients are complete after this micro-batch."""
        self.in_last_micro_batch = last
        return nullcontext()

    def exchange(self) -> None:
        """Wait for what backward has begun, and for buckets that it never filled."""
        if self.skips_exchange:
            return
        rest = self.buckets[len(self.begun) :]
        self.finish([*self.begun, *(self.begin(bucket) for bucket in rest)])
        self.begun = []

    def _reporter(self, bucket: GradientBucket) -> Callable[[Tensor], None]:
        def report(parameter: Tensor) -> None:
            if self.skips_exchange or not self.in_last_micro_batch:
                return
            bucket.ready += 1
            while len(self.begun) < len(self.buckets):
                following = self.buckets[len(self.begun)]
                if following.ready < len(following.parameters):
                    break
                self.begun.append(self.begin(following))

        return report

"""torch.nn.parallel.DistributedDataParallel: gradients are averaged in buckets while backward runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hpcbench.strategies.base import MakeOptimizer, Replicated


class Ddp(Replicated):
    """Replicated training; torch's wrapper broadcasts the initial state and exchanges gradients."""

    module: DistributedDataParallel

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Wrap the model."""
        super().prepare(model, make_optimizer)
        self.module = DistributedDataParallel(
            model,
            device_ids=[self.world.device] if self.world.device.type == "cuda" else None,
            process_group=self.world.trainers,
            bucket_cap_mb=self.options.bucket_mb,
            gradient_as_bucket_view=self.options.gradient_as_bucket_view,
            static_graph=self.options.static_graph,
        )

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients with the last micro-batch only."""
        return nullcontext() if last else self.module.no_sync()

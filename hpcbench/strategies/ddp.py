"""torch.nn.parallel.DistributedDataParallel: gradients are averaged in buckets while backward runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hpcbench.strategies.strategy_base import ReplicatedStrategy, set_mode
from hpcbench.strategies.world import MakeOptimizer
from hpcbench.tasks.batches import Batch, measure_logits

# bfloat16 by a function without a name: DistributedDataParallel refuses torch's, by its name, where there is
# no CUDA, though gloo adds bfloat16 up as well as NCCL does.
COMPRESSION_HOOKS: dict[str, Callable[..., torch.futures.Future[Tensor]]] = {
    "fp16": fp16_compress_hook,
    "bf16": lambda group, bucket: bf16_compress_hook(group, bucket),
}

# The option's name since torch 2.13, and before.
DDP_ARGUMENTS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS_ARGUMENT = (
    "forward_sync_buffers" if "forward_sync_buffers" in DDP_ARGUMENTS else "broadcast_buffers"
)


class Ddp(ReplicatedStrategy):
    """Replicated training; torch's wrapper broadcasts the initial state and exchanges gradients."""

    module: DistributedDataParallel
    example: Batch | None = None

    def measure_example(self, model: nn.Module, example: Batch) -> None:
        """Keep a batch for `prepare`."""
        self.example = example

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Wrap the model."""
        super().prepare(model, make_optimizer)
        synchronised = self.options.broadcast_buffers and not self.skips_exchange
        unsynchronised: dict[str, Any] = {} if synchronised else {SYNC_BUFFERS_ARGUMENT: False}
        self.module = DistributedDataParallel(
            model,
            device_ids=[self.world.device] if self.world.device.type == "cuda" else None,
            process_group=self.world.trainers,
            bucket_cap_mb=self.options.bucket_mb,
            gradient_as_bucket_view=self.options.gradient_as_bucket_view,
            static_graph=self.options.static_graph,
            **unsynchronised,
        )
        self.synchronize()  # buffers begin equal even where they are not kept so
        if self.skips_exchange:
            self.module.register_comm_hook(self.world.trainers, noop_hook)
        elif self.options.compression != "none":
            self.module.register_comm_hook(self.world.trainers, COMPRESSION_HOOKS[self.options.compression])
        if self.example is not None:
            self._lay_out_buckets(self.example)

    def _lay_out_buckets(self, example: Batch) -> None:
        """Go forward and backward once, for nothing.

        Torch lays the buckets out anew after the first backward, in the order in which gradients came. On
        three ranks and more the layout decides in which order they are added up: a process that goes on from
        a checkpoint would come to other bits than one that never stopped.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        set_mode(self.model, training=True)
        # Compiled code would be made for a batch of this size.
        with torch.compiler.set_stance("force_eager"), self.precision.autocast():
            sums = measure_logits(self.module(example.images), example.labels)
        sums.loss_sum.backward()
        self.clear_gradients()
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients with the last micro-batch only."""
        return nullcontext() if last else self.module.no_sync()

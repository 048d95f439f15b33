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

from hpcbench.strategies.base import MakeOptimizer, Replicated

# bfloat16 by a function without a name: DistributedDataParallel refuses torch's, by its name, where there is
# no CUDA, though gloo adds bfloat16 up as well as NCCL does.
COMPRESSION: dict[str, Callable[..., torch.futures.Future[Tensor]]] = {
    "fp16": fp16_compress_hook,
    "bf16": lambda group, bucket: bf16_compress_hook(group, bucket),
}

# The option's name since torch 2.13, and before.
ARGUMENTS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in ARGUMENTS else "broadcast_buffers"


class Ddp(Replicated):
    """Replicated training; torch's wrapper broadcasts the initial state and exchanges gradients."""

    exchange_can_be_left_out = True
    module: DistributedDataParallel

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Wrap the model."""
        super().prepare(model, make_optimizer)
        synchronised = self.options.broadcast_buffers and not self.silent
        unsynchronised: dict[str, Any] = {} if synchronised else {SYNC_BUFFERS: False}
        self.module = DistributedDataParallel(
            model,
            device_ids=[self.world.device] if self.world.device.type == "cuda" else None,
            process_group=self.world.trainers,
            bucket_cap_mb=self.options.bucket_mb,
            gradient_as_bucket_view=self.options.gradient_as_bucket_view,
            static_graph=self.options.static_graph,
            **unsynchronised,
        )
        self.settle()  # buffers begin equal even where they are not kept so
        if self.silent:
            self.module.register_comm_hook(self.world.trainers, noop_hook)
        elif self.options.compression != "none":
            self.module.register_comm_hook(self.world.trainers, COMPRESSION[self.options.compression])

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients with the last micro-batch only."""
        return nullcontext() if last else self.module.no_sync()

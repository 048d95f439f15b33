"""Local SGD (Stich 2019): each rank trains alone for some steps, then the ranks average their parameters."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from hpcbench.strategies.strategy_base import ReplicatedStrategy
from hpcbench.strategies.world import MakeOptimizer


class LocalSgd(ReplicatedStrategy):
    """Replicas that agree every `local_steps` steps; not synchronous, unless that is every step."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Make the replicas equal before the first step."""
        super().prepare(model, make_optimizer)
        self.broadcast_initial_state(model)
        self.steps_alone = 0

    def update(self, lr: float) -> None:
        """Update alone; average when it is time. The exchange depends on the update, so it counts as one."""
        super().update(lr)
        self.steps_alone += 1
        if self.steps_alone == self.options.local_steps:
            self.average_parameters()

    def synchronize(self) -> None:
        """Average what has been done alone so far; take the running statistics of shard 0."""
        if self.steps_alone:
            self.average_parameters()
        super().synchronize()

    @torch.no_grad()
    def average_parameters(self) -> None:
        """Take the mean of all ranks' parameters, in one message."""
        if self.skips_exchange:
            return
        parameters = list(self.model.parameters())
        flat = torch.cat([parameter.reshape(-1) for parameter in parameters])
        dist.all_reduce(flat, group=self.world.trainers)
        flat /= self.world.training_ranks
        means = flat.split([parameter.numel() for parameter in parameters])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.copy_(mean.view_as(parameter))
        self.steps_alone = 0

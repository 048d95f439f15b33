"""Model parallelism: the layers of one model lie on several devices of one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcbench.strategies.model_partition import (
    ModelBlock,
    ModelPart,
    blocks_of,
    measure_blocks,
    partition_evenly,
)
from hpcbench.strategies.strategy_base import MultiDeviceStrategy
from hpcbench.strategies.world import MakeOptimizer
from hpcbench.tasks.batches import Batch


class LayersOnDevices(nn.Module):
    """Parts of a model, each on its device; logits come back to the first."""

    def __init__(self, parts: Sequence[Sequence[ModelBlock]], devices: Sequence[torch.device]) -> None:
        super().__init__()
        self.devices = devices
        self.parts = nn.ModuleList(
            ModelPart(blocks).to(device) for blocks, device in zip(parts, devices, strict=True)
        )

    def forward(self, batch: Tensor) -> Tensor:
        """Send a batch from device to device."""
        for part, device in zip(self.parts, self.devices, strict=True):
            batch = part(batch.to(device, non_blocking=True))
        return batch.to(self.devices[0], non_blocking=True)


class ModelParallel(MultiDeviceStrategy):
    """One process, the model's layers on several devices."""

    def measure_example(self, model: nn.Module, example: Batch) -> None:
        """Measure what each block costs, and cut where the parts cost the same."""
        costs = measure_blocks(blocks_of(model), example.images, self.precision)
        self.cuts = partition_evenly(costs.seconds, len(self.world.devices))

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Move each part to its device; the optimizer has to see the parameters where they then are."""
        blocks = blocks_of(model)
        parts = [[blocks[index] for index in indices] for indices in self.cuts]
        spread = LayersOnDevices(parts, self.world.devices)
        super().prepare(model, make_optimizer)
        self.module = spread

    def predict(self, images: Tensor) -> Tensor:
        """Evaluate from device to device, too."""
        logits: Tensor = self.module(images)
        return logits

"""Partitions a model into consecutive parts of about equal measured cost."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hpcbench.strategies.strategy_base import set_mode
from hpcbench.strategies.world import PrecisionPolicy

ModelBlock = dict[str, nn.Module]  # modules that follow each other, by their names in the model

COST_WARM_UPS = 1
COST_REPEATS = 3


@runtime_checkable
class HasBlocks(Protocol):
    """A model that says itself where it may be cut."""

    def blocks(self) -> list[ModelBlock]:
        """Return consecutive blocks: a batch that passes all their modules in order passes the model."""


def blocks_of(model: nn.Module) -> list[ModelBlock]:
    """Return the blocks of a model, each with parameters: a part without any would have nothing to train."""
    if isinstance(model, HasBlocks):
        return model.blocks()
    assert isinstance(model, nn.Sequential), f"{type(model).__name__} does not say where it may be cut"
    blocks: list[ModelBlock] = [{}]
    for name, module in model.named_children():
        if _has_parameters(module) and any(map(_has_parameters, blocks[-1].values())):
            blocks.append({})
        blocks[-1][name] = module
    return blocks


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


class ModelPart(nn.Module):
    """Consecutive blocks as one module; what is in it keeps the names that it has in the whole model."""

    def __init__(self, blocks: Sequence[ModelBlock]) -> None:
        super().__init__()
        self._in_order = [module for block in blocks for module in block.values()]
        for block in blocks:
            for name, module in block.items():
                *path, last = name.split(".")
                holder: nn.Module = self
                for step in path:
                    if step not in dict(holder.named_children()):
                        holder.add_module(step, nn.Module())
                    holder = holder.get_submodule(step)
                holder.add_module(last, module)

    def forward(self, batch: Tensor) -> Tensor:
        """Send a batch through all blocks."""
        for module in self._in_order:
            batch = module(batch)
        return batch


@dataclass(frozen=True)
class BlockCosts:
    """What each block needs and returns: seconds for forward and backward; shape and format of a sample."""

    seconds: list[float]
    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]


def measure_blocks(blocks: Sequence[ModelBlock], images: Tensor, precision: PrecisionPolicy) -> BlockCosts:
    """Send a small batch [samples, channels, height, width] through copies of the blocks, one by one."""
    costs = BlockCosts([], [], [])
    for index, block in enumerate(blocks):
        part = copy.deepcopy(ModelPart([block]))
        set_mode(part, training=True)
        images = images.detach().requires_grad_(index > 0)
        times = []
        for _ in range(COST_WARM_UPS + COST_REPEATS):
            began = _synchronized_time(images.device)
            with precision.autocast():
                output: Tensor = part(images)
            output.sum().backward()
            times.append(_synchronized_time(images.device) - began)
        costs.seconds.append(statistics.median(times[COST_WARM_UPS:]))
        costs.shapes.append(tuple(output.shape[1:]))
        costs.dtypes.append(output.dtype)
        images = output
    return costs


def _synchronized_time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def partition_evenly(costs: Sequence[float], parts: int) -> list[range]:
    """Cut a sequence into that many consecutive parts so that the most expensive one is as cheap as can be.

    Returns the indices of each part; none is empty. Of several best cuts it takes the one whose earlier cuts
    come first.
    """
    count = len(costs)
    assert 1 <= parts <= count, f"{count} blocks cannot make {parts} parts"
    # best[k][i]: the most expensive of k parts over the costs from i on, and where the first of them ends
    best: list[dict[int, tuple[float, int]]] = [{count: (0.0, count)}]
    for left in range(1, parts + 1):
        row = {}
        for first in range(count - left + 1):
            ends = [end for end in range(first + 1, count + 1) if end in best[left - 1]]
            row[first] = min((max(sum(costs[first:end]), best[left - 1][end][0]), end) for end in ends)
        best.append(row)
    ranges, first = [], 0
    for left in range(parts, 0, -1):
        end = best[left][first][1]
        ranges.append(range(first, end))
        first = end
    return ranges

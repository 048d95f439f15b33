"""One of two ranks that train with several strategies in turns, or with one to see what it holds in memory.

`python -m benchmarks.strategy_rank RANK FOLDER` writes the seconds of each round of each strategy of SPEEDS;
with the name of a strategy as a third argument, how much that strategy adds to the resident set.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import nn

from benchmarks.ranks import join, leave
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.world import World
from hpcbench.tasks.batches import Batch
from hpcbench.tasks.task_registry import MODELS
from hpcbench.training.measurement import resident_peak_bytes
from hpcbench.training.precision import RunPrecision

RANKS = 2
CPU = torch.device("cpu")
SPEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("ddp", {}),
    "per_parameter": ("collective", {"exchange": "per_parameter"}),
    "bucketed": ("collective", {"exchange": "bucketed"}),
    "overlapped": ("collective", {"exchange": "overlapped"}),
}
ROUNDS, STEPS = 12, 4
LR = 1e-4
BATCH, SMALL_BATCH = 16, 4


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of the studies."""
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=5e-4)


def begin(name: str, options: dict[str, Any], model: str, rank: int) -> Strategy:
    """Return a strategy that is ready to train."""
    torch.manual_seed(0)
    entry = STRATEGIES[name]
    world = World(rank, RANKS, RANKS, CPU, dist.group.WORLD)
    strategy: Strategy = entry.load()(world, RunPrecision("fp32", CPU), entry.options(**options))
    strategy.prepare(MODELS[model].load()(channels=3, classes=1000, stem="imagenet"), make_optimizer)
    return strategy


def do_step(strategy: Strategy, batch: Batch) -> None:
    """Train one step."""
    strategy.begin_step(LR)
    strategy.forward_backward([batch])
    strategy.exchange()
    strategy.update(LR)


def make_batch(samples: int) -> Batch:
    """Return random images, small ones, so that the exchange is much of a step."""
    return Batch(torch.randn(samples, 3, 32, 32), torch.randint(1000, (samples,)))


def measure_speed(rank: int) -> dict[str, Any]:
    """Train a few steps with each strategy in turn, round after round."""
    strategies = {name: begin(*what, "resnet18", rank) for name, what in SPEEDS.items()}
    batch = make_batch(BATCH)
    seconds: dict[str, list[float]] = {name: [] for name in strategies}
    for strategy in strategies.values():
        do_step(strategy, batch)
    names = list(strategies)
    for number in range(ROUNDS):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            dist.barrier()
            began = time.perf_counter()
            for _ in range(STEPS):
                do_step(strategies[name], batch)
            dist.barrier()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def measure_memory(name: str, rank: int) -> dict[str, Any]:
    """Train a few steps of ResNet-50; the resident set at its peak and between steps, beyond what it was."""
    dist.all_reduce(torch.ones(1))  # the group's own buffers come first
    peak, held = resident_peak_bytes(), resident_bytes()
    strategy = begin(name, {}, "resnet50", rank)
    for _ in range(3):
        do_step(strategy, make_batch(SMALL_BATCH))
    elements = sum(parameter.numel() for parameter in strategy.model.parameters())
    return {
        "peak_bytes": resident_peak_bytes() - peak,
        "held_bytes": resident_bytes() - held,
        "parameter_bytes": 4 * elements,
    }


def resident_bytes() -> int:
    """Return the resident set, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def main(rank: int, folder: Path, name: str | None = None) -> None:
    """Join, measure, and write what this process has seen."""
    join(rank, RANKS, folder)
    leave(rank, folder, measure_memory(name, rank) if name else measure_speed(rank))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])

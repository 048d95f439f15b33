"""One rank of the parity proof: joins a group once and trains every case of its size.

`python -m tests.parity.rank RANK RANKS FOLDER`; writes the weights that it ends with to FOLDER.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from hpcbench.strategies import STRATEGIES
from hpcbench.strategies.base import Strategy, World
from hpcbench.training.precision import Arithmetic
from tests.parity.cases import (
    LR,
    MOMENTUM,
    WEIGHT_DECAY,
    Case,
    all_cases,
    build_model,
    learning_rate,
    shard_batches,
)


def train(case: Case, world: World) -> dict[str, torch.Tensor]:
    """Train a case by its strategy. Each rank starts from other weights: making them equal is its job."""
    entry = STRATEGIES[case.strategy]
    strategy: Strategy = entry.load()(
        world, Arithmetic(case.precision, world.device), entry.options(**case.options)
    )
    strategy.prepare(
        build_model(case, seed=world.rank),
        lambda parameters: torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
    )
    seat = strategy.seat()
    for step in range(case.steps):
        strategy.forward_backward(shard_batches(case, step)[seat.shard])
        strategy.exchange()
        strategy.update(learning_rate(step))
    strategy.settle()
    return {name: value.clone() for name, value in strategy.weights().items()}


def main(rank: int, ranks: int, folder: Path) -> None:
    """Train all cases of this number of ranks, in the same order on each."""
    torch.set_num_threads(1)
    group = None
    if ranks > 1:
        store = dist.FileStore(str(folder / f"store{ranks}"), ranks)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
        )
        group = dist.group.WORLD
    world = World(rank, ranks, ranks, torch.device("cpu"), group)
    results = {case.name: train(case, world) for case in all_cases() if case.ranks == ranks}
    torch.save(results, folder / f"ranks{ranks}.rank{rank}.pt")
    if group is not None:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

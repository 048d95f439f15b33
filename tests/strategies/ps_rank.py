"""One process of the tests of parameter servers: three workers, the last of them slow, and a server.

`python -m tests.strategies.ps_rank RANK FOLDER`; writes what it has seen to FOLDER.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.ps_worker import build
from hpcbench.strategies.server_channel import (
    ENDING_KINDS,
    CommandInbox,
    CommandKind,
    ServerCommand,
    send_command,
)
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import Optimizer
from hpcbench.training.precision import RunPrecision
from hpcbench.training.training_run import build_optimizer
from tests.parity.cases import Case, build_model, learning_rate, shard_batches

WORKERS = 3
SLOW_S = 0.02  # so long does the last worker sleep in each step
EPOCHS, STEPS = 2, 15
CPU = torch.device("cpu")

MODES = {
    "async": PsOptions(mode="async", bucket_mb=0.02),
    "bounded 0": PsOptions(mode="bounded", max_staleness=0),
    "bounded 2": PsOptions(mode="bounded", max_staleness=2, bucket_mb=0.02),
}
SHAPE = Case("ps", {}, ranks=WORKERS, batch=4).shape
NO_DECAY_ON_NORM = Optimizer(lr=0.05, weight_decay=0.1, weight_decay_on_norm=False)


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Return an optimizer that treats parameters of one dimension differently."""
    return build_optimizer(NO_DECAY_ON_NORM, parameters)


def commands(world: World) -> Iterator[ServerCommand]:
    """Yield commands until all workers have ended."""
    ended, inbox = 0, CommandInbox(world)
    while ended < world.training_ranks:
        command = inbox.next()
        if command.kind in ENDING_KINDS:
            ended += 1
        else:
            yield command


def train(strategy: Strategy, world: World, slow: bool) -> dict[str, Any]:
    """Train some epochs on the same few batches; return the losses of all steps, and the weights."""
    strategy.prepare(build_model(SHAPE, seed=world.rank), make_optimizer)
    losses = []
    for _ in range(EPOCHS):
        for step in range(STEPS):
            strategy.begin_step(learning_rate(step) / 5)
            sums = strategy.forward_backward(shard_batches(SHAPE, step % 3)[world.rank])
            assert sums is not None
            losses.append(float(sums.loss_sum))
            strategy.exchange()
            strategy.update(learning_rate(step) / 5)
            if slow:
                time.sleep(SLOW_S)
        send_command(world, ServerCommand(kind=CommandKind.END_EPOCH))
        strategy.synchronize()
    return {"losses": losses, "weights": {name: v.clone() for name, v in strategy.weights().items()}}


def train_alike(strategy: Strategy, rank: int) -> dict[str, torch.Tensor]:
    """Train on the batches of the first worker; then all strategies and all ranks should learn the same."""
    strategy.prepare(build_model(SHAPE, seed=rank), make_optimizer)
    for step in range(5):
        strategy.begin_step(learning_rate(step))
        strategy.forward_backward(shard_batches(SHAPE, step)[0])
        strategy.exchange()
        strategy.update(learning_rate(step))
    strategy.synchronize()
    return {name: value.clone() for name, value in strategy.weights().items()}


def main(rank: int, folder: Path) -> None:
    """Do all modes, one after the other."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), WORKERS + 1)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=WORKERS + 1, timeout=timedelta(seconds=60)
    )
    trainers, control = dist.new_group(list(range(WORKERS))), dist.new_group()
    world = World(rank, WORKERS + 1, WORKERS, CPU, trainers, control=control)
    results: dict[str, Any] = {}
    for name, options in {**MODES, "alike": PsOptions(bucket_mb=0.02)}.items():
        strategy = build(world, RunPrecision("fp64", CPU), options)
        if rank == WORKERS:
            strategy.serve(commands(world), make_optimizer)
            results[name] = strategy.measurements()
        else:
            if name == "alike":
                results[name] = train_alike(strategy, rank)
            else:
                results[name] = train(strategy, world, slow=rank == WORKERS - 1)
            send_command(world, ServerCommand(kind=CommandKind.STOP))
        dist.barrier()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

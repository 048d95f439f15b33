"""One rank of the parity proof: joins a group once and trains every case of its size.

`python -m tests.parity.rank RANK PROCESSES FOLDER`; writes what it ends with to FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.model_parallel import ModelParallel
from hpcbench.strategies.model_partition import partition_evenly
from hpcbench.strategies.pipeline import Pipeline
from hpcbench.strategies.server_channel import CommandInbox, CommandKind, ServerCommand, send_command
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.training.precision import RunPrecision
from tests.parity.cases import (
    LR,
    MOMENTUM,
    WEIGHT_DECAY,
    Case,
    all_cases,
    build_model,
    evaluation_batches,
    inexact_cases,
    learning_rate,
    overflowing_cases,
    resumed_cases,
    shard_batches,
)

THINNED = 4096  # of larger tensors not every element goes into the file
CPU = torch.device("cpu")


def begin(
    case: Case, world: World, arithmetic: RunPrecision, seed: int, avoid: Strategy | None = None
) -> Strategy:
    """Return the strategy, ready to train from the initial state of a seed, cut elsewhere than another."""
    strategy: Strategy = case.entry.load()(world, arithmetic, case.entry.options(**case.options))
    model = build_model(case.shape, seed)
    strategy.measure_example(model, shard_batches(case.shape, 0)[0][0])
    if avoid is not None:
        cut_elsewhere(strategy, avoid)
    strategy.prepare(model, make_optimizer)
    return strategy


def cut_elsewhere(strategy: Strategy, other: Strategy) -> None:
    """Pretend that a strategy which cuts by measurements has come to another result than the other one."""
    if isinstance(strategy, Pipeline | ModelParallel) and isinstance(other, Pipeline | ModelParallel):
        blocks, parts = other.cuts[-1].stop, len(other.cuts)
        ends = [1.0] + [0.0] * (blocks - 1)
        strategy.cuts = partition_evenly(ends, parts)
        if strategy.cuts == other.cuts:
            first = blocks - parts + 1
            strategy.cuts = [range(first), *(range(i, i + 1) for i in range(first, blocks))]


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of all cases."""
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def do_steps(strategy: Strategy, case: Case, steps: range, overflow_at: int | None = None) -> None:
    """Train some steps. In the one of `overflow_at` the last shard has images that are too large for fp16."""
    shard = strategy.shard()
    for step in steps:
        micro_batches = shard_batches(case.shape, step, case.accumulation)[shard.index]
        if step == overflow_at and shard.index == shard.count - 1:
            for batch in micro_batches:
                batch.images.fill_(float("inf"))
        strategy.begin_step(learning_rate(step))
        strategy.forward_backward(micro_batches)
        strategy.exchange()
        strategy.update(learning_rate(step))


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, of large tensors every 97th element only."""
    return {
        name: (value.reshape(-1)[::97] if value.numel() > THINNED else value).clone()
        for name, value in weights.items()
    }


def serve(case: Case, world: World) -> None:
    """Do a server's part of a case, until all training ranks have said that it is over."""

    def commands() -> Iterator[ServerCommand]:
        ended, inbox = 0, CommandInbox(world)
        while ended < world.training_ranks:
            command = inbox.next()
            if command.kind is CommandKind.STOP:
                ended += 1
            else:
                yield command

    strategy: Strategy = case.entry.load()(
        world, RunPrecision(case.precision, CPU), case.entry.options(**case.options)
    )
    strategy.serve(commands(), make_optimizer)
    dist.barrier()


def settle(strategy: Strategy) -> None:
    """End an epoch."""
    send_command(strategy.world, ServerCommand(kind=CommandKind.END_EPOCH))
    strategy.synchronize()


def dismiss_servers(world: World) -> None:
    """End the life of the servers; what comes next is said to the next ones only."""
    if world.control is not None:
        send_command(world, ServerCommand(kind=CommandKind.STOP))
        dist.barrier()


def train(case: Case, world: World) -> dict[str, Any]:
    """Train a case, evaluating half-way. Each rank starts from other weights: that is for it to mend."""
    strategy = begin(case, world, RunPrecision(case.precision, CPU), seed=world.rank)
    half = case.steps // 2
    do_steps(strategy, case, range(half))
    settle(strategy)
    batch, mask = evaluation_batches(case.shape)[strategy.shard().index]
    sums = strategy.evaluate(batch, mask)
    seen = (0, 0, 0) if sums is None else (sums.loss_sum, sums.correct, sums.samples)
    evaluation = torch.tensor([float(each) for each in seen], dtype=torch.float64)
    do_steps(strategy, case, range(half, case.steps))
    settle(strategy)
    dismiss_servers(world)
    return {"weights": copied(strategy.weights()), "evaluation": evaluation}


def stop_and_resume(case: Case, world: World) -> dict[str, Any]:
    """Train on, and train on from the saved state in a strategy that began elsewhere."""
    strategy = begin(case, world, RunPrecision(case.precision, CPU), seed=world.rank)
    half = case.steps // 2
    do_steps(strategy, case, range(half))
    settle(strategy)
    file = BytesIO()
    torch.save(strategy.state(), file)
    file.seek(0)
    ends = {"weights": go_on(strategy, case, range(half, case.steps))}
    other = begin(case, world, RunPrecision(case.precision, CPU), seed=100 + world.rank, avoid=strategy)
    other.load_state(torch.load(file, weights_only=True))
    ends["resumed"] = go_on(other, case, range(half, case.steps))
    return ends


def go_on(strategy: Strategy, case: Case, steps: range) -> dict[str, Tensor]:
    """Do the last steps of a strategy; return the weights."""
    do_steps(strategy, case, steps)
    settle(strategy)
    dismiss_servers(strategy.world)
    return copied(strategy.weights())


def overflow(case: Case, world: World) -> dict[str, Any]:
    """Train with one bad batch on one rank; count the updates that were left out."""
    arithmetic = RunPrecision(case.precision, CPU)
    strategy = begin(case, world, arithmetic, seed=world.rank)
    do_steps(strategy, case, range(case.steps), overflow_at=1)
    settle(strategy)
    dismiss_servers(world)
    return {"weights": copied(strategy.weights()), "skipped": arithmetic.skipped_updates}


class Worlds:
    """The worlds of one rank's cases; groups are made once, by all processes alike."""

    def __init__(self, rank: int, processes: int, everyone: dist.ProcessGroup | None) -> None:
        self.rank, self.processes, self.everyone = rank, processes, everyone
        self.groups: dict[int, tuple[dist.ProcessGroup, dist.ProcessGroup]] = {}

    def of(self, case: Case) -> World:
        """Return the world of a case."""
        trainers, control = self.everyone, None
        if case.processes > case.ranks:
            if case.ranks not in self.groups:
                self.groups[case.ranks] = dist.new_group(list(range(case.ranks))), dist.new_group()
            trainers, control = self.groups[case.ranks]
        more_devices = (CPU,) * (case.devices - 1)
        return World(self.rank, self.processes, case.ranks, CPU, trainers, more_devices, control)


def main(rank: int, processes: int, folder: Path) -> None:
    """Train all cases of this number of processes, in the same order on each."""
    torch.set_num_threads(1)
    group = None
    if processes > 1:
        store = dist.FileStore(str(folder / f"store{processes}"), processes)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=processes, timeout=timedelta(seconds=60)
        )
        group = dist.group.WORLD
    results: dict[str, dict[str, Any]] = {}
    tasks = {
        "train": (train, all_cases(), 1),
        "inexact": (train, inexact_cases(), 1),
        "resume": (stop_and_resume, resumed_cases(), 2),
        "overflow": (overflow, overflowing_cases(), 1),
    }
    worlds = Worlds(rank, processes, group)
    for task, (do, cases, lives) in tasks.items():
        for case in cases:
            if case.processes != processes:
                continue
            world = worlds.of(case)
            if rank >= case.ranks:
                for _ in range(lives):
                    serve(case, world)
                continue
            results[f"{task}:{case.name}"] = do(case, world)
    torch.save(results, folder / f"processes{processes}.rank{rank}.pt")
    if group is not None:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

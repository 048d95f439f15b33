"""One process of the benchmark of the parameter server: two workers and a server.

`python -m benchmarks.ps_rank RANK FOLDER`; writes the seconds that it has measured.

All figures are medians of repetitions in one run on one machine, taken in turns, so that whatever else the
machine does meets all of them alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.ranks import join, leave
from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.ps_worker import SyncWorker, build
from hpcbench.strategies.server_channel import CommandInbox, CommandKind, ServerCommand, send_command
from hpcbench.strategies.world import World
from hpcbench.tasks.batches import Batch
from hpcbench.tasks.task_registry import MODELS
from hpcbench.training.precision import RunPrecision

WORKERS, SERVER = 2, 2
BATCH = Batch(torch.randn(8, 3, 32, 32), torch.randint(1000, (8,)))
ROUNDS, STEPS = 5, 3  # rounds of all measurements, and repetitions in each
CPU = torch.device("cpu")
LR = 1e-4


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of the studies."""
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=5e-4)


def repeat(do: Callable[[], None], times: list[float]) -> None:
    """Measure an action that all processes take part in."""
    do()
    for _ in range(STEPS):
        dist.barrier()
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)


def swap(values: Tensor, other: Tensor, rank: int) -> None:
    """Send a tensor from the first worker to the server and one back, in pieces, both at the same time."""
    peer = {0: SERVER, SERVER: 0}.get(rank)
    if peer is None:
        return
    pieces = 262_144  # elements: 1 MiB
    works = [dist.isend(part, peer) for part in values.split(pieces)]
    works += [dist.irecv(part, peer) for part in other.split(pieces)]
    for work in works:
        assert work is not None
        work.wait()


class PerTensor:
    """The textbook's exchange: one message for each tensor, one after the other."""

    def __init__(self, rank: int, parameters: list[nn.Parameter]) -> None:
        self.rank = rank
        self.parameters = [nn.Parameter(each.detach().clone()) for each in parameters]
        self.optimizer = make_optimizer(self.parameters)
        for each in self.parameters:
            each.grad = torch.zeros_like(each)
        self.arrived = [[torch.zeros_like(each) for each in self.parameters] for _ in range(WORKERS)]

    def exchange(self) -> None:
        """Push gradients, update, pull parameters."""
        if self.rank == SERVER:
            self.serve()
            return
        for each in self.parameters:
            assert each.grad is not None
            dist.send(each.grad, SERVER)
        for each in self.parameters:
            dist.recv(each.detach(), SERVER)

    def serve(self) -> None:
        """Do the server's part."""
        for worker in range(WORKERS):
            for tensor in self.arrived[worker]:
                dist.recv(tensor, worker)
        for each, *gradients in zip(self.parameters, *self.arrived, strict=True):
            total = gradients[0]
            for gradient in gradients[1:]:
                total += gradient
            each.grad = total.div_(WORKERS)
        self.optimizer.step()
        for worker in range(WORKERS):
            for each in self.parameters:
                dist.send(each.detach(), worker)


def update_alone(parameters: list[nn.Parameter]) -> Callable[[], None]:
    """Return what a server computes in a step: the mean of the workers' gradients and an update."""
    flat = nn.Parameter(torch.cat([each.detach().reshape(-1) for each in parameters]))
    gradients = [torch.zeros_like(flat) for _ in range(WORKERS)]
    pieces = [nn.Parameter(part) for part in flat.detach().split(262_144)]
    optimizers = [make_optimizer([part]) for part in pieces]

    def update() -> None:
        for index, (part, optimizer) in enumerate(zip(pieces, optimizers, strict=True)):
            own = slice(index * 262_144, index * 262_144 + part.numel())
            total = gradients[0][own]
            total += gradients[1][own]
            total /= WORKERS
            part.grad = total
            optimizer.step()

    return update


class Seat:
    """A worker's or the server's part in what is measured."""

    def __init__(self, world: World, model: nn.Module) -> None:
        self.strategy = build(world, RunPrecision("fp32", CPU), PsOptions())
        if isinstance(self.strategy, SyncWorker):
            self.strategy.prepare(model, make_optimizer)
        else:
            self.inbox = CommandInbox(world)
            self.serve(2)  # take the parameters, say that it is ready

    def serve(self, count: int) -> None:
        """Follow that many commands."""
        self.strategy.serve((self.inbox.next() for _ in range(count)), make_optimizer)

    def compute(self) -> None:
        """Go forward and backward."""
        if isinstance(self.strategy, SyncWorker):
            self.strategy.forward_backward([BATCH])

    def exchange(self) -> None:
        """Push, update, pull."""
        if isinstance(self.strategy, SyncWorker):
            self.strategy.begin_step(LR)
            self.strategy.exchange()
        else:
            self.serve(WORKERS)

    def step(self) -> None:
        """Do a whole step."""
        self.compute()
        self.exchange()
        if isinstance(self.strategy, SyncWorker):
            self.strategy.update(LR)


def measure(world: World) -> dict[str, float]:
    """Measure everything in turns; return medians."""
    torch.manual_seed(0)
    model = MODELS["resnet18"].load()(channels=3, classes=1000, stem="imagenet")
    parameters = list(model.parameters())
    flat = torch.cat([each.detach().reshape(-1) for each in parameters])
    other = torch.empty_like(flat)
    per_tensor, update = PerTensor(world.rank, parameters), update_alone(parameters)
    seat = Seat(world, model)
    measured = {
        "swap": lambda: swap(flat, other, world.rank),
        "compute": seat.compute,
        "update": update if world.rank == SERVER else lambda: None,
        "per_tensor": per_tensor.exchange,
        "exchange": seat.exchange,
        "step": seat.step,
    }
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, do in measured.items():
            repeat(do, times[name])
    if world.rank != SERVER:
        send_command(world, ServerCommand(kind=CommandKind.STOP))
    figures = {name: statistics.median(each) for name, each in times.items()}
    return {**figures, "bytes": flat.numel() * flat.element_size(), "tensors": len(parameters)}


def main(rank: int, folder: Path) -> None:
    """Join, measure, and write what this process has seen."""
    join(rank, WORKERS + 1, folder)
    trainers, control = dist.new_group(list(range(WORKERS))), dist.new_group()
    figures = measure(World(rank, WORKERS + 1, WORKERS, CPU, trainers, control=control))
    leave(rank, folder, figures)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

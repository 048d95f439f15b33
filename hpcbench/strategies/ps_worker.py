"""The worker side of the parameter server: pushes gradients and pulls parameters; synchronous,
asynchronous or with bounded staleness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.ps_server import AsyncServer, BoundedServer, SyncServer
from hpcbench.strategies.server_channel import (
    CommandKind,
    FlatModel,
    PieceChannel,
    ServerCommand,
    cut_vector,
    interleave_pieces,
    receive_content,
    send_command,
    send_content,
    server_ranks,
    start_command,
    wait_all,
)
from hpcbench.strategies.strategy_base import ReplicatedStrategy, Strategy
from hpcbench.strategies.traffic import MEBIBYTE
from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy, World
from hpcbench.tasks.batches import Batch, LossSums


def build(world: World, precision: PrecisionPolicy, options: PsOptions) -> Strategy:
    """Return this rank's part of the mode: a worker or a server."""
    if world.rank < world.training_ranks:
        return (SyncWorker if options.mode == "sync" else AsyncWorker)(world, precision, options)
    servers = {"sync": SyncServer, "async": AsyncServer, "bounded": BoundedServer}
    return servers[options.mode](world, precision, options)


class PushOptimizer(Optimizer):
    """What a worker has in place of an optimizer: its step is made by the servers."""

    def __init__(self, parameter: nn.Parameter, push: Callable[[], None]) -> None:
        super().__init__([parameter], {})
        self._push = push
        self.pushed = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Let the servers make the step."""
        self.pushed = True
        self._push()


class SyncWorker(ReplicatedStrategy):
    """A synchronous worker: all gradients make one update, and all pull the same parameters after it."""

    optimizer: PushOptimizer
    flat: FlatModel

    def __init__(self, world: World, precision: PrecisionPolicy, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.wire = PieceChannel(world)
        self.lr = 0.0
        self.samples = 0
        self.push_s = self.pull_s = 0.0

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Give the servers the parameters of rank 0, then take them."""
        self.model = self.module = model
        self.flat = FlatModel(model)
        self.optimizer = PushOptimizer(self.flat.parameter, lambda: self.push_and_pull(CommandKind.STEP))
        self.outgoing = self.wire.buffer(self.flat.gradient)
        self.incoming = self.wire.buffer(self.flat.values)
        elements, width = self.flat.values.numel(), self.flat.values.element_size()
        shares = cut_vector(elements, width, len(server_ranks(self.world)), self.options.bucket_mb * MEBIBYTE)
        self.pieces = [
            (self.world.training_ranks + shard, piece) for shard, piece in interleave_pieces(shares)
        ]
        if self.world.rank == 0:
            self.send_initial_parameters()
        self.broadcast_initial_state(model)

    def send_initial_parameters(self) -> None:
        """Send this rank's parameters to the servers as the initial ones."""
        values = self.flat.values
        command = ServerCommand(
            kind=CommandKind.INITIALISE,
            elements=values.numel(),
            matrices=self.flat.matrices,
            width=values.element_size(),
        )
        send_command(self.world, command)
        self.incoming.copy_(values)
        wait_all([self.wire.send(piece.of(self.incoming), server, piece) for server, piece in self.pieces])
        self.push_and_pull(CommandKind.PULL)  # answered when they are ready: no step has to wait for that

    def begin_step(self, lr: float) -> None:
        """Note the rate, which travels with the gradient."""
        self.lr = lr

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Train as ever; the servers count the samples behind each gradient."""
        self.samples = sum(len(batch.labels) for batch in micro_batches)
        return super().forward_backward(micro_batches)

    def exchange(self) -> None:
        """Push and pull; a gradient that is not finite is not sent, and the servers count it."""
        self.optimizer.pushed = False
        self.precision.step(self.optimizer, self.skip_group())
        if not self.optimizer.pushed:
            self.push_and_pull(CommandKind.DROP)

    def skip_group(self) -> dist.ProcessGroup | None:
        """Return the ranks that skip a step together."""
        return self.world.trainers

    def push_and_pull(self, kind: CommandKind) -> None:
        """Send the command, the gradient for a STEP, and receive the newest parameters."""
        self.wire.wait_for_device()
        began = time.perf_counter()
        command = ServerCommand(kind=kind, lr=self.lr, samples=self.samples)
        pending_commands = start_command(self.world, command, server_ranks(self.world))
        sent = []
        for server, piece in self.pieces if kind is CommandKind.STEP else ():
            outgoing, gradient = piece.of(self.outgoing), piece.of(self.flat.gradient)
            if outgoing.device != gradient.device:
                outgoing.copy_(gradient)
            sent.append(self.wire.send(outgoing, server, piece))
        arriving = [
            (piece, self.wire.receive(piece.of(self.incoming), server, piece))
            for server, piece in self.pieces
        ]
        wait_all(work for work, _ in pending_commands)
        wait_all(sent)
        pushed = time.perf_counter()
        for piece, work in arriving:
            work.wait()
            if self.incoming is not self.flat.values:
                piece.of(self.flat.values).copy_(piece.of(self.incoming), non_blocking=True)
        self.wire.wait_for_device()
        if kind is not CommandKind.PULL:  # a pull after an epoch is part of no step
            self.push_s += pushed - began
            self.pull_s += time.perf_counter() - pushed

    def update(self, lr: float) -> None:
        """The servers have updated; only the gradient is left to clear."""
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Zero the flat gradient; those of the parameters stay views into it."""
        self.flat.gradient.zero_()

    def measurements(self) -> dict[str, Any]:
        """Return the seconds until the gradients were out, and from there until the parameters were in."""
        measurements = {"push_s": self.push_s, "pull_s": self.pull_s}
        self.push_s = self.pull_s = 0.0
        return measurements

    def state(self) -> dict[str, Any]:
        """Return the model; rank 0 adds what the servers need."""
        servers = (
            [self.fetch_state(server) for server in server_ranks(self.world)] if self.world.rank == 0 else []
        )
        return {"model": self.model.state_dict(), "servers": servers}

    def fetch_state(self, server: int) -> Any:
        """Ask a server for its optimizer's state."""
        send_command(self.world, ServerCommand(kind=CommandKind.STATE), [server])
        return receive_content(self.world, server, torch.device("cpu"))

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a state; no rank trains before the servers are ready."""
        self.model.load_state_dict(state["model"])
        if self.world.rank == 0:
            self.send_initial_parameters()
            for server, server_state in zip(server_ranks(self.world), state["servers"], strict=True):
                send_command(self.world, ServerCommand(kind=CommandKind.LOAD), [server])
                send_content(self.world, server_state, server)
        dist.barrier(group=self.world.trainers)


class AsyncWorker(SyncWorker):
    """A worker that waits for no other; its parameters are soon older than those of the servers."""

    is_synchronous = False

    def skip_group(self) -> dist.ProcessGroup | None:
        """A worker decides alone whether its gradient is finite."""
        return None

    def synchronize(self) -> None:
        """Pull once more when no gradient is under way any longer."""
        dist.barrier(group=self.world.trainers)
        self.push_and_pull(CommandKind.PULL)
        super().synchronize()

"""The server side of the parameter server: holds a shard of the parameters and updates it, in three modes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.server_channel import (
    CommandKind,
    PieceChannel,
    ServerCommand,
    VectorPiece,
    cut_vector,
    receive_content,
    send_content,
    wait_all,
)
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.traffic import MEBIBYTE
from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy, World

DTYPE_OF_WIDTH = {4: torch.float32, 8: torch.float64}


class ServedPiece:
    """A piece of the share: parameters that are updated, sent and received together.

    The optimizer sees the part that belongs to matrices as a matrix of one row, and treats it as such.
    """

    def __init__(
        self, piece: VectorPiece, values: Tensor, matrices: int, make_optimizer: MakeOptimizer
    ) -> None:
        self.piece = piece
        self.values = values
        border = min(max(matrices - piece.start, 0), len(values))
        self.sizes = [border, len(values) - border]
        matrix, vector = values.split(self.sizes)
        self.parameters = [nn.Parameter(part) for part in (matrix.unsqueeze(0), vector)]
        self.optimizer = make_optimizer([p for p in self.parameters if p.numel()])
        self.sending: list[dist.Work] = []

    def update(self, gradient: Tensor, lr: float) -> None:
        """Make a step; what is still being sent goes out unchanged first."""
        wait_all(self.sending)
        self.sending = []
        for parameter, part in zip(self.parameters, gradient.split(self.sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()


class AppliedUpdates:
    """What a server has done since it was last asked; field names are those of the event `updates`."""

    def __init__(self) -> None:
        self.updates = self.samples = self.dropped = self.dropped_samples = 0
        self.workers: list[int] = []
        self.staleness: list[int] = []
        self.lead: list[int] = []
        self.push_s = self.update_s = 0.0


class ParameterServer(Strategy):
    """The base of the servers of all modes."""

    def __init__(self, world: World, precision: PrecisionPolicy, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.wire = PieceChannel(world)
        self.applied = AppliedUpdates()
        self.slots: list[ServedPiece] = []
        self.workers = range(world.training_ranks)

    def serve(self, commands: Iterable[ServerCommand], make_optimizer: MakeOptimizer) -> None:
        """Follow commands until they end."""
        self.make_optimizer = make_optimizer
        handlers = {
            CommandKind.INITIALISE: self.receive_initial_parameters,
            CommandKind.STEP: self.step,
            CommandKind.DROP: self.step,
            CommandKind.PULL: self.reply,
            CommandKind.STATE: self.send_state,
            CommandKind.LOAD: self.load,
            CommandKind.END_EPOCH: self.end_epoch,
        }
        for command in commands:
            handlers[command.kind](command)
        self.finish_sending()

    def receive_initial_parameters(self, command: ServerCommand) -> None:
        """Take this server's share of the initial parameters."""
        self.finish_sending()
        shares = cut_vector(
            command.elements,
            command.width,
            self.world.size - self.world.training_ranks,
            self.options.bucket_mb * MEBIBYTE,
        )
        pieces = shares[self.world.rank - self.world.training_ranks]
        self.first = pieces[0].start if pieces else 0
        self.share = torch.empty(
            pieces[-1].stop - self.first if pieces else 0,
            dtype=DTYPE_OF_WIDTH[command.width],
            device=self.wire.device,
        )
        self.gradients: dict[int, Tensor] = {}
        values = [piece.of(self.share, self.first) for piece in pieces]
        wait_all([self.wire.receive(v, command.worker, p) for v, p in zip(values, pieces, strict=True)])
        self.slots = [
            ServedPiece(piece, part, command.matrices, self.make_optimizer)
            for piece, part in zip(pieces, values, strict=True)
        ]

    def begin_receiving(self, worker: int, buffer: int) -> list[dist.Work]:
        """Begin to take a worker's gradient into one of the buffers."""
        if buffer not in self.gradients:
            self.gradients[buffer] = torch.empty_like(self.share)
        return [
            self.wire.receive(slot.piece.of(self.gradients[buffer], self.first), worker, slot.piece)
            for slot in self.slots
        ]

    def gradient(self, buffer: int, slot: ServedPiece) -> Tensor:
        """Return a buffer's part for a slot."""
        return slot.piece.of(self.gradients[buffer], self.first)

    def send(self, slot: ServedPiece, worker: int) -> None:
        """Begin to send a slot's parameters."""
        slot.sending.append(self.wire.send(slot.values, worker, slot.piece))

    def reply(self, command: ServerCommand) -> None:
        """Send all parameters to the worker that asked."""
        for slot in self.slots:
            self.send(slot, command.worker)

    def finish_sending(self) -> None:
        """Wait until all that was sent has arrived."""
        for slot in self.slots:
            wait_all(slot.sending)
            slot.sending = []

    def step(self, command: ServerCommand) -> None:
        """Take a gradient, or note that there is none."""
        raise NotImplementedError

    def end_epoch(self, command: ServerCommand) -> None:
        """Note that a worker has no more steps in this epoch."""

    def count_dropped(self, command: ServerCommand) -> None:
        """Count a gradient that was not finite."""
        self.applied.dropped += 1
        self.applied.dropped_samples += command.samples

    def measurements(self) -> dict[str, Any]:
        """Return what was applied since the last call."""
        measured, self.applied = vars(self.applied), AppliedUpdates()
        return measured

    def send_state(self, command: ServerCommand) -> None:
        """Send the optimizer's state."""
        states = [slot.optimizer.state_dict() for slot in self.slots]
        send_content(self.world, states, command.worker)

    def load(self, command: ServerCommand) -> None:
        """Go on with an optimizer's state."""
        states = receive_content(self.world, command.worker, self.wire.device)
        for slot, state in zip(self.slots, states, strict=True):
            slot.optimizer.load_state_dict(state)


class SyncServer(ParameterServer):
    """One update from the mean of all workers' gradients, summed in rank order: the same bits each time."""

    def __init__(self, world: World, precision: PrecisionPolicy, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.arrived: dict[int, ServerCommand] = {}
        self.arriving: dict[int, list[dist.Work]] = {}

    def step(self, command: ServerCommand) -> None:
        """Let the gradient come in while others are waited for; the last one brings the update."""
        self.arrived[command.worker] = command
        if command.kind is CommandKind.STEP:
            self.arriving[command.worker] = self.begin_receiving(command.worker, command.worker)
        if len(self.arrived) < len(self.workers):
            return
        commands = list(self.arrived.values())
        assert len({arrived.kind for arrived in commands}) == 1, "workers skip a step together or not at all"
        if command.kind is CommandKind.STEP:
            self.apply_all(command.lr)
            self.applied.updates += 1
            self.applied.samples += sum(arrived.samples for arrived in commands)
            self.applied.staleness.append(0)
            self.applied.lead.append(0)
        else:
            for arrived in commands:
                self.count_dropped(arrived)
                self.reply(arrived)
        self.arrived, self.arriving = {}, {}

    def apply_all(self, lr: float) -> None:
        """Update piece by piece; a piece is sent while later ones are still coming in."""
        for number, slot in enumerate(self.slots):
            began = time.perf_counter()
            for worker in self.workers:
                self.arriving[worker][number].wait()
            received = time.perf_counter()
            total = self.gradient(0, slot)
            for worker in self.workers[1:]:
                total += self.gradient(worker, slot)
            if len(self.workers) > 1:
                total /= len(self.workers)
            slot.update(total, lr)
            for worker in self.workers:
                self.send(slot, worker)
            self.applied.push_s += received - began
            self.applied.update_s += time.perf_counter() - received


class AsyncServer(ParameterServer):
    """An update for each worker's gradient, in the order in which they come."""

    def __init__(self, world: World, precision: PrecisionPolicy, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.version = 0  # counts updates
        self.pulled = dict.fromkeys(self.workers, 0)  # the version that each worker has
        # Of each worker in this epoch; infinite after its last step.
        self.steps_done: dict[int, float] = dict.fromkeys(self.workers, 0)
        self.waiting: set[int] = set()

    def may_proceed(self, worker: int) -> bool:
        """Say whether a worker may begin its next step."""
        return True

    def step(self, command: ServerCommand) -> None:
        """Update by one worker's gradient, piece by piece, and send it the pieces as they become new."""
        worker = command.worker
        staleness = self.version - self.pulled[worker]
        lead = self.lead(worker)
        self.steps_done[worker] += 1
        answers_now = self.may_proceed(worker)
        if command.kind is CommandKind.STEP:
            self.apply_one(command, answers_now)
            self.applied.updates += 1
            self.applied.samples += command.samples
            self.applied.workers.append(worker)
            self.applied.staleness.append(staleness)
            self.applied.lead.append(lead)
        else:
            self.count_dropped(command)
            if answers_now:
                self.reply(command)
        if answers_now:
            self.pulled[worker] = self.version
        else:
            self.waiting.add(worker)
        self.answer_waiting()

    def apply_one(self, command: ServerCommand, answers_now: bool) -> None:
        """Update piece by piece."""
        works = self.begin_receiving(command.worker, 0)
        for slot, work in zip(self.slots, works, strict=True):
            began = time.perf_counter()
            work.wait()
            received = time.perf_counter()
            slot.update(self.gradient(0, slot), command.lr)
            if answers_now:
                self.send(slot, command.worker)
            self.applied.push_s += received - began
            self.applied.update_s += time.perf_counter() - received
        self.version += 1

    def reply(self, command: ServerCommand) -> None:
        """Send all parameters, and note which version that worker has now."""
        super().reply(command)
        self.pulled[command.worker] = self.version

    def lead(self, worker: int) -> int:
        """Return how many steps a worker is ahead of the slowest that has not finished its epoch."""
        return int(self.steps_done[worker] - min(self.steps_done.values()))

    def answer_waiting(self) -> None:
        """Answer those that may go on now."""
        for worker in sorted(self.waiting):
            if self.may_proceed(worker):
                self.waiting.discard(worker)
                self.reply(ServerCommand(kind=CommandKind.PULL, worker=worker))

    def end_epoch(self, command: ServerCommand) -> None:
        """Wait for this worker no longer; when all have finished their epoch, all begin a new one."""
        self.steps_done[command.worker] = float("inf")
        if all(steps == float("inf") for steps in self.steps_done.values()):
            self.steps_done = dict.fromkeys(self.workers, 0)
        self.answer_waiting()


class BoundedServer(AsyncServer):
    """A worker that is too far ahead gets its answer when the slowest has caught up."""

    def may_proceed(self, worker: int) -> bool:
        """Say whether a worker is not too far ahead to begin its next step."""
        bound: int = self.options.max_staleness
        return self.lead(worker) <= bound

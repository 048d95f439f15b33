"""A parameter server, seen from a server: it holds a share of the parameters and updates them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.base import MakeOptimizer, Precision, Seat, Strategy, World
from hpcbench.strategies.commands import Command, Kind, receive_content, send_content
from hpcbench.strategies.flat import Piece, cut
from hpcbench.strategies.options import PsOptions
from hpcbench.strategies.wire import Wire, wait_for

MEBIBYTE = 1024 * 1024
DTYPES = {4: torch.float32, 8: torch.float64}


class Slot:
    """A piece of the share: parameters that are updated, sent and received together.

    The optimizer sees the part that belongs to matrices as a matrix of one row, and treats it as such.
    """

    def __init__(self, piece: Piece, values: Tensor, matrices: int, make_optimizer: MakeOptimizer) -> None:
        self.piece = piece
        self.values = values
        border = min(max(matrices - piece.start, 0), len(values))
        self.sizes = [border, len(values) - border]
        matrix, vector = values.split(self.sizes)
        self.parameters = [nn.Parameter(part) for part in (matrix.unsqueeze(0), vector)]
        self.optimizer = make_optimizer([each for each in self.parameters if each.numel()])
        self.sending: list[dist.Work] = []

    def update(self, gradient: Tensor, lr: float) -> None:
        """Make a step; what is still being sent goes out unchanged first."""
        wait_for(self.sending)
        self.sending = []
        for parameter, part in zip(self.parameters, gradient.split(self.sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()


class Applied:
    """What a server has done since it was last asked; field names are those of the event `updates`."""

    def __init__(self) -> None:
        self.updates = self.samples = self.dropped = self.dropped_samples = 0
        self.workers: list[int] = []
        self.staleness: list[int] = []
        self.lead: list[int] = []
        self.push_s = self.update_s = 0.0


class Server(Strategy):
    """What servers of all modes share."""

    def __init__(self, world: World, precision: Precision, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.wire = Wire(world)
        self.applied = Applied()
        self.slots: list[Slot] = []
        self.workers = range(world.training_ranks)

    def seat(self) -> Seat:
        """A server does not train."""
        return Seat(trains=False, shard=0, shards=self.world.training_ranks)

    def serve(self, commands: Iterable[Command], make_optimizer: MakeOptimizer) -> None:
        """Follow commands until they end."""
        self.make_optimizer = make_optimizer
        handlers = {
            Kind.HOLD: self.hold,
            Kind.STEP: self.step,
            Kind.DROP: self.step,
            Kind.PULL: self.reply,
            Kind.STATE: self.send_state,
            Kind.LOAD: self.load,
            Kind.REST: self.rest,
        }
        for command in commands:
            handlers[command.kind](command)
        self.finish_sending()

    def hold(self, command: Command) -> None:
        """Take this server's share of the initial parameters."""
        self.finish_sending()
        shares = cut(
            command.elements,
            command.width,
            self.world.size - self.world.training_ranks,
            self.options.bucket_mb * MEBIBYTE,
        )
        pieces = shares[self.world.rank - self.world.training_ranks]
        self.first = pieces[0].start if pieces else 0
        self.share = torch.empty(
            pieces[-1].stop - self.first if pieces else 0,
            dtype=DTYPES[command.width],
            device=self.wire.device,
        )
        self.gradients: dict[int, Tensor] = {}
        values = [piece.of(self.share, self.first) for piece in pieces]
        wait_for([self.wire.receive(v, command.worker, p) for v, p in zip(values, pieces, strict=True)])
        self.slots = [
            Slot(piece, part, command.matrices, self.make_optimizer)
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

    def gradient(self, buffer: int, slot: Slot) -> Tensor:
        """Return a buffer's part for a slot."""
        return slot.piece.of(self.gradients[buffer], self.first)

    def send(self, slot: Slot, worker: int) -> None:
        """Begin to send a slot's parameters."""
        slot.sending.append(self.wire.send(slot.values, worker, slot.piece))

    def reply(self, command: Command) -> None:
        """Send all parameters to who asked."""
        for slot in self.slots:
            self.send(slot, command.worker)

    def finish_sending(self) -> None:
        """Wait until all that was sent has arrived."""
        for slot in self.slots:
            wait_for(slot.sending)
            slot.sending = []

    def step(self, command: Command) -> None:
        """Take a gradient, or hear that there is none."""
        raise NotImplementedError

    def rest(self, command: Command) -> None:
        """Know that a worker has no more steps in this epoch."""

    def note_drop(self, command: Command) -> None:
        """Count a gradient that was not finite."""
        self.applied.dropped += 1
        self.applied.dropped_samples += command.samples

    def figures(self) -> dict[str, Any]:
        """Return what was applied since the last call."""
        figures, self.applied = vars(self.applied), Applied()
        return figures

    def send_state(self, command: Command) -> None:
        """Send the optimizer's state."""
        states = [slot.optimizer.state_dict() for slot in self.slots]
        send_content(self.world, states, command.worker)

    def load(self, command: Command) -> None:
        """Go on with an optimizer's state."""
        states = receive_content(self.world, command.worker, self.wire.device)
        for slot, state in zip(self.slots, states, strict=True):
            slot.optimizer.load_state_dict(state)

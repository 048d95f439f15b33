"""What training ranks tell servers, and how it gets there.

A command is one small message over gloo, whatever the data travels over: a server takes the next one from any
rank, which NCCL cannot do. Contents of any length (states) travel beside the commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpcbench.strategies.base import World


class Kind(IntEnum):
    """What a server is to do, or to know."""

    HOLD = 0  # take the shard's parameters, which follow, as the initial ones
    STEP = 1  # take a gradient, which follows, and send the newest parameters
    DROP = 2  # the step's gradient was not finite and does not follow; send the newest parameters
    PULL = 3  # send the newest parameters
    STATE = 4  # send the optimizer's state
    LOAD = 5  # take the optimizer's state, which follows
    WARM_UP = 6  # this rank begins a window of steps that does not count
    WINDOW = 7  # this rank begins a window of steps that counts
    REST = 8  # this rank has no more steps in this epoch
    STOP = 9  # this rank has finished
    INTERRUPT = 10  # this rank was told to stop


ENDS = (Kind.STOP, Kind.INTERRUPT)
CONTENT_TAG = 1  # commands have 0


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of the training rank `worker`; which of the other fields mean something depends on `kind`.

    `elements` and their `width` (bytes) are those of the whole flat vector, of which the first `matrices`
    elements belong to parameters of several dimensions.
    """

    kind: Kind
    worker: int = -1
    lr: float = 0.0
    samples: int = 0
    epoch: int = 0
    first_step: int = 0
    elements: int = 0
    matrices: int = 0
    width: int = 0

    def to_message(self) -> Tensor:
        """Return the message, a tensor [fields] of float64, which holds a rate and a count exactly."""
        return torch.tensor(dataclasses.astuple(self), dtype=torch.float64)

    @classmethod
    def from_message(cls, message: Tensor) -> Command:
        """Read what `to_message` made."""
        kind, worker, lr, *counts = message.tolist()
        samples, epoch, first_step, elements, matrices, width = map(int, counts)
        return cls(
            kind=Kind(int(kind)),
            worker=int(worker),
            lr=lr,
            samples=samples,
            epoch=epoch,
            first_step=first_step,
            elements=elements,
            matrices=matrices,
            width=width,
        )


FIELDS = len(dataclasses.fields(Command))


def servers_of(world: World) -> range:
    """Return the ranks that serve."""
    return range(world.training_ranks, world.size)


def begin_telling(world: World, command: Command, servers: Sequence[int]) -> list[tuple[dist.Work, Tensor]]:
    """Start to send a command to servers; the messages have to live until their work is done."""
    message = dataclasses.replace(command, worker=world.rank).to_message()
    return [(_work(dist.isend(message, server, group=world.control)), message) for server in servers]


def tell_servers(world: World, command: Command, servers: Sequence[int] | None = None) -> None:
    """Send a command to all servers, or some; does nothing in a run that has none."""
    for work, _ in begin_telling(world, command, servers_of(world) if servers is None else servers):
        work.wait()


class Inbox:
    """The commands of all training ranks, as they come.

    A thread listens to each rank: where gloo waits for any rank, it does not notice that one has died.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._arrived: SimpleQueue[Command | RuntimeError] = SimpleQueue()
        for worker in range(world.training_ranks):
            Thread(target=self._listen, args=(worker,), daemon=True).start()

    def next(self) -> Command:
        """Wait for the next command. Raises torch's RuntimeError where a rank is gone without a farewell."""
        arrived = self._arrived.get()
        if isinstance(arrived, RuntimeError):
            raise arrived
        return arrived

    def _listen(self, worker: int) -> None:
        message = torch.empty(FIELDS, dtype=torch.float64)
        ended = False
        try:
            while not ended:
                dist.recv(message, worker, group=self._world.control)
                command = Command.from_message(message)
                self._arrived.put(command)
                ended = command.kind in ENDS
        except RuntimeError as error:
            self._arrived.put(error)


def send_content(world: World, content: Any, peer: int) -> None:
    """Send tensors and plain values to a rank."""
    file = BytesIO()
    torch.save(content, file)
    message = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
    dist.send(torch.tensor([len(message)]), peer, group=world.control, tag=CONTENT_TAG)
    dist.send(message, peer, group=world.control, tag=CONTENT_TAG)


def receive_content(world: World, peer: int, device: torch.device) -> Any:
    """Return what a rank has sent, with its tensors on a device."""
    length = torch.empty(1, dtype=torch.int64)
    dist.recv(length, peer, group=world.control, tag=CONTENT_TAG)
    message = torch.empty(int(length), dtype=torch.uint8)
    dist.recv(message, peer, group=world.control, tag=CONTENT_TAG)
    return torch.load(BytesIO(message.numpy().tobytes()), map_location=device, weights_only=True)


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "only ranks of the group communicate in it"
    return work

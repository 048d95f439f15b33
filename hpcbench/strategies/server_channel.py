"""Communication between training ranks and servers: commands over gloo, and tensors cut into pieces of one
flat vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpcbench.strategies.world import World


class FlatModel:
    """All trained parameters of a model, and their gradients, in one flat tensor each.

    The model's own are views into them, each in its memory layout: what arrives in the flat vector is in the
    model, and backward accumulates into the flat gradient. Nothing is copied to send it. The first `matrices`
    elements belong to parameters of several dimensions, the rest to biases and normalisation, which an
    optimizer may treat differently.
    """

    def __init__(self, model: nn.Module) -> None:
        # False sorts before True, and the order inside each kind stays.
        trained = sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.ndim <= 1)
        sizes = [parameter.numel() for parameter in trained]
        self.matrices = sum(parameter.numel() for parameter in trained if parameter.ndim > 1)
        self.values = torch.empty(sum(sizes), dtype=trained[0].dtype, device=trained[0].device)
        self.gradient = torch.zeros_like(self.values)
        self.parameter = nn.Parameter(self.values)
        self.parameter.grad = self.gradient
        for parameter, values, gradient in zip(
            trained, self.values.split(sizes), self.gradient.split(sizes), strict=True
        ):
            size, stride = parameter.size(), parameter.stride()
            parameter.data = values.as_strided(size, stride).copy_(parameter.detach())
            parameter.grad = gradient.as_strided(size, stride)


@dataclass(frozen=True)
class VectorPiece:
    """Elements `start` to `stop` of a flat vector; `number` counts within the shard."""

    number: int
    start: int
    stop: int

    def of(self, vector: Tensor, offset: int = 0) -> Tensor:
        """Return the piece of a vector whose first element is number `offset` of the whole."""
        return vector[self.start - offset : self.stop - offset]


def cut_vector(elements: int, width: int, shards: int, bucket_bytes: float) -> list[list[VectorPiece]]:
    """Cut a vector evenly into shards, and each shard into pieces of at most `bucket_bytes`.

    `width` is that of an element, in bytes. A parameter may be split between two shards.
    """
    longest = max(1, int(bucket_bytes // width))
    shares = []
    for shard in range(shards):
        first, end = elements * shard // shards, elements * (shard + 1) // shards
        starts = range(first, end, longest)
        shares.append([VectorPiece(i, start, min(start + longest, end)) for i, start in enumerate(starts)])
    return shares


class CommandKind(IntEnum):
    """What a training rank tells a server; the numbers are sent."""

    INITIALISE = 0  # take the shard's initial parameters, which follow
    STEP = 1  # take a gradient, which follows, and send the newest parameters
    DROP = 2  # the step's gradient was not finite and does not follow; send the newest parameters
    PULL = 3  # send the newest parameters
    STATE = 4  # send the optimizer's state
    LOAD = 5  # take the optimizer's state, which follows
    WARM_UP = 6  # this rank begins a window of steps that does not count
    WINDOW = 7  # this rank begins a window of steps that counts
    END_EPOCH = 8  # this rank has no more steps in this epoch
    STOP = 9  # this rank has finished
    INTERRUPT = 10  # this rank has received a signal to stop


ENDING_KINDS = (CommandKind.STOP, CommandKind.INTERRUPT)
CONTENT_TAG = 1  # commands have 0


@dataclass(frozen=True, kw_only=True)
class ServerCommand:
    """A command of the training rank `worker`; which of the other fields mean something depends on `kind`.

    `elements` and their `width` (bytes) are those of the whole flat vector, of which the first `matrices`
    elements belong to parameters of several dimensions.
    """

    kind: CommandKind
    worker: int = -1  # set by `start_command`
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
    def from_message(cls, message: Tensor) -> ServerCommand:
        """Read what `to_message` made."""
        kind, worker, lr, *counts = message.tolist()
        samples, epoch, first_step, elements, matrices, width = map(int, counts)
        return cls(
            kind=CommandKind(int(kind)),
            worker=int(worker),
            lr=lr,
            samples=samples,
            epoch=epoch,
            first_step=first_step,
            elements=elements,
            matrices=matrices,
            width=width,
        )


COMMAND_FIELDS = len(dataclasses.fields(ServerCommand))


def server_ranks(world: World) -> range:
    """Return the ranks that serve."""
    return range(world.training_ranks, world.size)


def start_command(
    world: World, command: ServerCommand, servers: Sequence[int]
) -> list[tuple[dist.Work, Tensor]]:
    """Start to send a command to servers; the messages have to live until their work is done."""
    message = dataclasses.replace(command, worker=world.rank).to_message()
    return [(_require_work(dist.isend(message, server, group=world.control)), message) for server in servers]


def send_command(world: World, command: ServerCommand, servers: Sequence[int] | None = None) -> None:
    """Send a command to all servers, or some; does nothing in a run that has none."""
    for work, _ in start_command(world, command, server_ranks(world) if servers is None else servers):
        work.wait()


class CommandInbox:
    """The commands of all training ranks, as they come.

    A thread listens to each rank: where gloo waits for any rank, it does not notice that one has died.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._arrived: SimpleQueue[ServerCommand | RuntimeError] = SimpleQueue()
        for worker in range(world.training_ranks):
            Thread(target=self._listen, args=(worker,), daemon=True).start()

    def next(self) -> ServerCommand:
        """Wait for the next command. Raises torch's RuntimeError where a rank has died."""
        arrived = self._arrived.get()
        if isinstance(arrived, RuntimeError):
            raise arrived
        return arrived

    def _listen(self, worker: int) -> None:
        message = torch.empty(COMMAND_FIELDS, dtype=torch.float64)
        ended = False
        try:
            while not ended:
                dist.recv(message, worker, group=self._world.control)
                command = ServerCommand.from_message(message)
                self._arrived.put(command)
                ended = command.kind in ENDING_KINDS
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


def _require_work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "only ranks of the group communicate in it"
    return work


class PieceChannel:
    """Sends and receives pieces of flat tensors. Made on all ranks at once.

    Over gloo all pieces are under way at the same time. NCCL does the operations of one communicator in the
    order in which they were begun, so each pair of a worker and a server gets its own: no pair waits for
    another, and inside a pair both sides begin with what the worker sends.
    """

    def __init__(self, world: World) -> None:
        self.device = world.device if dist.get_backend() == "nccl" else torch.device("cpu")
        self._groups: dict[tuple[int, int], dist.ProcessGroup | None] = {}
        if self.device.type == "cuda":
            pairs = [(w, s) for s in server_ranks(world) for w in range(world.training_ranks)]
            self._groups = {pair: dist.new_group(list(pair)) for pair in pairs}
        self._rank = world.rank

    def buffer(self, like: Tensor) -> Tensor:
        """Return a tensor that can be sent: the given one, or one of its shape in page-locked host memory."""
        if like.device.type == self.device.type:
            return like
        return torch.empty_like(like, device=self.device, pin_memory=True)

    def send(self, tensor: Tensor, peer: int, piece: VectorPiece) -> dist.Work:
        """Begin to send a piece."""
        work = dist.isend(tensor, peer, group=self._group(peer), tag=piece.number)
        assert work is not None
        return work

    def receive(self, tensor: Tensor, peer: int, piece: VectorPiece) -> dist.Work:
        """Begin to receive a piece."""
        work = dist.irecv(tensor, peer, group=self._group(peer), tag=piece.number)
        assert work is not None
        return work

    def wait_for_device(self) -> None:
        """Wait for the device, so that the host's clock measures its work too; gloo has waited."""
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()

    def _group(self, peer: int) -> dist.ProcessGroup | None:
        return self._groups.get((min(self._rank, peer), max(self._rank, peer)))


def wait_all(works: Iterable[dist.Work]) -> None:
    """Wait for all of them."""
    for work in works:
        work.wait()


def interleave_pieces(shares: Sequence[Sequence[VectorPiece]]) -> list[tuple[int, VectorPiece]]:
    """Order the pieces so that all shards are served alike: (shard, piece), first pieces first."""
    numbered = [(piece.number, shard, piece) for shard, share in enumerate(shares) for piece in share]
    return [(shard, piece) for _, shard, piece in sorted(numbered, key=lambda item: item[:2])]

"""Point-to-point channels between workers and servers, for tensors that are cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hpcbench.strategies.base import World
from hpcbench.strategies.commands import servers_of
from hpcbench.strategies.flat import Piece


class Wire:
    """Sends and receives pieces of flat tensors. Made on all ranks at once.

    Over gloo all pieces are under way at the same time. NCCL does the operations of one communicator in the
    order in which they were begun, so each pair of a worker and a server gets its own: no pair waits for
    another, and inside a pair both sides begin with what the worker sends.
    """

    def __init__(self, world: World) -> None:
        self.device = world.device if dist.get_backend() == "nccl" else torch.device("cpu")
        self._groups: dict[tuple[int, int], dist.ProcessGroup | None] = {}
        if self.device.type == "cuda":
            pairs = [(w, s) for s in servers_of(world) for w in range(world.training_ranks)]
            self._groups = {pair: dist.new_group(list(pair)) for pair in pairs}
        self._rank = world.rank

    def buffer(self, like: Tensor) -> Tensor:
        """Return a tensor that can be sent: the given one, or one of its shape in page-locked host memory."""
        if like.device.type == self.device.type:
            return like
        return torch.empty_like(like, device=self.device, pin_memory=True)

    def send(self, tensor: Tensor, peer: int, piece: Piece) -> dist.Work:
        """Begin to send a piece."""
        work = dist.isend(tensor, peer, group=self._group(peer), tag=piece.number)
        assert work is not None
        return work

    def receive(self, tensor: Tensor, peer: int, piece: Piece) -> dist.Work:
        """Begin to receive a piece."""
        work = dist.irecv(tensor, peer, group=self._group(peer), tag=piece.number)
        assert work is not None
        return work

    def settle_device(self) -> None:
        """Wait for what the device has to do, so that the host's clock means something; gloo has waited."""
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()

    def _group(self, peer: int) -> dist.ProcessGroup | None:
        return self._groups.get((min(self._rank, peer), max(self._rank, peer)))


def wait_for(works: Iterable[dist.Work]) -> None:
    """Wait for all of them."""
    for work in works:
        work.wait()


def interleave(shares: Sequence[Sequence[Piece]]) -> list[tuple[int, Piece]]:
    """Order the pieces so that all shards are served alike: (shard, piece), first pieces first."""
    numbered = [(piece.number, shard, piece) for shard, share in enumerate(shares) for piece in share]
    return [(shard, piece) for _, shard, piece in sorted(numbered, key=lambda each: each[:2])]

"""Measurement of a link: collectives and point-to-point messages over a sweep of sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hpcbench.ceilings.probe.probe_team import ProbeTeam, repetitions_in

SMALLEST_BYTES = 1024
LINK_OPERATIONS = ("all_reduce", "broadcast", "send")
LINK_BUDGET_S = 1.0  # of one operation
MIN_LINK_REPEATS, MAX_LINK_REPEATS = 5, 15
# What takes less than this is done several times in a row: the clock and the start would weigh too much.
SHORT_MESSAGE_S, MAX_MESSAGES_IN_A_ROW = 1e-3, 20

LinkOperation = Callable[[Tensor], None]


def message_sizes_up_to(largest_bytes: int) -> list[int]:
    """Return powers of two from 1 KiB to the first that is no smaller than `largest_bytes`."""
    sizes = [SMALLEST_BYTES]
    while sizes[-1] < largest_bytes:
        sizes.append(2 * sizes[-1])
    return sizes


def time_link(
    team: ProbeTeam, members: Sequence[int], backend: str, largest_bytes: int
) -> dict[str, list[list[float]]]:
    """Return, for each operation and size, the seconds of each repeat as the slowest member saw them.

    All call this. `send` is half of a message to the last member and back. Repeats go over all sizes
    before the next one begins, so that what disturbs for a moment does not meet a single size.
    """
    group = dist.new_group(list(members), backend=backend)
    sizes = message_sizes_up_to(largest_bytes)
    found = {}
    for name in LINK_OPERATIONS:
        seen = None
        if team.rank in members:
            ends = (members[0], members[-1])
            if name != "send" or team.rank in ends:
                seen = _time_sizes(name, team, group, backend, sizes, ends)
        told = [each for each in team.gather(seen) if each is not None]
        found[name] = [
            [max(repeat) for repeat in zip(*of_size, strict=True)] for of_size in zip(*told, strict=True)
        ]
    if team.rank in members:
        dist.destroy_process_group(group)
    return found


def device_synchroniser(device: torch.device) -> Callable[[], None]:
    """Return what waits until all work on a device is done; on a CPU it is when its call returns."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return wait


def _time_sizes(
    name: str,
    team: ProbeTeam,
    group: dist.ProcessGroup,
    backend: str,
    sizes: Sequence[int],
    ends: tuple[int, int],
) -> list[list[float]]:
    """Return the seconds that this member saw, [size][repeat]."""
    # Gloo sends and receives from host memory only.
    device = torch.device("cpu") if backend == "gloo" and name == "send" else team.device
    buffer = torch.zeros(sizes[-1] // 4, device=device)
    operation = _operation(name, team.rank, group, ends)
    wait = device_synchroniser(device)
    peers = ends if name == "send" else None

    def once(size: int, in_a_row: int) -> float:
        part = buffer[: size // 4]
        _synchronise_members(operation if peers else None, group, buffer[:1], wait)
        began = time.perf_counter()
        for _ in range(in_a_row):
            operation(part)
        wait()
        return (time.perf_counter() - began) / in_a_row / (2 if name == "send" else 1)

    once(sizes[0], 1)  # connections are made by the first message
    rough = _slowest([once(size, 1) for size in sizes], group, peers, team)
    in_a_row = [repetitions_in(SHORT_MESSAGE_S, each, 1, MAX_MESSAGES_IN_A_ROW) for each in rough]
    round_s = sum(count * each for count, each in zip(in_a_row, rough, strict=True))
    repeats = repetitions_in(LINK_BUDGET_S, round_s, MIN_LINK_REPEATS, MAX_LINK_REPEATS)
    rounds = [
        [once(size, count) for size, count in zip(sizes, in_a_row, strict=True)] for _ in range(repeats)
    ]
    return [list(of_size) for of_size in zip(*rounds, strict=True)]


def _synchronise_members(
    operation: LinkOperation | None, group: dist.ProcessGroup, small: Tensor, wait: Callable[[], None]
) -> None:
    """Let the members begin together; the two ends of a message by a message."""
    if operation:
        operation(small)
    else:
        dist.all_reduce(small, group=group)
    wait()


def _slowest(
    seconds: list[float], group: dist.ProcessGroup, peers: tuple[int, int] | None, team: ProbeTeam
) -> list[float]:
    """Return what the slowest member saw; two ends that are alone take what the first saw."""
    on_host = dist.get_backend(group) == "gloo"
    told = torch.tensor(seconds, dtype=torch.float64, device="cpu" if on_host else team.device)
    if peers is None:
        dist.all_reduce(told, dist.ReduceOp.MAX, group=group)
    elif team.rank == peers[0]:
        dist.send(told, peers[1], group=group)
    else:
        dist.recv(told, peers[0], group=group)
    seen: list[float] = told.tolist()
    return seen


def _operation(name: str, rank: int, group: dist.ProcessGroup, ends: tuple[int, int]) -> LinkOperation:
    first, last = ends

    def there_and_back(part: Tensor) -> None:
        if rank == first:
            dist.send(part, last, group=group)
            dist.recv(part, last, group=group)
        else:
            dist.recv(part, first, group=group)
            dist.send(part, first, group=group)

    def all_reduce(part: Tensor) -> None:
        dist.all_reduce(part, group=group)

    def broadcast(part: Tensor) -> None:
        dist.broadcast(part, src=first, group=group)

    return {"all_reduce": all_reduce, "broadcast": broadcast, "send": there_and_back}[name]

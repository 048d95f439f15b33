"""Which cores a rank gets: its share of the node's, those nearest to its GPU first.

What a rank reads, augments and sends passes through memory; where a node has several sockets, cores on the
GPU's side of it do so without the link between them. On a machine without GPUs no rank is bound: there is
nothing to be near to, and the kernel moves ranks away from cores that something else keeps busy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpcbench.cluster.machine import NVIDIA_DRIVER, visible_gpus
from hpcbench.cluster.seats import seats_of
from hpcbench.config.spec import RunSpec

PCI = Path("/sys/bus/pci/devices")
CPUS = Path("/sys/devices/system/cpu")


def cores_near_gpus(
    selection: str | None,
    *,
    driver: Path = NVIDIA_DRIVER,
    pci: Path = PCI,
    allowed: Iterable[int] | None = None,
) -> tuple[frozenset[int], ...]:
    """Return for each GPU that CUDA_VISIBLE_DEVICES leaves the allowed cores that its PCI slot is nearest to.

    Empty where that is not known, or where others may use the same cores: some GPUs of the node are not
    ours, but all of its cores may be used. Like GPUs have their numbers by the order of their slots.
    """
    mine = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    installed = tuple(sorted(folder.name for folder in driver.glob("*") if (folder / "information").exists()))
    visible = visible_gpus(installed, selection)
    if len(visible) < len(installed) and len(mine) == os.cpu_count():
        return ()
    near = []
    for address in visible:
        try:
            text = (pci / address.lower() / "local_cpulist").read_text()
        except OSError:
            return ()
        near.append(mine & parse_list(text) or mine)
    return tuple(near)


def parse_list(text: str) -> frozenset[int]:
    """Read a list of cores as the kernel writes it, such as `0-3,8`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def share_out(near: Sequence[frozenset[int]], each: int, order: Sequence[int]) -> list[list[int]] | None:
    """Give each device so many cores of its own, near ones as far as they go; None where there are too few.

    `order` lists all cores, and decides which come first. GPUs near the same cores share them evenly.
    """
    if each * len(near) > len(order):
        return None
    free = dict.fromkeys(order)
    neighbours = Counter(near)
    shares: list[list[int]] = []
    for cores in near:
        fair = min(each, len(cores) // neighbours[cores])
        shares.append(_take(free, [core for core in free if core in cores][:fair]))
    for share in shares:
        share += _take(free, list(free)[: each - len(share)])
    return shares


def _take(free: dict[int, None], cores: list[int]) -> list[int]:
    for core in cores:
        del free[core]
    return cores


def by_siblings(cores: Iterable[int], cpus: Path = CPUS) -> list[int]:
    """Sort cores so that the threads of one physical core stand together."""

    def key(core: int) -> tuple[int, int]:
        try:
            siblings = parse_list((cpus / f"cpu{core}/topology/thread_siblings_list").read_text())
        except OSError:
            return core, core
        return min(siblings, default=core), core

    return sorted(cores, key=key)


def cores_of_ranks(spec: RunSpec, near: Sequence[frozenset[int]], threads: int) -> dict[int, list[int]]:
    """Return the cores of each rank, as if all were on this node's GPUs; empty where none is bound.

    A rank gets `threads` cores for each of its devices; a parameter server in memory may use all.
    """
    if spec.device != "cuda":
        return {}
    seats = seats_of(spec)
    on_gpus = spec.processes if spec.strategy_options.get("server") == "gpu" else spec.ranks
    first = [seats[rank].local_rank * spec.devices for rank in range(on_gpus)]
    used = max(first) + spec.devices
    if used > len(near):
        return {}
    shares = share_out(near[:used], threads, by_siblings(os.sched_getaffinity(0)))
    if shares is None:
        return {}
    return {
        rank: sorted(core for share in shares[at : at + spec.devices] for core in share)
        for rank, at in enumerate(first)
    }

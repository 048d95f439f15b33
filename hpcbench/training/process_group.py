"""Joining and leaving a run: device, rendezvous, process groups, and barriers between training ranks."""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import DistError, Store, TCPStore

from hpcbench.runs.placement import Placement
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import RunFolder
from hpcbench.strategies.server_channel import CommandKind, ServerCommand, send_command
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import RunSpec

RENDEZVOUS_POLL_S = 0.02


class RendezvousError(RuntimeError):
    """The ranks did not find each other in time."""


def join_process_group(spec: RunSpec, placement: Placement) -> World:
    """Set up this process's device, and its process group where it is not alone.

    Raises RendezvousError, and torch's errors where a backend is missing.
    """
    device = _take_device(spec, placement)
    if placement.processes == 1 and spec.backend is None:
        return World(
            rank=0, size=1, training_ranks=1, device=device, more_devices=_more_devices(spec, device)
        )
    timeout = datetime.timedelta(seconds=spec.timeout_s)
    if placement.address.startswith("127."):  # the host name need not resolve for ranks of one node
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _rendezvous(placement, timeout)
    dist.init_process_group(
        spec.backend or "gloo",
        store=store,
        rank=placement.rank,
        world_size=placement.processes,
        timeout=timeout,
        device_id=device if spec.backend == "nccl" else None,
    )
    trainers, control = dist.group.WORLD, None
    if spec.servers:
        trainers = dist.new_group(list(range(spec.ranks)), timeout=timeout)
        # A server waits for commands as long as the training ranks evaluate, save, or read data: any time.
        patience = datetime.timedelta(seconds=spec.resources.time_s)
        control = dist.new_group(backend="gloo", timeout=patience)
    return World(
        rank=placement.rank,
        size=placement.processes,
        training_ranks=spec.ranks,
        device=device,
        trainers=trainers,
        control=control,
    )


def _take_device(spec: RunSpec, placement: Placement) -> torch.device:
    torch.set_num_threads(placement.threads)
    server_device = STRATEGIES[spec.strategy].server_device(spec.strategy_options)
    in_memory = placement.rank >= spec.ranks and server_device != "gpu"
    if spec.device == "cpu" or in_memory:
        return torch.device("cpu")
    device = torch.device("cuda", placement.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _more_devices(spec: RunSpec, first: torch.device) -> tuple[torch.device, ...]:
    """Return the further devices of a process; on a CPU, or with too few, one stands for others."""
    if first.type == "cpu":
        return (first,) * (spec.devices - 1)
    count = torch.cuda.device_count()
    return tuple(torch.device("cuda", (first.index + offset) % count) for offset in range(1, spec.devices))


def _rendezvous(placement: Placement, timeout: datetime.timedelta) -> Store:
    """Connect to rank 0, which takes a free port and writes it into the run's folder: no port is fixed."""
    if placement.port is not None:
        return TCPStore(placement.address, placement.port, placement.processes, placement.rank == 0, timeout)
    path = RunFolder(Path(placement.run_folder)).rendezvous(placement.attempt)
    if placement.rank == 0:
        store = TCPStore(
            placement.address, 0, placement.processes, is_master=True, timeout=timeout, wait_for_workers=False
        )
        write_atomically(path, json.dumps({"address": placement.address, "port": store.port}))
        _await_all(store, placement, timeout)
        return store
    deadline = time.monotonic() + timeout.total_seconds()
    while not path.exists():
        if time.monotonic() > deadline:
            seconds = timeout.total_seconds()
            raise RendezvousError(f"rank 0 did not publish its address within {seconds:.0f} s")
        time.sleep(RENDEZVOUS_POLL_S)
    # Only the port is taken from there: the address is how rank 0 is reached from this node.
    port = json.loads(path.read_text())["port"]
    store = TCPStore(placement.address, port, placement.processes, False, timeout)
    store.set(_arrival_key(placement.rank), "here")
    return store


def _arrival_key(rank: int) -> str:
    return f"hpcbench/arrived/{rank}"


def _await_all(store: Store, placement: Placement, timeout: datetime.timedelta) -> None:
    """Wait for the other ranks; raises RendezvousError, which names those that did not connect."""
    others = range(1, placement.processes)
    try:
        store.wait([_arrival_key(rank) for rank in others], timeout)
    except DistError as error:
        missing = [rank for rank in others if not store.check([_arrival_key(rank)])]
        who = f"ranks {', '.join(map(str, missing))}" if len(missing) > 1 else f"rank {missing[0]}"
        raise RendezvousError(
            f"{who} of {placement.processes} did not connect within {timeout.total_seconds():.0f} s"
        ) from error


def barrier(world: World) -> None:
    """Wait for all training ranks."""
    if world.trainers is not None:
        dist.barrier(group=world.trainers)


def is_true_on_any_rank(world: World, value: bool) -> bool:
    """Return whether `value` is true on any training rank; waits for all of them, as a barrier does."""
    if world.trainers is None:
        return value
    flag = torch.tensor(float(value), device=world.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=world.trainers)
    return bool(flag)


def dismiss_servers(world: World, *, interrupted: bool) -> None:
    """Tell the servers, where there are any, that this rank has ended."""
    send_command(world, ServerCommand(kind=CommandKind.INTERRUPT if interrupted else CommandKind.STOP))
    if interrupted and world.control is not None:
        confirm_stop(world)


def confirm_stop(world: World) -> None:
    """Wait until servers and training ranks all know that the run stops: none may exit before."""
    dist.barrier(group=world.control)


def leave_process_group(world: World) -> None:
    """End the process group of a finished run, on all ranks together: no connection is cut off."""
    if world.trainers is not None:
        dist.barrier()
        dist.destroy_process_group()

"""Saves the state of a training rank at the end of an epoch, and resumes from the newest complete
checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hpcbench.runs.events import Checkpoint, Resumed
from hpcbench.runs.record_writer import atomic_file
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.training.checkpoint import CheckpointMark, is_checkpoint_due, newest_checkpoint
from hpcbench.training.precision import RunPrecision
from hpcbench.training.process_group import barrier, is_true_on_any_rank
from hpcbench.training.session import RankSession


class CheckpointError(RuntimeError):
    """A checkpoint can't be read; it is never ignored."""


@dataclass(kw_only=True)
class RankState:
    """What a checkpoint is made of, and how this rank is connected; `samples` counts those trained on."""

    session: RankSession
    world: World
    strategy: Strategy
    arithmetic: RunPrecision
    samples: int = 0


def save_if_due(state: RankState, epoch: int, since_s: float) -> bool:
    """Save the state after `epoch` epochs if it is due, on all ranks or none; return whether it was."""
    session, world = state.session, state.world
    if session.spec.checkpoint == "none":
        return False
    if not is_true_on_any_rank(world, world.rank == 0 and is_checkpoint_due(session.spec, since_s)):
        return False
    began = time.perf_counter()
    with session.timed_part("checkpoint"):
        mark = CheckpointMark(
            attempt=session.placement.attempt,
            epoch=epoch,
            run_id=session.spec.run_id,
            ranks=world.training_ranks,
        )
        size_bytes = _save_state(state, mark)
        barrier(world)
        if world.rank == 0:
            mark.write(session.folder)
    wall_s = time.perf_counter() - began
    session.record(Checkpoint(epoch=epoch, wall_s=wall_s, size_bytes=size_bytes))
    return True


def _save_state(state: RankState, mark: CheckpointMark) -> int:
    path = mark.state_of(state.session.folder, state.world.rank)
    with atomic_file(path) as file:
        torch.save(_state_values(state), file)
    return path.stat().st_size


def _state_values(state: RankState) -> dict[str, Any]:
    cuda = state.world.device.type == "cuda"
    return {
        "strategy": state.strategy.state(),
        "arithmetic": state.arithmetic.state(),
        "samples": state.samples,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(state.world.device) if cuda else None,
    }


def resume_from_checkpoint(state: RankState) -> int:
    """Resume from the newest checkpoint, if there is one; return how many epochs are done."""
    session, world = state.session, state.world
    mark = _agree_on_checkpoint(state)
    if mark is None:
        return 0
    path = mark.state_of(session.folder, world.rank)
    try:
        values = torch.load(path, map_location=world.device, weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"{path}: this checkpoint cannot be read ({error}). Delete {session.folder.checkpoint} to start "
            "the run from the beginning"
        ) from error
    state.strategy.load_state(values["strategy"])
    state.arithmetic.load_state(values["arithmetic"])
    state.samples = values["samples"]
    torch.set_rng_state(values["random"].cpu())
    if values["random_cuda"] is not None:
        torch.cuda.set_rng_state(values["random_cuda"].cpu(), world.device)
    session.record(Resumed(epoch=mark.epoch, from_attempt=mark.attempt))
    return mark.epoch


def _agree_on_checkpoint(state: RankState) -> CheckpointMark | None:
    """Let rank 0 choose: on a network file system the others might not see the newest mark yet."""
    session, world = state.session, state.world
    spec = session.spec
    mark = newest_checkpoint(session.folder, spec, session.placement.attempt) if world.rank == 0 else None
    chosen = torch.tensor([mark.attempt, mark.epoch] if mark else [0, 0], device=world.device)
    if world.trainers is not None:
        dist.broadcast(chosen, src=0, group=world.trainers)
    attempt, epoch = chosen.tolist()
    return (
        CheckpointMark(attempt=attempt, epoch=epoch, run_id=spec.run_id, ranks=spec.ranks)
        if attempt
        else None
    )

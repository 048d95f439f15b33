"""Saves the state of a training rank at the end of an epoch, and resumes from the newest complete
checkpoint.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from hpcbench.runs.events import Checkpoint, Resumed
from hpcbench.training.checkpoint import CheckpointMark, is_checkpoint_due, newest_checkpoint
from hpcbench.training.process_group import barrier, is_true_on_any_rank

if TYPE_CHECKING:
    from hpcbench.training.loop import Training


class CheckpointError(RuntimeError):
    """A checkpoint can't be read; it is never left out silently."""


def save_if_due(training: Training, epoch: int, since_s: float) -> bool:
    """Keep the state after `epoch` epochs if it is time to, on all ranks or none; says whether it did."""
    session, world = training.session, training.world
    if session.spec.checkpoint == "none":
        return False
    if not is_true_on_any_rank(world, world.rank == 0 and is_checkpoint_due(session.spec, since_s)):
        return False
    began = time.perf_counter()
    with session.part("checkpoint"):
        mark = CheckpointMark(
            attempt=session.placement.attempt,
            epoch=epoch,
            run_id=session.spec.run_id,
            ranks=world.training_ranks,
        )
        size_bytes = _save_state(training, mark)
        barrier(world)
        if world.rank == 0:
            mark.write(session.folder)
    wall_s = time.perf_counter() - began
    session.record(Checkpoint(epoch=epoch, wall_s=wall_s, size_bytes=size_bytes))
    return True


def _save_state(training: Training, mark: CheckpointMark) -> int:
    path = mark.state_of(training.session.folder, training.world.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    try:
        with draft.open("wb") as file:
            torch.save(_rank_state(training), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


def _rank_state(training: Training) -> dict[str, Any]:
    cuda = training.world.device.type == "cuda"
    return {
        "strategy": training.strategy.state(),
        "arithmetic": training.arithmetic.state(),
        "samples": training.samples,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(training.world.device) if cuda else None,
    }


def resume_from_checkpoint(training: Training) -> int:
    """Go on from the newest checkpoint, if there is one; returns how many epochs are done already."""
    session, world = training.session, training.world
    mark = _agree_on_checkpoint(training)
    if mark is None:
        return 0
    path = mark.state_of(session.folder, world.rank)
    try:
        state = torch.load(path, map_location=world.device, weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"{path}: this checkpoint can't be read ({error}). Without {session.folder.checkpoint} the run "
            "begins anew"
        ) from error
    training.strategy.load_state(state["strategy"])
    training.arithmetic.load_state(state["arithmetic"])
    training.samples = state["samples"]
    torch.set_rng_state(state["random"].cpu())
    if state["random_cuda"] is not None:
        torch.cuda.set_rng_state(state["random_cuda"].cpu(), world.device)
    session.record(Resumed(epoch=mark.epoch, from_attempt=mark.attempt))
    return mark.epoch


def _agree_on_checkpoint(training: Training) -> CheckpointMark | None:
    """Let rank 0 choose: on a network file system the others might not see the newest mark yet."""
    session, world = training.session, training.world
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

"""Checkpoint files of a run: their names, the mark that declares one complete, and which are kept.

Imports no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import KEPT_CHECKPOINTS, RunFolder
from hpcbench.sweep.run_spec import RunSpec

# With `checkpoint: auto` a run loses at most this much, and an epoch. Shorter runs keep nothing.
AUTO_INTERVAL_S = 60.0
MARK_NAME = re.compile(r"a(\d+)\.e(\d+)\.json")


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointMark:
    """A complete checkpoint: the state of each of `ranks` after `epoch` epochs, written by `attempt`."""

    attempt: int
    epoch: int
    run_id: str
    ranks: int

    def state_of(self, folder: RunFolder, rank: int) -> Path:
        """Return the file with a rank's state."""
        return folder.checkpoint / f"a{self.attempt}.e{self.epoch}.rank{rank}.pt"

    def _path(self, folder: RunFolder) -> Path:
        return folder.checkpoint / f"a{self.attempt}.e{self.epoch}.json"

    def write(self, folder: RunFolder) -> None:
        """Declare the checkpoint complete, and remove those that it makes superfluous."""
        write_atomically(self._path(folder), json.dumps(asdict(self)))
        for old in [mark for mark in _complete_checkpoints(folder) if mark <= self][:-KEPT_CHECKPOINTS]:
            old._path(folder).unlink(missing_ok=True)
            for rank in range(old.ranks):
                old.state_of(folder, rank).unlink(missing_ok=True)


def newest_checkpoint(folder: RunFolder, spec: RunSpec, attempt: int) -> CheckpointMark | None:
    """Return the checkpoint that an attempt goes on from, of the attempts before it; None to begin anew."""
    usable = [
        mark
        for mark in _complete_checkpoints(folder)
        if mark.attempt < attempt and mark.run_id == spec.run_id and mark.ranks == spec.ranks
    ]
    return usable[-1] if usable else None


def _complete_checkpoints(folder: RunFolder) -> list[CheckpointMark]:
    """List the complete checkpoints of a run, oldest first."""
    paths = (path for path in folder.checkpoint.glob("a*.json") if MARK_NAME.fullmatch(path.name))
    return sorted(CheckpointMark(**json.loads(path.read_text())) for path in paths)


def is_checkpoint_due(spec: RunSpec, since_s: float) -> bool:
    """Return whether an epoch's end is to be kept; `since_s` is how much would be lost otherwise."""
    return spec.checkpoint == "epoch" or (spec.checkpoint == "auto" and since_s >= AUTO_INTERVAL_S)

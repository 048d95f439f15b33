from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.runs.claim import (
    SILENT_AFTER_S,
    AlreadyClaimedError,
    Claim,
    Ending,
    ProcessIdentity,
    claim_next,
    latest_claim,
)
from hpcbench.runs.events import RunFinished
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import RunFolder
from tests.cluster.helpers import noop


def take(path: Path) -> int | None:
    """Try to claim; the owner lives on in the pool while others try."""
    try:
        claim = claim_next(RunFolder(path), noop(), "job")
    except AlreadyClaimedError:
        return None
    time.sleep(0.3)
    return claim.attempt


def owned_by(claim: Claim, owner: ProcessIdentity) -> None:
    """Rewrite a claim as if somebody else had made it."""
    path = claim.folder.claim(claim.attempt)
    path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessIdentity, "current", classmethod(lambda cls: owner))
        claim_next(claim.folder, noop(), "job")


def finish(folder: RunFolder, attempt: int, rank: int) -> None:
    """Leave the record of a rank that has done its work."""
    event = RunFinished(
        wall_s=0,
        startup_s=0,
        train_s=0,
        evaluation_s=0,
        check_s=0,
        checkpoint_s=0,
        other_s=0,
        steps=1,
        samples=1,
    )
    with EventWriter(folder.events(attempt, rank), run_id="x", attempt=attempt, rank=rank) as writer:
        writer.write(event)


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """However many processes claim a run at one time, one of them has it."""
    with ProcessPoolExecutor(4) as pool:
        got = list(pool.map(take, [tmp_path] * 12))
    assert got.count(1) == 1
    assert set(got) <= {1, None}


def test_a_living_owner_keeps_its_run(tmp_path: Path) -> None:
    """Nobody gets the next attempt while the owner of the newest lives, and is told who has it."""
    claim_next(RunFolder(tmp_path), noop(), "job-1")
    with pytest.raises(AlreadyClaimedError, match=f"job-1.*{os.getpid()}"):
        claim_next(RunFolder(tmp_path), noop(), "job-2")


def test_after_a_failed_attempt_comes_the_next(tmp_path: Path) -> None:
    """An attempt that its owner has closed makes room for the next, and the note survives."""
    folder = RunFolder(tmp_path)
    claim_next(folder, noop(), "job").finish(Ending(state="failed", reason="r" * 10_000, time_ns=5))
    closed = latest_claim(folder)
    assert closed is not None and closed.ending is not None
    assert closed.ending.state == "failed" and closed.ending.reason.startswith("rrr")
    assert claim_next(folder, noop(), "job").attempt == 2


def test_a_done_run_can_not_be_claimed(tmp_path: Path) -> None:
    """What the records say is done is not done again, also where the note in the claim is missing."""
    folder = RunFolder(tmp_path)
    claim = claim_next(folder, noop(), "job")
    finish(folder, 1, 0)
    claim.finish(Ending(state="failed"))
    assert claim_next(folder, noop(), "job").attempt == 2  # rank 1 has not finished
    finish(folder, 2, 0)
    finish(folder, 2, 1)
    second = latest_claim(folder)
    assert second is not None
    second.finish(Ending(state="failed"))
    with pytest.raises(AlreadyClaimedError, match="done"):
        claim_next(folder, noop(), "job")


def test_a_dead_owner_loses_its_run(tmp_path: Path) -> None:
    """An owner that is gone, or whose number somebody else has now, or of before a restart, is dead."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = ProcessIdentity.of(child.pid)
    assert gone.alive() is True
    child.communicate(b"\n")
    me = ProcessIdentity.current()
    dead = (gone, replace(me, start_ticks=me.start_ticks - 1), replace(me, boot_id="an earlier one"))
    folder = RunFolder(tmp_path)
    for attempt, owner in enumerate(dead, start=1):
        assert owner.alive() is False
        owned_by(claim_next(folder, noop(), "job"), owner)
        newest = latest_claim(folder)
        assert newest is not None and (newest.attempt, newest.owner) == (attempt, owner)


def test_an_owner_elsewhere_is_not_presumed_dead(tmp_path: Path) -> None:
    """A process of another machine keeps its run, unless it is silent and somebody says to take over."""
    folder = RunFolder(tmp_path)
    claim = claim_next(folder, noop(), "job")
    owned_by(claim, replace(ProcessIdentity.current(), host="elsewhere"))
    for silent in (False, True):
        with pytest.raises(AlreadyClaimedError, match="elsewhere"):
            claim_next(folder, noop(), "job", silent=silent)
    long_ago = time.time() - SILENT_AFTER_S - 1
    os.utime(folder.claim(1), (long_ago, long_ago))
    with pytest.raises(AlreadyClaimedError, match="retry --lost"):
        claim_next(folder, noop(), "job")
    assert claim_next(folder, noop(), "job", silent=True).attempt == 2

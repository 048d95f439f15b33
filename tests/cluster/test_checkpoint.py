from __future__ import annotations

from typing import Any

import pytest

from hpcbench.runs.events import Check, Checkpoint, Epoch, Resumed
from hpcbench.runs.record_reader import read_events
from hpcbench.training.checkpoint import AUTO_INTERVAL_S, CheckpointMark, is_checkpoint_due, newest_checkpoint
from tests.cluster.helpers import Lab, eventually, noop

pytest.importorskip("torch", reason="a checkpoint of a real training")

EPOCHS = 40  # enough that a run is cancelled before its end, also on a busy machine
REAL: dict[str, Any] = {
    "name": "run", "dataset": "digits", "model": "smallconv",
    "ranks": 2, "batch_size": 32, "steps": None, "epochs": EPOCHS, "window_steps": 5, "checkpoint": "epoch",
    "resources": {"time": "00:05:00"},
}  # fmt: skip

DDP: dict[str, Any] = {"strategy": "ddp", "strategy_options": {}, "probe": False}


def events(lab: Lab, kind: type, *, rank: int = 0, sweep: str = "sweep") -> list[Any]:
    """Return the events of a kind over all attempts at the run."""
    folder = lab.results(sweep).run("run", 0)
    records = [record for a in folder.attempts() for record in read_events(folder.events(a, rank)).records]
    return [record.event for record in records if isinstance(record.event, kind)]


def test_a_run_that_goes_on_learns_what_one_without_a_break_learns(lab: Lab) -> None:
    """Cancelled in the middle and done again, a run repeats no kept epoch and ends with the same weights."""
    whole = lab.submit(lab.sweep(REAL, name="whole", **DDP))
    assert whole["run/r0"].state == "done"
    sweep = lab.sweep(REAL, **DDP)
    assert lab.run("submit", sweep, "--results", "results", "--detach").returncode == 0
    folder = lab.results().run("run", 0)
    eventually(lambda: len(list(folder.checkpoint.glob("*.json"))) >= 2, within_s=120)
    assert lab.run("cancel", lab.results().path).returncode == 0
    assert lab.run("retry", lab.results().path, "--detach").returncode == 0
    assert lab.settled()["run/r0"].state == "done"
    (resumed,) = events(lab, Resumed)
    assert resumed.epoch >= 2 and resumed.from_attempt == 1
    again = [event.epoch for event in events(lab, Epoch)]
    assert sorted(set(again)) == list(range(1, EPOCHS + 1)) and again[-1] == EPOCHS
    assert len(again) - EPOCHS <= 1, "at most the epoch whose end was recorded and not kept any more"
    for rank in range(2):
        ends = [events(lab, Check, rank=rank, sweep=name)[-1] for name in ("sweep", "whole")]
        assert ends[0].weights_checksum == ends[1].weights_checksum
        assert ends[0].buffers_checksum == ends[1].buffers_checksum
    assert all(event.size_bytes > 0 for event in events(lab, Checkpoint))


def test_only_whole_checkpoints_of_earlier_attempts_count(lab: Lab) -> None:
    """A state without a mark is none, nor is another run's; old ones go, and never a newer attempt's."""
    folder, spec = lab.results().run("run", 0), noop(ranks=1)
    common = {"run_id": spec.run_id, "ranks": 1}
    newer = CheckpointMark(attempt=2, epoch=1, **common)
    newer.write(folder)
    for epoch in range(1, 5):
        mark = CheckpointMark(attempt=1, epoch=epoch, **common)
        mark.state_of(folder, 0).write_bytes(b"state")
        mark.write(folder)
    CheckpointMark(attempt=1, epoch=9, run_id="another", ranks=1).write(folder)
    (folder.checkpoint / "a1.e99.rank0.pt").write_bytes(b"torn")
    assert newest_checkpoint(folder, spec, 1) is None
    found = newest_checkpoint(folder, spec, 2)
    assert found is not None and found.epoch == 4
    assert newest_checkpoint(folder, spec, 3) == newer
    assert not CheckpointMark(attempt=1, epoch=2, **common).state_of(folder, 0).exists()


def test_when_a_checkpoint_is_due() -> None:
    """`auto` when a minute would be lost, `epoch` always, `none` never."""
    from dataclasses import replace

    spec = noop()
    due = {
        policy: [
            is_checkpoint_due(replace(spec, checkpoint=policy), since) for since in (0.0, AUTO_INTERVAL_S)
        ]
        for policy in ("auto", "epoch", "none")
    }
    assert due == {"auto": [False, True], "epoch": [True, True], "none": [False, False]}

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcbench.analysis.results_loading import load_results
from hpcbench.analysis.run_figures import occupied_devices
from hpcbench.analysis.run_history import RecordedState, read_history
from hpcbench.errors import InputError
from hpcbench.runs.events import Interrupted, RunFailed, Steps
from hpcbench.runs.record_writer import EventWriter
from hpcbench.sweep.run_spec import Optimizer
from tests.report.records import EVALUATION_SAMPLES, TRAIN_SAMPLES, RunBuilder, Sweep, single, spec


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return an empty results folder."""
    return Sweep(tmp_path / "sweep")


def steps_of(run: RunBuilder) -> list[int]:
    """Return every step of the run's history, in order, as often as it was counted."""
    history = read_history(run.folder, run.spec, run.spec.run_id, run.folder.attempts())
    windows = zip(history.windows.first_step.tolist(), history.windows.steps.tolist(), strict=True)
    return [step for first, steps in windows for step in range(first, first + steps)]


def total_steps(run: RunBuilder) -> int:
    """Return the steps that the run is to do."""
    return run.steps_per_epoch * (run.spec.epochs or 0)


def state_of(run: RunBuilder) -> str:
    """Return the state of the only run in its results folder."""
    return str(load_results([run.sweep.folder.path]).runs["state"].iloc[0])


def test_samples_and_time_are_conserved(sweep: Sweep) -> None:
    """Throughput times counted time is the counted samples, and an epoch's steps are the training set."""
    sweep.repeats(spec(ranks=3, data_shards=3, batch_size=20), count=2)
    loaded = load_results([sweep.folder.path])
    runs = loaded.runs
    assert (runs["throughput_samples_s"] * runs["counted_wall_s"]).tolist() == pytest.approx(
        runs["counted_samples"].tolist()
    )
    per_epoch = TRAIN_SAMPLES // 60
    assert set(loaded.epochs["samples"]) == {per_epoch * 60}
    assert runs["counted_steps"].tolist() == [3 * per_epoch - 5] * 2
    phases = runs[["data_wait_s", "forward_backward_s", "exchange_s", "update_s", "other_s"]].sum(axis=1)
    assert all(0.95 < share <= 1 for share in phases / runs["counted_wall_s"])


def test_warm_up_trains_but_does_not_count_for_speed(sweep: Sweep) -> None:
    """Steps of the warm-up are in the loss and not in the throughput."""
    sweep.run(spec(epochs=1, warmup_steps=22)).finish()
    loaded = load_results([sweep.folder.path])
    assert loaded.runs["throughput_samples_s"].isna().all()
    assert len(loaded.steps) == 22


def test_a_step_seen_twice_counts_once_and_the_newest_attempt_wins(sweep: Sweep) -> None:
    """After a resume every step is there once; those after the checkpoint come from the new attempt."""
    run = sweep.run(spec(epochs=4))
    run.interrupt(1, in_epoch=3)
    run.resume(2, epoch=1)
    history = read_history(run.folder, run.spec, run.spec.run_id, [1, 2])
    assert steps_of(run) == list(range(total_steps(run)))
    done_again = history.windows.first_step >= run.steps_per_epoch
    assert done_again.any() and not done_again.all()
    assert history.windows.attempts.tolist() == np.where(done_again, 2, 1).tolist()
    assert (history.state, list(history.epochs)) == (RecordedState.FINISHED, [1, 2, 3, 4])
    assert history.earlier_s > 0


def test_an_attempt_from_zero_replaces_everything_before_it(sweep: Sweep) -> None:
    """Nothing of an attempt that was started over is left, not even epochs not yet reached again."""
    run = sweep.run(spec(epochs=4))
    run.attempt(1, last_epoch=3, end=Interrupted(reason="SIGTERM"))
    run.attempt(2, last_epoch=2, stop_in_epoch=2)
    history = read_history(run.folder, run.spec, run.spec.run_id, [1, 2])
    assert set(history.windows.attempts.tolist()) == {2}
    assert list(history.epochs) == list(history.evaluations) == [1]
    assert (history.state, history.earlier_s) == (RecordedState.UNFINISHED, 0.0)


def test_a_window_across_the_point_of_resumption_is_dropped_whole(sweep: Sweep) -> None:
    """A window that only partly came before the new attempt can't be split, so none of its steps count."""
    run = sweep.run(spec(epochs=2))
    run.attempt(1, last_epoch=1, end=Interrupted(reason="SIGTERM"))
    run.claim(2)
    for rank in range(2):
        window = Steps(
            epoch=1, first_step=20, steps=2, counted=True, samples=64, wall_s=1.0, data_wait_s=0.0,
            forward_backward_s=1.0, exchange_s=0.0, update_s=0.0, other_s=0.0, step_s=[0.5, 0.5], lr=0.1,
        )  # fmt: skip
        with EventWriter(run.folder.events(2, rank), run_id=run.spec.run_id, attempt=2, rank=rank) as writer:
            writer.write(window)
    assert steps_of(run) == [*range(15), 20, 21]  # 15 to 21 was one window of the first attempt


def test_only_claimed_attempts_count(sweep: Sweep) -> None:
    """Records of an attempt that nobody claimed are left out and named; the ledger's line is a claim too."""
    run = sweep.run(spec())
    run.attempt(1, claimed=False)
    assert state_of(run) == RecordedState.NOT_STARTED
    assert "records of attempt 1 left out" in load_results([sweep.folder.path]).problems[0]
    run.claim(1, file=False, entry=True)
    assert state_of(run) == RecordedState.FINISHED


def test_the_newest_attempt_decides_about_the_end(sweep: Sweep) -> None:
    """A run that failed and was done again is finished; one that was finished and claimed again is not."""
    run = sweep.run(spec())
    run.fail(attempt=1)
    assert state_of(run) == RecordedState.FAILED
    run.attempt(2)
    assert state_of(run) == RecordedState.FINISHED
    run.claim(3)
    assert state_of(run) == RecordedState.UNFINISHED


def test_a_rank_without_its_end_leaves_the_run_unfinished(sweep: Sweep) -> None:
    """All training ranks have to say that they are done."""
    run = sweep.run(spec())
    run.attempt(1, silent_ranks=[1])
    assert state_of(run) == RecordedState.UNFINISHED


def test_servers_neither_train_nor_have_to_finish(sweep: Sweep) -> None:
    """What a serving rank writes is in no sum, and its missing end does not matter."""
    run = sweep.run(spec(servers=1))
    run.finish()
    before = load_results([sweep.folder.path]).runs
    lines = run.folder.events(1, 0).read_text().splitlines()[:-1]
    served = [json.dumps({**json.loads(line), "rank": 2, **({"role": "serve"} if i == 0 else {})})
              for i, line in enumerate(lines)]  # fmt: skip
    run.folder.events(1, 2).write_text("\n".join(served) + "\n")
    assert load_results([sweep.folder.path]).runs.equals(before)


def test_a_supervisor_speaks_for_a_rank_that_could_not(sweep: Sweep) -> None:
    """The reason in a supervisor's record is the reason of the run, and a limit goes before other reasons."""
    run = sweep.run(spec())
    run.attempt(1, stop_in_epoch=1, last_epoch=1)
    with EventWriter(
        run.folder.supervisor_events(1, 0), run_id=run.spec.run_id, attempt=1, rank=None
    ) as writer:
        writer.write(RunFailed(reason="rank 1: killed", signal="SIGKILL", failed_rank=1))
        writer.write(RunFailed(reason="rank 0: no memory", limit="memory"))
    row = load_results([sweep.folder.path]).runs.iloc[0]
    assert (row["state"], row["reason"], row["limit"]) == (
        RecordedState.FAILED,
        "rank 0: no memory",
        "memory",
    )


def test_a_torn_tail_is_dropped_counted_and_told(sweep: Sweep) -> None:
    """A last line that was cut off costs its own window only, and the report says so."""
    run = sweep.run(spec())
    run.attempt(1, last_epoch=2, stop_in_epoch=2)
    file = run.folder.events(1, 1)
    file.write_bytes(file.read_bytes()[:-40])
    loaded = load_results([sweep.folder.path])
    assert loaded.runs["torn_lines"].tolist() == [1]
    assert any("cut off" in problem for problem in loaded.problems)
    assert any("windows left out" in problem for problem in loaded.problems)
    assert len(steps_of(run)) == run.steps_per_epoch + 10  # of two windows in epoch 2, the second is gone


@pytest.mark.parametrize(
    "line",
    ['{"event": "steps"', "[]", "\x00\xff", {"schema": 99}, {"event": "new"}, {"role": None}, {"new": 1}],
)
def test_a_broken_line_stops_its_own_run_only(sweep: Sweep, line: str | dict[str, object]) -> None:
    """A record that can't be read is named with file and line; the other runs are read."""
    sweep.run(spec("good")).finish()
    bad = sweep.run(spec("bad", cache="memory"))
    bad.finish()
    file = bad.folder.events(1, 1)
    lines = file.read_text().splitlines(keepends=True)
    text = line if isinstance(line, str) else json.dumps({**json.loads(lines[0]), **line})
    file.write_text("".join([lines[0], text + "\n", *lines[1:]]), encoding="latin-1")
    loaded = load_results([sweep.folder.path])
    assert loaded.runs.set_index("experiment")["state"].to_dict() == {"good": "finished", "bad": "unreadable"}
    assert any(f"{file}:2:" in problem for problem in loaded.problems)


@pytest.mark.parametrize(
    "change", [{"loss_sum": [1.0]}, {"correct": ["x"] * 5}, {"wall_s": None}, {"peak_memory_bytes": "1 GB"}]
)
def test_a_window_that_does_not_fit_its_steps_is_broken(sweep: Sweep, change: dict[str, object]) -> None:
    """A window with too few losses, or with something else where a number belongs, is no record."""
    run = sweep.run(spec())
    run.finish()
    file = run.folder.events(1, 0)
    lines = file.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "steps")
    lines[first] = json.dumps({**json.loads(lines[first]), **change})
    file.write_text("\n".join(lines) + "\n")
    assert state_of(run) == RecordedState.UNREADABLE
    assert str(file) in load_results([sweep.folder.path]).problems[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "x", "spec": {"name": "x", "new_field": 1}}'])
def test_a_run_that_nothing_describes_is_unreadable(sweep: Sweep, text: str) -> None:
    """Without a usable spec.json a run is listed with the reason."""
    run = sweep.run(spec())
    run.finish()
    run.folder.spec.write_text(text)
    assert state_of(run) == RecordedState.UNREADABLE
    assert str(run.folder.spec) in load_results([sweep.folder.path]).problems[0]


def test_a_broken_ledger_costs_nothing_where_claims_stand_beside_the_records(sweep: Sweep) -> None:
    """The claims in the run folders are enough, and the report says that the ledger is broken."""
    run = sweep.run(spec())
    run.finish()
    sweep.folder.ledger.write_text("no json\n" * 2)
    assert state_of(run) == RecordedState.FINISHED
    assert "ledger" in load_results([sweep.folder.path]).problems[0]


def test_records_of_another_run_in_the_folder_do_not_count(sweep: Sweep) -> None:
    """A folder that was reused for a run with other content holds only the new one's records."""
    old = sweep.run(spec())
    old.finish(1)
    new = sweep.run(spec(cache="memory"))
    new.finish(2)
    loaded = load_results([sweep.folder.path])
    assert loaded.runs["attempts"].tolist() == [2]
    assert sum("another run" in problem for problem in loaded.problems) == 2
    assert steps_of(new) == list(range(total_steps(new)))


def test_folders_merge_and_a_run_found_twice_is_the_finished_or_the_later_one(tmp_path: Path) -> None:
    """Repeats of two folders join; of two copies of one run id the finished one counts, then the later."""
    first, second = Sweep(tmp_path / "first"), Sweep(tmp_path / "second")
    first.repeats(spec(), count=2)
    second.run(replace(spec(), repeat=1, seed=1)).fail()
    second.run(replace(spec(), repeat=2, seed=2)).finish()
    loaded = load_results([first.folder.path, second.folder.path])
    assert loaded.runs[["repeat", "sweep", "state"]].to_numpy().tolist() == [
        [0, "first", "finished"],
        [1, "first", "finished"],
        [2, "second", "finished"],
    ]
    assert any("found twice" in problem and "second" in problem for problem in loaded.problems)
    again = Sweep(tmp_path / "third")
    again.repeats(spec(), count=2)
    merged = load_results([first.folder.path, again.folder.path]).runs
    assert merged["sweep"].tolist() == ["third", "third"]
    assert load_results([first.folder.path, first.folder.path]).problems == []


def test_one_name_for_two_different_runs_makes_two_rows(tmp_path: Path) -> None:
    """Where two sweeps use one name for different things, each row says where it comes from."""
    first, second = Sweep(tmp_path / "first"), Sweep(tmp_path / "second")
    first.run(spec("same")).finish()
    second.run(spec("same", cache="memory")).finish()
    loaded = load_results([first.folder.path, second.folder.path])
    assert loaded.runs["experiment"].tolist() == ["same (first)", "same (second)"]
    assert any("2 different runs have this name" in problem for problem in loaded.problems)


def test_classes_are_named_shortly_and_told_apart_where_recipes_differ(sweep: Sweep) -> None:
    """Runs that learn the same share a class; a label says what sets a recipe apart, and smoke is marked."""
    for each in (
        spec("a"),
        single("b"),
        spec("c", optimizer=Optimizer(lr=0.2)),
        spec("d", batch_size=64),
        spec("e", smoke=True),
    ):
        sweep.run(each).finish()
    classes = load_results([sweep.folder.path]).runs.set_index("experiment")["class"].to_dict()
    assert classes == {
        "a": "digits/smallconv/gb64/optimizer.lr=0.1",
        "b": "digits/smallconv/gb64/optimizer.lr=0.1",
        "c": "digits/smallconv/gb64/optimizer.lr=0.2",
        "d": "digits/smallconv/gb128",
        "e": "smoke/digits/smallconv/gb64",
    }


def test_accuracy_counts_each_sample_once_over_all_ranks(sweep: Sweep) -> None:
    """The accuracy of an epoch is the sum of what was right over the sum of samples, not a mean of ranks."""
    run = sweep.run(spec(ranks=7, data_shards=7, batch_size=10))
    run.finish()
    history = read_history(run.folder, run.spec, run.spec.run_id, [1])
    loaded = load_results([sweep.folder.path])
    for epoch, accuracy in zip(loaded.epochs["epoch"], loaded.epochs["acc_pct"], strict=True):
        shares = history.evaluations[epoch]
        assert sum(share.samples for share in shares) == EVALUATION_SAMPLES
        assert accuracy == pytest.approx(100 * sum(s.correct or 0 for s in shares) / EVALUATION_SAMPLES)
    assert loaded.runs["best_acc_pct"].iloc[0] == loaded.epochs["acc_pct"].max()


def test_servers_on_a_gpu_are_devices_too() -> None:
    """Throughput per device counts every device that the run keeps busy."""
    assert occupied_devices(spec(strategy="ps", servers=1, strategy_options={"server": "gpu"})) == 3
    assert occupied_devices(spec(strategy="ps", servers=1, strategy_options={"server": "cpu"})) == 2
    assert occupied_devices(single(devices=4)) == 4


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    """A missing folder and one without results are refused; the parent of results gets a hint."""
    with pytest.raises(InputError, match="no such results folder"):
        load_results([tmp_path / "missing"])
    (tmp_path / "parent" / "demo" / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Did you mean .*/parent/demo\?"):
        load_results([tmp_path / "parent"])


def test_empty_results_give_empty_frames_with_every_column(sweep: Sweep) -> None:
    """Before the first run has started the frames have no rows and the same columns and types as ever."""
    empty = load_results([sweep.folder.path])
    sweep.run(spec()).finish()
    full = load_results([sweep.folder.path])
    for name in ("runs", "epochs", "steps"):
        assert len(getattr(empty, name)) == 0
        assert getattr(empty, name).dtypes.astype(str).equals(getattr(full, name).dtypes.astype(str))

"""Reading by columns gives what reading line by line gives, errors included."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hpcbench.analysis import digest_reading
from hpcbench.analysis.digest_reading import code_hash
from hpcbench.errors import RecordError
from hpcbench.runs import rank_records, record_reader, run_environment
from hpcbench.runs.events import Epoch, Steps
from hpcbench.runs.rank_records import STEP_LISTS, WINDOW_NUMBERS, StepColumns, read_rank
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.run_environment import source_digest
from tests.report.records import Story, Sweep, spec

Lines = list[dict[str, Any]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the record file of a run of two ranks."""
    run = Sweep(tmp_path / "sweep").run(spec(window_steps=7), Story())
    run.finish()
    return run.folder.events(1, 0)


def rewrite(file: Path, change: Callable[[Lines], object]) -> None:
    """Change the lines of a file, as our writer would have written them."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def first_window(lines: Lines) -> dict[str, Any]:
    """Return the first window among the lines."""
    return next(line for line in lines if line["event"] == "steps")


def test_columns_hold_what_the_lines_say(file: Path) -> None:
    """Every field of every window, in order, and every other event, as the reader of events has them."""
    events = [record.event for record in read_events(file).records]
    run_id = read_events(file).records[0].run_id
    reading = read_rank(file, run_id)
    windows = [event for event in events if isinstance(event, Steps)]
    assert len(windows) > 5
    for name in WINDOW_NUMBERS:
        assert_same(reading.steps.windows[name], [getattr(window, name) for window in windows])
    for name in STEP_LISTS:
        lists = [getattr(window, name) for window in windows]
        assert_same(reading.steps.steps[name], [entry for entries in lists for entry in entries])
        assert reading.steps.told[name].all()
    assert [record.event for record in reading.records] == [e for e in events if not isinstance(e, Steps)]
    assert (reading.torn, reading.foreign) == (0, 0)
    assert reading.last_ns == read_events(file).records[-1].time_ns


def test_a_file_as_our_writer_writes_it_is_not_read_line_by_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast way is the one that is taken."""
    run_id = read_events(file).records[0].run_id
    monkeypatch.delattr(rank_records, "read_events")
    assert len(read_rank(file, run_id).steps) > 5


def test_a_torn_last_line_is_dropped_and_counted(file: Path) -> None:
    """What a kill has cut off is missing, and nothing else."""
    run_id = read_events(file).records[0].run_id
    whole = read_rank(file, run_id)
    file.write_bytes(file.read_bytes()[:-20])
    reading = read_rank(file, run_id)
    assert (reading.torn, len(reading.records)) == (1, len(whole.records) - 1)


def test_lines_of_other_runs_are_left_out_and_counted(file: Path) -> None:
    """A window and another event under a foreign id do not count."""
    run_id = read_events(file).records[0].run_id
    whole = read_rank(file, run_id)

    def disown(lines: Lines) -> None:
        first_window(lines)["run_id"] = "another"
        next(line for line in lines if line["event"] == Epoch.kind)["run_id"] = "another"

    rewrite(file, disown)
    reading = read_rank(file, run_id)
    assert reading.foreign == 2
    assert len(reading.steps) == len(whole.steps) - 1
    assert len(reading.records) == len(whole.records) - 1


def test_what_is_not_known_is_no_number(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that was not finite, and lists of a rank that sees none; whoever reads, it is the same."""

    def forget(lines: Lines) -> None:
        windows = [line for line in lines if line["event"] == "steps"]
        windows[0]["loss_sum"][2] = None
        windows[1].update(loss_sum=None, correct=None, loss_samples=None, peak_memory_bytes=None)

    rewrite(file, forget)
    run_id = read_events(file).records[0].run_id
    with monkeypatch.context() as only_fast:
        only_fast.delattr(rank_records, "read_events")
        fast = read_rank(file, run_id).steps
    first, second = (int(steps) for steps in fast.windows["steps"][:2])
    unknown = np.isnan(fast.steps["loss_sum"])
    assert np.flatnonzero(unknown).tolist() == [2, *range(first, first + second)]
    assert fast.told["loss_sum"].tolist() == [True, False] + [True] * (len(fast) - 2)
    assert np.isnan(fast.windows["peak_memory_bytes"][1])
    assert not np.isnan(fast.steps["step_s"]).any()
    rewrite(file, lambda lines: first_window(lines).update(samples=True))  # which Python takes for a number
    slow = read_rank(file, run_id).steps
    for name in set(WINDOW_NUMBERS) - {"samples"}:
        assert_same(slow.windows[name], fast.windows[name])
    for name in STEP_LISTS:
        assert_same(slow.steps[name], fast.steps[name])
        assert_same(slow.told[name], fast.told[name])


@pytest.mark.parametrize("places", [[], [0], [1, 2, 3], [0, 2, 3], [3, 1]])
def test_windows_are_taken_with_their_steps(file: Path, places: list[int]) -> None:
    """Whichever are taken, in whatever order, each keeps its numbers and its lists."""
    windows = [record.event for record in read_events(file).records if isinstance(record.event, Steps)]
    taken = StepColumns.of(windows).taken(np.array(places, dtype=np.int64))
    wanted = StepColumns.of([windows[place] for place in places])
    for name in WINDOW_NUMBERS:
        assert_same(taken.windows[name], wanted.windows[name])
    for name in STEP_LISTS:
        assert_same(taken.steps[name], wanted.steps[name])
        assert_same(taken.told[name], wanted.told[name])


def assert_same(found: NDArray[Any], wanted: Any) -> None:
    """Compare numbers; one that is not known is like another."""
    np.testing.assert_array_equal(found, np.asarray(wanted, dtype=found.dtype))


BROKEN: dict[str, Callable[[Lines], object]] = {
    "a field is missing": lambda lines: first_window(lines).pop("wall_s"),
    "a field too many": lambda lines: first_window(lines).update(colour="red"),
    "a text for a number": lambda lines: first_window(lines).update(wall_s="long"),
    "half a sample": lambda lines: first_window(lines).update(samples=0.5),
    "a newer schema": lambda lines: first_window(lines).update(schema=99),
    "a text for a flag": lambda lines: first_window(lines).update(counted="yes"),
    "no run id": lambda lines: first_window(lines).pop("run_id"),
    "a number for a run id": lambda lines: first_window(lines).update(run_id=7),
    "an unknown event": lambda lines: first_window(lines).update(event="holiday"),
    "a list for an event": lambda lines: first_window(lines).update(event=["steps"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_the_same_error_either_way(file: Path, name: str) -> None:
    """The error names the file and the line, and is the one of the reader of events."""
    rewrite(file, BROKEN[name])
    with pytest.raises(RecordError) as careful:
        read_events(file)
    with pytest.raises(RecordError) as fast:
        read_rank(file, "any")
    assert str(fast.value) == str(careful.value)
    assert f"{file}:2" in str(fast.value)


@pytest.mark.parametrize("garbage", ["garbage", "", "[1]", "3", '{"a": 1}, {"b": 2}', "\x00"])
def test_garbage_in_the_middle_names_its_line(file: Path, garbage: str) -> None:
    """Whatever is no object is told, wherever it stands."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], garbage, *lines[1:]]) + "\n")
    with pytest.raises(RecordError, match=f"{file}:2"):
        read_rank(file, "any")


def test_lines_of_an_older_schema_are_upgraded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old lines between new ones become today's."""
    run_id = read_events(file).records[0].run_id
    rewrite(file, lambda lines: first_window(lines).update(schema=0, lr=None))
    monkeypatch.setitem(record_reader.UPGRADES, 0, lambda line: {**line, "lr": 0.25})
    assert read_rank(file, run_id).steps.windows["lr"][0] == 0.25


def test_an_empty_file_and_one_of_a_torn_line_hold_nothing(tmp_path: Path) -> None:
    """A process that was killed at once has left nothing to read, which is no error."""
    for text, torn in (("", 0), ('{"event": "st', 1)):
        path = tmp_path / "events.a1.rank0.jsonl"
        path.write_text(text)
        reading = read_rank(path, "any")
        assert (len(reading.steps), reading.records, reading.torn, reading.last_ns) == (0, [], torn, 0)


def test_printing_a_ranking_imports_no_pyarrow() -> None:
    """Only reading records needs it, and it takes longer to import than the table takes to print."""
    code = "import sys, hpcbench.cli.ranking_output\nsys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("module", "constant"), [(digest_reading, "CODE_FOLDERS"), (run_environment, "RANK_FOLDERS")]
)
def test_a_source_folder_that_does_not_exist_is_an_error(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, constant: str
) -> None:
    """A renamed folder cannot drop out of a hash of the sources unnoticed."""
    digest: Callable[[], str] = {"CODE_FOLDERS": code_hash.__wrapped__, "RANK_FOLDERS": source_digest}[
        constant
    ]
    folders = getattr(module, constant)
    before = digest()
    monkeypatch.setattr(module, constant, folders[1:])
    assert digest() != before
    monkeypatch.setattr(module, constant, (*folders, "renamed"))
    with pytest.raises(FileNotFoundError, match="renamed"):
        digest()

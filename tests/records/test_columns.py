"""Reading by columns gives what reading line by line gives, errors included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcbench.errors import RecordError
from hpcbench.records import columns, reader
from hpcbench.records.columns import FIELDS, read_rank
from hpcbench.records.events import Epoch, Steps
from hpcbench.records.reader import read_events
from tests.report.records import Story, Sweep, spec

Lines = list[dict[str, Any]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the record file of a run of two ranks."""
    run = Sweep(tmp_path / "sweep").run(spec(window_steps=7), Story())
    run.finish()
    return run.folder.events(1, 0)


def rewrite(file: Path, change: Callable[[Lines], object]) -> None:
    """Change the lines of a file."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


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
    for name in FIELDS:
        assert list(reading.steps[name]) == [getattr(window, name) for window in windows]
    assert [record.event for record in reading.records] == [e for e in events if not isinstance(e, Steps)]
    assert (reading.torn, reading.foreign) == (0, 0)
    assert reading.last_ns == read_events(file).records[-1].time_ns


def test_a_file_as_our_writer_writes_it_is_not_read_line_by_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast way is the one that is taken."""
    run_id = read_events(file).records[0].run_id
    monkeypatch.delattr(columns, "read_events")
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


BROKEN: dict[str, Callable[[Lines], object]] = {
    "a field is missing": lambda lines: first_window(lines).pop("wall_s"),
    "a field too many": lambda lines: first_window(lines).update(colour="red"),
    "a text for a number": lambda lines: first_window(lines).update(wall_s="long"),
    "half a sample": lambda lines: first_window(lines).update(samples=0.5),
    "a newer schema": lambda lines: first_window(lines).update(schema=99),
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
    monkeypatch.setitem(reader.UPGRADES, 0, lambda line: {**line, "lr": 0.25})
    assert read_rank(file, run_id).steps["lr"][0] == 0.25


def test_an_empty_file_and_one_of_a_torn_line_hold_nothing(tmp_path: Path) -> None:
    """A process that was killed at once has left nothing to read, which is no error."""
    for text, torn in (("", 0), ('{"event": "st', 1)):
        path = tmp_path / "events.a1.rank0.jsonl"
        path.write_text(text)
        reading = read_rank(path, "any")
        assert (len(reading.steps), reading.records, reading.torn, reading.last_ns) == (0, [], torn, 0)

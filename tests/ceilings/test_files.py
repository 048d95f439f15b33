"""Files of ceilings: what is read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcbench.ceilings.ceiling_records import (
    append_ceiling_lines,
    ceiling_line,
    newest_ceilings,
    read_ceilings,
)
from hpcbench.ceilings.probe_plan import collect_ceilings
from hpcbench.errors import RecordError
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from tests.ceilings.written import compute, line, link, loader, matrix, node, write


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Every kind comes back as it was, with its host, and the folder knows its files."""
    results = ResultsFolder(tmp_path)
    write(results.ceilings / "n1.jsonl", node())
    assert results.ceiling_files() == [results.ceilings / "n1.jsonl"]
    reading = read_ceilings(results.ceiling_files()[0])
    assert [each.ceiling for each in reading.records] == node()
    assert {each.host for each in reading.records} == {"n1"} and reading.torn == 0


def test_the_later_of_two_lines_counts(tmp_path: Path) -> None:
    """The same thing measured again on the same host replaces the first; another batch does not."""
    path = write(tmp_path / "c.jsonl", [compute(), compute(batch=64), compute(seconds=0.02)])
    kept = [each.ceiling for each in newest_ceilings(read_ceilings(path).records)]
    assert kept == [compute(seconds=0.02), compute(batch=64)]


def test_a_torn_last_line_is_dropped_and_counted(tmp_path: Path) -> None:
    """A probe that was killed loses the line that it was writing."""
    path = write(tmp_path / "c.jsonl", [compute(), loader()])
    path.write_text(path.read_text()[:-20])
    reading = read_ceilings(path)
    assert [each.ceiling for each in reading.records] == [compute()] and reading.torn == 1


def test_lines_after_a_torn_one_can_be_read(tmp_path: Path) -> None:
    """Who measures next drops the line that was cut off; what is no record of ours is left alone."""
    path = write(tmp_path / "c.jsonl", [compute(), loader()])
    path.write_text(path.read_text()[:-20])
    append_ceiling_lines(path, [ceiling_line(matrix(), "n1")])
    assert [each.ceiling for each in read_ceilings(path).records] == [compute(), matrix()]
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    append_ceiling_lines(notes, [])
    assert notes.read_text() == "mine"


def test_a_probe_that_was_cut_off_keeps_what_is_whole(tmp_path: Path) -> None:
    """The torn line of a probe is left out, and nothing is raised."""
    folder = RunFolder(tmp_path / "probe")
    path = write(folder.measured(1, 0), [compute(), loader()])
    path.write_text(path.read_text()[:-20])
    results = ResultsFolder(tmp_path)
    assert collect_ceilings(folder, results) == 1
    assert [each.ceiling for each in read_ceilings(results.ceilings_of("n1")).records] == [compute()]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ceiling": "ceiling_of_all"}, "unknown ceiling 'ceiling_of_all'"),
        ({"schema": 99}, "records of schema 99; this hpcbench reads up to 1"),
        ({"images_per_s": 0.0}, "images_per_s should be more than 0"),
        ({"images_per_s": "fast"}, "images_per_s should be float"),
        ({"step_s": [0.1, -1.0]}, "step_s should hold positive numbers"),
        ({"colour": "red"}, "colour"),
        ({"dataset_options": "{"}, "dataset_options should be JSON"),
        ({"host": None}, "host should be a name"),
    ],
)
def test_a_line_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object], why: str) -> None:
    """One message with file and line."""
    path = tmp_path / "c.jsonl"
    path.write_text(line(matrix()) + json.dumps(json.loads(line(compute())) | change) + "\n")
    with pytest.raises(RecordError, match=r"c\.jsonl:2: ") as caught:
        read_ceilings(path)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": [[0.1]]},
        {"seconds": []},
        {"size_bytes": [8, 8], "seconds": [[0.1], [0.1]]},
        {"size_bytes": [8, 64], "seconds": [[0.1], [0.0]]},
        {"size_bytes": [8, 64], "seconds": [[0.1], []]},
    ],
)
def test_a_sweep_that_does_not_fit_its_sizes_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Each size has its times, sizes grow, and no time is 0."""
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(json.loads(line(link())) | change) + "\n")
    with pytest.raises(RecordError, match="seconds should hold a list"):
        read_ceilings(path)


def test_a_line_without_its_header_is_refused(tmp_path: Path) -> None:
    """The message names what is missing."""
    path = tmp_path / "c.jsonl"
    path.write_text('{"ceiling": "matrix_ceiling"}\n')
    with pytest.raises(RecordError, match="without schema, host, time_ns"):
        read_ceilings(path)


def test_lines_are_added_behind_whole_ones(tmp_path: Path) -> None:
    """What was written before stays, but for a line that was cut off; no other file is left beside it."""
    path = tmp_path / "here" / "node.jsonl"
    append_ceiling_lines(path, [ceiling_line(compute(batch=8), "node")])
    with path.open("a") as file:
        file.write('{"ceiling":"compute')
    append_ceiling_lines(path, [ceiling_line(compute(batch=16), "node"), ceiling_line(loader(), "node")])
    found = [record.ceiling for record in read_ceilings(path).records]
    assert found == [compute(batch=8), compute(batch=16), loader()]
    assert list(path.parent.iterdir()) == [path]


def test_figures_that_are_not_finite_are_no_line() -> None:
    """A rate that is infinite is refused where it is written, not where it is read."""
    with pytest.raises(ValueError, match="JSON"):
        ceiling_line(compute(images_per_s=float("inf")), "node")

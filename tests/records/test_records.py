"""Records survive whatever happens to their writer."""

from __future__ import annotations

import json
import math
import multiprocessing
import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.errors import RecordError
from hpcbench.runs import ledger
from hpcbench.runs.events import EVENTS, HEADER, SCHEMA, Check, Evaluation, Event, RunFailed, Steps
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.record_writer import EventWriter, write_atomically
from hpcbench.runs.results_folder import EventFile, ResultsFolder, RunFolder

CHECK = Check(when="start", epoch=0, weights_checksum="a", buffers_checksum="b", wall_s=0.5)


def _write(path: Path, *events: Event) -> None:
    with EventWriter(path, run_id="id", attempt=0, rank=1) as writer:
        for event in events:
            writer.write(event)


def test_event_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Reading is the inverse of writing, header included."""
    path = tmp_path / "events.a0.rank1.jsonl"
    _write(path, CHECK)
    (record,) = read_events(path).records
    assert (record.event, record.run_id, record.attempt, record.rank) == (CHECK, "id", 0, 1)
    assert list(json.loads(path.read_text()))[: len(HEADER)] == list(HEADER)


@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_number_that_is_none_becomes_null(value: float) -> None:
    """NaN and infinity never reach a file; finite numbers come back bit-equal."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.a0.rank1.jsonl"
        _write(path, Evaluation(epoch=1, wall_s=1.0, samples=1, loss_sum=value, correct=0))
        (record,) = read_events(path).records
    assert isinstance(record.event, Evaluation)
    assert record.event.loss_sum == (value if math.isfinite(value) else None)


def test_second_writer_of_an_attempt_is_refused(tmp_path: Path) -> None:
    """A file belongs to one writer: a zombie of the same attempt cannot write into it."""
    path = tmp_path / "events.a0.rank1.jsonl"
    _write(path, CHECK)
    with pytest.raises(FileExistsError):
        EventWriter(path, run_id="id", attempt=0, rank=1)


def test_torn_last_line_is_dropped_and_counted(tmp_path: Path) -> None:
    """A writer that was cut off in the middle of a line loses that line only."""
    path = tmp_path / "events.a0.rank1.jsonl"
    _write(path, CHECK, CHECK)
    whole = path.read_bytes()
    for cut in (1, 10, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        reading = read_events(path)
        assert (len(reading.records), reading.torn) == (1, 1)


def test_broken_line_elsewhere_names_file_and_line(tmp_path: Path) -> None:
    """Garbage in the middle is nobody's cut-off: it is reported where it stands."""
    path = tmp_path / "events.a0.rank1.jsonl"
    _write(path, CHECK, CHECK, CHECK)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "garb{age", lines[2]]) + "\n")
    with pytest.raises(RecordError, match=r"rank1\.jsonl:2: "):
        read_events(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}; this hpcbench reads up to {SCHEMA}"),
        ({"event": "party"}, "unknown event 'party'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_line_from_elsewhere_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A newer schema, an unknown event or an unknown field is an error that says so."""
    path = tmp_path / "events.a0.rank1.jsonl"
    _write(path, CHECK)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}) + "\n")
    with pytest.raises(RecordError, match=message):
        read_events(path)


def test_line_without_header_is_refused(tmp_path: Path) -> None:
    """A line that does not say whose it is, is no record."""
    path = tmp_path / "events.a0.rank1.jsonl"
    path.write_text('{"event": "check"}\n')
    with pytest.raises(RecordError, match="schema, run_id, attempt, rank, time_ns"):
        read_events(path)


def test_flushed_lines_survive_a_kill(tmp_path: Path) -> None:
    """What was flushed is there after SIGKILL; what was not may be lost, and nothing is torn in between."""
    path = tmp_path / "events.a0.rank1.jsonl"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from hpcbench.runs.events import Check\n"
        "from hpcbench.runs.record_writer import EventWriter\n"
        "w = EventWriter(Path(sys.argv[1]), run_id='id', attempt=0, rank=1)\n"
        "e = Check(when='start', epoch=0, weights_checksum='a', buffers_checksum='b', wall_s=0.5)\n"
        "[w.write(e) for _ in range(100)]; w.flush(); w.write(e)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert len(read_events(path).records) == 100


def test_full_disk_raises_and_leaves_readable_lines(tmp_path: Path) -> None:
    """A file that cannot grow raises OSError from flush; what stood before can still be read."""
    path = tmp_path / "events.a0.rank1.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = EventWriter(path, run_id="id", attempt=0, rank=1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        for _ in range(50):
            writer.write(CHECK)
        with pytest.raises(OSError, match="File too large"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    reading = read_events(path)
    assert reading.torn == 1
    assert 0 < len(reading.records) < 50
    writer.close()
    assert len(read_events(path).records) == 50


def test_every_event_is_one_flat_line_with_units(tmp_path: Path) -> None:
    """Field names end in a unit where a number has one: no bare `time`, `duration` or `memory`."""
    for name, cls in EVENTS.items():
        assert name == cls.kind
        fields = set(cls.__dataclass_fields__)
        assert not fields & {"time", "duration", "memory", "wall", "seconds", "bytes"}
        assert not fields & set(HEADER)


def test_atomic_write_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failing write leaves the old file and no litter."""
    path = tmp_path / "table.csv"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def _append_many(path: Path, job: int) -> None:
    for number in range(50):
        ledger.append_entry(
            path, ledger.JobSubmitted(job_id=f"{job}.{number}", executor="local", runs=["a/r0"])
        )


def test_ledger_keeps_the_lines_of_two_writers_apart(tmp_path: Path) -> None:
    """Four processes append at once: every line is there, whole, once."""
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(path, job)) for job in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = [entry for _, entry in ledger.read_ledger(path)]
    assert (
        len({entry.job_id for entry in entries if isinstance(entry, ledger.JobSubmitted)})
        == len(entries)
        == 200
    )


def test_ledger_drops_a_torn_last_line(tmp_path: Path) -> None:
    """A submitter that was killed while writing leaves the ledger readable."""
    path = tmp_path / "ledger.jsonl"
    ledger.append_entry(path, ledger.JobCancelled(job_id="1"))
    with path.open("a") as file:
        file.write('{"event": "submi')
    assert [
        entry.job_id for _, entry in ledger.read_ledger(path) if isinstance(entry, ledger.JobCancelled)
    ] == ["1"]


def test_layout_finds_runs_attempts_and_record_files(tmp_path: Path) -> None:
    """Folders and file names say which run, repeat, attempt and rank they belong to."""
    results = ResultsFolder(tmp_path)
    run = results.run("ddp_bs64", 2)
    for path in (
        run.claim(0),
        run.claim(10),
        run.events(10, 1),
        run.supervisor_events(10, 0),
        run.events(0, 0),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (run.path / "events.a0.rankX.jsonl").touch()
    assert results.runs() == [("ddp_bs64", 2, RunFolder(run.path))]
    assert run.attempts() == [0, 10]
    assert [(f.attempt, f.rank, f.node) for f in run.event_files()] == [
        (0, 0, None),
        (10, 1, None),
        (10, None, 0),
    ]
    assert EventFile.parse(Path("other.jsonl")) is None


def test_failure_and_steps_keep_their_lists(tmp_path: Path) -> None:
    """Lists inside an event come back as lists."""
    path = tmp_path / "events.a0.rank1.jsonl"
    failed = RunFailed(reason="boom", last_lines=["a", "b"])
    steps = Steps(
        epoch=1, first_step=0, steps=2, counted=True, samples=8, wall_s=1.0, data_wait_s=0.0,
        forward_backward_s=1.0, exchange_s=0.0, update_s=0.0, other_s=0.0, step_s=[0.4, 0.6],
        loss_sum=[1.5, None], correct=[3, 4], loss_samples=4, non_finite=1, lr=0.1,
    )  # fmt: skip
    _write(path, failed, steps)
    assert [record.event for record in read_events(path).records] == [failed, steps]

"""Data on a node's own disk, over the runs of a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.launch.node_staging import keep_staged
from hpcbench.runs.results_folder import ResultsFolder, StoredRun
from hpcbench.sweep.run_spec import InputOptions
from hpcbench.tasks.shared_folders import stage_data
from tests.cluster.helpers import eventually, noop


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with a file in it."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_text("content")
    return folder


def stored_runs(tmp_path: Path, source: Path, names: list[str]) -> ResultsFolder:
    """Store runs that want their data staged."""
    results = ResultsFolder(tmp_path / "results")
    for name in names:
        folder = results.run(name, 0)
        folder.path.mkdir(parents=True)
        spec = replace(noop(name), input=InputOptions(stage=str(tmp_path / "disk")))
        StoredRun(spec=spec, data=str(source)).write(folder)
    return results


def test_a_copy_that_several_runs_want_stays_between_them(tmp_path: Path, source: Path) -> None:
    """A run that releases the copy leaves it there for the next; after the last it is gone."""
    names = ["one", "two"]
    results = stored_runs(tmp_path, source, names)
    disk = tmp_path / "disk"
    with keep_staged(results.path, [(name, 0) for name in names]):
        eventually(lambda: list(disk.glob("*/file")))
        copy = stage_data(source, disk)
        written_ns = copy.path.stat().st_mtime_ns
        copy.release()
        copy = stage_data(source, disk)
        assert copy.path.stat().st_mtime_ns == written_ns
        copy.release()
        assert (copy.path / "file").read_text() == "content"
    assert not list(disk.iterdir())


def test_nothing_is_measured_while_a_copy_is_made(tmp_path: Path, source: Path) -> None:
    """The first run begins when the copy is there; a job that is told to stop waits for none."""
    names = ["one", "two"]
    results = stored_runs(tmp_path, source, names)
    runs = [(name, 0) for name in names]
    with keep_staged(results.path, runs, lambda: False):
        assert list((tmp_path / "disk").glob("*/file"))
    with keep_staged(results.path, runs, lambda: True):
        pass
    assert not list((tmp_path / "disk").glob("*/file"))


def test_a_copy_that_can_not_be_made_is_not_waited_for(tmp_path: Path, source: Path) -> None:
    """The runs find out, and say, what is wrong."""
    names = ["one", "two"]
    results = stored_runs(tmp_path, source, names)
    (tmp_path / "disk").write_text("a file where the folder should be")
    with keep_staged(results.path, [(name, 0) for name in names], lambda: False):
        pass


def test_a_copy_that_one_run_wants_is_its_own_affair(tmp_path: Path, source: Path) -> None:
    """Nothing is copied ahead of a run that is alone with its data, or whose folder is broken."""
    results = stored_runs(tmp_path, source, ["one", "broken"])
    results.run("broken", 0).spec.write_text("{")
    with keep_staged(results.path, [("one", 0), ("broken", 0)]):
        pass
    assert not (tmp_path / "disk").exists()

"""A second report reads only what has changed, and says what one from nothing would say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pandas as pd
import pytest

from hpcbench.analysis import digest_reading
from hpcbench.analysis.digest_reading import dump_cache
from hpcbench.analysis.results_loading import load_results
from hpcbench.analysis.run_digest import digest_from_json, digest_to_json, read_digest
from hpcbench.analysis.run_figures import FinishedRepeat, Observation, RunChecks
from hpcbench.analysis.step_tables import StoredSteps
from hpcbench.audit.rule_table import RUN_CHECKS
from hpcbench.report.collection import collect_results
from hpcbench.report.report_files import read_digest_cache
from hpcbench.runs.results_folder import RunFolder
from tests.audit import written
from tests.report.records import Story, Sweep, single, spec

CACHE = ".cache.json"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return results of two finished runs and one that was interrupted."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.repeats(single(), Story(step_s=0.01, rng=random.Random(1)))
    sweep.repeats(spec(), Story(step_s=0.02, rng=random.Random(2)))
    sweep.run(spec("late", cache="memory")).interrupt()
    return sweep


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the runs that are read from now on, as `name/r0`."""
    seen: list[str] = []

    def noting(folder: RunFolder, claimed: frozenset[int], checks: RunChecks) -> object:
        seen.append(f"{folder.path.parent.name}/{folder.path.name}")
        return read_digest(folder, claimed, checks)

    monkeypatch.setattr(digest_reading, "read_digest", noting)
    return seen


def contents(sweep: Sweep) -> dict[str, bytes]:
    """Return the report, as it is after a collect, without the cache."""
    report = collect_results([sweep.folder.path], pictures=False).report
    files = (path for path in report.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(report)): path.read_bytes() for path in files}


def test_what_is_unchanged_is_not_read_again(sweep: Sweep, read: list[str]) -> None:
    """A second report reads nothing and is the same to the last byte; so is one without the cache."""
    first = contents(sweep)
    assert len(read) == 7
    read.clear()
    assert contents(sweep) == first
    assert read == []
    (sweep.folder.report / CACHE).unlink()
    assert contents(sweep) == first
    assert len(read) == 7


def resume(sweep: Sweep) -> None:
    """Let the interrupted run go on to its end."""
    sweep.run(spec("late", cache="memory"), Story(rng=random.Random(3))).resume(2, epoch=1)


def grow(sweep: Sweep) -> None:
    """Add a line to a record file."""
    with sweep.folder.run("late", 0).events(1, 0).open("a") as file:
        file.write('{"torn')


def claim(sweep: Sweep) -> None:
    """Have the ledger claim an attempt."""
    sweep.run(spec("late", cache="memory")).claim(2, file=False)


@pytest.mark.parametrize("change", [resume, grow, claim])
def test_only_a_run_that_changed_is_read(
    sweep: Sweep, read: list[str], change: Callable[[Sweep], None]
) -> None:
    """One run is read again, and the report is the one that is made from nothing."""
    before = contents(sweep)
    change(sweep)
    read.clear()
    after = contents(sweep)
    assert read == ["late/r0"]
    (sweep.folder.report / CACHE).unlink()
    assert contents(sweep) == after
    assert (after["ranking.csv"] != before["ranking.csv"]) == (change is not grow)


def test_runs_that_come_and_go_are_seen(sweep: Sweep, read: list[str]) -> None:
    """A run more is read, a run less is gone from every table; the others are not read again."""
    contents(sweep)
    sweep.run(spec("new", seed=9), Story(rng=random.Random(4))).finish()
    read.clear()
    contents(sweep)
    assert read == ["new/r0"]
    for path in sorted(sweep.folder.run("ddp_gloo", 2).path.rglob("*")):
        path.unlink()
    sweep.folder.run("ddp_gloo", 2).path.rmdir()
    contents(sweep)
    assert read == ["new/r0"]
    steps = pd.read_parquet(sweep.folder.report / "steps.parquet")
    kept = pd.read_parquet(sweep.folder.report / "runs.parquet")
    assert set(steps["run_id"]) <= set(kept["run_id"])
    assert len(kept) == 7 and not steps.duplicated(["run_id", "step"]).any()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"code": 1}', '{"code": "x", "parts": {}, "runs": {}}', "\x00"]
)
def test_a_broken_cache_costs_time_only(sweep: Sweep, read: list[str], text: str) -> None:
    """Whatever stands in its place, everything is read and the report is whole."""
    first = contents(sweep)
    (sweep.folder.report / CACHE).write_text(text)
    read.clear()
    assert contents(sweep) == first
    assert len(read) == 7


def test_a_lost_part_of_the_steps_is_read_again(sweep: Sweep, read: list[str]) -> None:
    """Somebody who removes or changes `steps.parquet` finds it whole after the next report."""
    first = contents(sweep)
    for part in (sweep.folder.report / "steps.parquet").iterdir():
        part.write_bytes(b"")
    read.clear()
    assert contents(sweep) == first
    assert len(read) == 7


def test_steps_are_the_same_from_parts_as_from_records(sweep: Sweep) -> None:
    """Pictures drawn from an earlier report's steps are those drawn from the records."""
    fresh = load_results([sweep.folder.path]).steps
    collect_results([sweep.folder.path], pictures=False)
    collected = collect_results([sweep.folder.path], pictures=True)
    stored = pd.read_parquet(collected.report / "steps.parquet").sort_values(["experiment", "repeat", "step"])
    for column in ("epoch", "step", "loss", "acc_pct"):
        assert stored[column].tolist() == fresh[column].tolist()
    assert len(fresh) > 300


def test_many_runs_stand_in_several_parts_and_are_read_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by two processes or by one, from parts or from records: the same tables."""
    sweep = Sweep(tmp_path / "sweep")
    for number in range(40):
        run = replace(spec(f"run_{number}", epochs=1), seed=number)
        sweep.run(run, Story(rng=random.Random(number))).finish()
    alone = contents(sweep)
    assert sum(name.startswith("steps.parquet/") for name in alone) > 1
    (sweep.folder.report / CACHE).unlink()
    monkeypatch.setattr(digest_reading, "BYTES_PER_PROCESS", 1)
    assert contents(sweep) == alone


def test_a_digest_comes_back_as_it_went(tmp_path: Path) -> None:
    """Every field survives the cache, of a run with servers, checks and findings."""
    story = {"staleness": [0, 1, 2], "warnings": ["shared-machine"]}
    run = written.run("ps", strategy="ps", servers=1, strategy_options={"mode": "async"}, backend="gloo")
    results = written.write(tmp_path / "r", run, repeats=1, **story)
    folder = RunFolder(results / "runs" / "ps" / "r0")
    kept = read_digest(folder, frozenset(), RUN_CHECKS)
    assert kept.observed and kept.history.checks and kept.figures and kept.figures.staleness
    place = StoredSteps(tmp_path / "part", 0, len(kept.steps), "ps")  # type: ignore[arg-type]
    data = orjson.loads(dump_cache({"ps": ([], kept, place)}))["runs"]["ps"]["digest"]
    assert digest_from_json(data, place) == replace(kept, steps=place)
    assert data.keys() == digest_to_json(kept).keys()


def test_what_is_not_kept_cannot_be_read_by_mistake(sweep: Sweep) -> None:
    """Windows are gone after a run was read: whoever asks for them is told, instead of seeing none."""
    history = load_results([sweep.folder.path]).keyed[0][1].history
    with pytest.raises(AssertionError, match="digest"):
        len(history.windows)


def count_epochs(repeat: FinishedRepeat) -> Observation:
    """Return an observation that no rule makes."""
    return Observation(
        message=f"{len(repeat.history.epochs)} epochs", figures={"windows": len(repeat.counted)}
    )


def test_digests_hold_the_observations_of_the_given_checks(sweep: Sweep) -> None:
    """Analysis knows no rules: it applies the checks that it is given, and none without any."""
    checks: RunChecks = {"epochs": count_epochs}
    observed = [run.digest.observed for _, run in load_results([sweep.folder.path], checks=checks).keyed]
    assert sum(set(found) == {"epochs"} for found in observed) == 6
    assert sum(found == {} for found in observed) == 1  # the interrupted run
    assert all(found["epochs"].figures["windows"] > 0 for found in observed if found)
    assert not any(run.digest.observed for _, run in load_results([sweep.folder.path]).keyed)


def test_a_cache_of_other_checks_is_not_used(sweep: Sweep, read: list[str]) -> None:
    """Digests that were read with one set of checks say nothing about another."""
    report = collect_results([sweep.folder.path], pictures=False).report
    read.clear()
    cache = read_digest_cache(report)
    load_results([sweep.folder.path], cache=cache, checks=RUN_CHECKS)
    assert read == []
    load_results([sweep.folder.path], cache=cache, checks={"epochs": count_epochs})
    assert len(read) == 7

from __future__ import annotations

import multiprocessing
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpcbench.errors import InputError
from hpcbench.report.collection import CollectedReport, collect_results
from hpcbench.runs import record_reader
from hpcbench.runs.events import SCHEMA
from tests.report.records import Story, Sweep, single, spec

EVERY = {
    "panels",
    "throughput",
    "accuracy",
    "learning",
    "loss",
    "epochtime",
    "communication",
    "phases",
    "time",
}
# Two runs on one and two devices can be compared by speed-up, and as speed against accuracy.
PICTURES = EVERY | {"scaling", "pareto"}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return an empty results folder."""
    return Sweep(tmp_path / "sweep")


@pytest.fixture
def two(sweep: Sweep) -> Sweep:
    """Return a results folder of two runs with three repeats."""
    sweep.repeats(single(), Story(step_s=0.01, rng=random.Random(1)))
    sweep.repeats(spec(), Story(step_s=0.02, rng=random.Random(2)))
    return sweep


def names_of_pictures(report: Path) -> set[str]:
    """Return the file names of the pictures."""
    return {path.name for path in (report / "plots").glob("*")}


def page(collected: CollectedReport) -> str:
    """Return the text of the report."""
    return (collected.report / "report.md").read_text()


def test_a_report_is_whole_and_says_what_comes_first(two: Sweep) -> None:
    """All files are there, every picture as PNG and SVG, and the first sentence is the answer."""
    collected = collect_results([two.folder.path])
    assert collected.report == two.folder.report
    files = {path.name for path in collected.report.iterdir() if not path.name.startswith(".")}
    assert files == {
        "ranking.csv", "ranking.md", "runs.parquet", "epochs.parquet", "steps.parquet", "report.md",
        "report.html", "findings.csv", "statistics.csv", "plots",
    }  # fmt: skip
    label = "digits-smallconv-gb64"
    names = {"summary", *(f"{label}.{picture}" for picture in PICTURES)}
    assert names_of_pictures(collected.report) == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    assert "single_gpu comes first by throughput" in page(collected)
    assert "(a factor of 2.0" in page(collected)
    assert (collected.failed, collected.problems) == (0, [])
    assert len(pd.read_parquet(collected.report / "runs.parquet")) == 6
    epochs = pd.read_parquet(collected.report / "epochs.parquet")
    assert epochs.groupby(["experiment", "repeat"]).size().tolist() == [3] * 6
    for link in (f"plots/{label}.{picture}" for picture in PICTURES):
        assert f"({link}.png)]({link}.svg)" in page(collected)


def test_the_same_records_give_the_same_bytes(two: Sweep) -> None:
    """Collecting again changes no byte of any table or picture."""

    def contents() -> dict[str, bytes]:
        report = collect_results([two.folder.path]).report
        return {str(p): p.read_bytes() for p in report.rglob("*") if p.is_file()}

    assert contents() == contents()


def test_results_without_a_run_give_a_report_that_says_so(sweep: Sweep) -> None:
    """Collecting before the first run has started works and draws nothing."""
    collected = collect_results([sweep.folder.path])
    assert len(collected.ranking) == 0
    assert "No run has written records yet" in page(collected)
    assert names_of_pictures(collected.report) == set()


def test_only_failed_runs_give_a_table_without_ranks_or_pictures(sweep: Sweep) -> None:
    """Failures are rows with their reason, counted unless they are a limit; nothing empty is drawn."""
    sweep.run(spec("broken")).fail(reason="RuntimeError: 1 < 2 | *boom*")
    sweep.run(spec("oom", cache="memory")).fail(limit="memory")
    collected = collect_results([sweep.folder.path])
    assert collected.failed == 1
    assert collected.ranking["rank"].isna().all()
    assert collected.ranking["limit"].tolist() == ["failed", "memory"]
    assert "- broken/r0: failed: RuntimeError: 1 &lt; 2 \\| \\*boom\\*" in page(collected)
    assert "- oom/r0: failed (memory)" in page(collected)
    assert "Pictures omitted for lack of data" in page(collected)
    assert names_of_pictures(collected.report) == set()


def test_one_repeat_has_no_interval_and_the_report_says_what_is_missing(sweep: Sweep) -> None:
    """One repeat each is drawn and tabled, and no first place is claimed."""
    sweep.repeats(single(), Story(step_s=0.01), count=1)
    sweep.repeats(spec(), Story(step_s=0.1), count=1)
    collected = collect_results([sweep.folder.path])
    assert "No single first place" in page(collected)
    assert "Fewer than 3 repeats" in page(collected)
    assert len(names_of_pictures(collected.report)) == 2 * (len(PICTURES) + 1)


def test_a_broken_run_is_listed_and_the_rest_is_ranked(two: Sweep) -> None:
    """One unreadable record file costs one repeat; the report names file and line."""
    file = two.folder.run("ddp_gloo", 1).events(1, 0)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "garbage", *lines[1:]]) + "\n")
    collected = collect_results([two.folder.path])
    assert collected.failed == 1
    assert collected.ranking.set_index("experiment")["repeats"].to_dict() == {"single_gpu": 3, "ddp_gloo": 2}
    assert any(f"{file}:2" in problem for problem in collected.problems)
    assert "ddp_gloo/r1: unreadable" in page(collected)


def test_several_folders_merge_into_the_report_of_the_last(tmp_path: Path, two: Sweep) -> None:
    """All runs are in one ranking, in the last folder; the first gets no report."""
    other = Sweep(tmp_path / "other")
    other.repeats(spec("elsewhere", cache="memory"))
    collected = collect_results([two.folder.path, other.folder.path])
    assert collected.report == other.folder.report
    assert set(collected.ranking["experiment"]) == {"single_gpu", "ddp_gloo", "elsewhere"}
    assert not two.folder.report.exists()


def _collect(path: Path) -> None:
    collect_results([path])


def test_two_collects_at_once_leave_one_whole_report(two: Sweep) -> None:
    """Processes that collect at the same time wait for each other and leave no temporary file."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_collect, args=(two.folder.path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    left = {path.name for path in two.folder.report.rglob(".*")}
    assert left <= {".collect.lock", ".cache.json"}
    assert len(pd.read_csv(two.folder.report / "ranking.csv")) == 2


@pytest.mark.parametrize("obstacle", ["report", "report/plots", "report/ranking.csv"])
def test_a_report_that_cannot_be_written_is_one_message(two: Sweep, obstacle: str) -> None:
    """Something in the way is the user's to move: the message names it, and no half report appears."""
    at = two.folder.path / obstacle
    at.parent.mkdir(exist_ok=True)
    if obstacle.endswith(".csv"):
        at.mkdir()
    else:
        at.write_text("in the way")
    with pytest.raises(InputError, match="the report cannot be written"):
        collect_results([two.folder.path])
    assert not list(two.folder.path.rglob("report/**/.*.csv"))


def test_pictures_of_an_earlier_report_go(two: Sweep) -> None:
    """A picture that the report no longer shows is not left behind."""
    report = collect_results([two.folder.path]).report
    (report / "plots" / "old.throughput.png").write_bytes(b"")
    before = names_of_pictures(report)
    collect_results([two.folder.path])
    assert names_of_pictures(report) == before - {"old.throughput.png"}


def test_names_are_text_wherever_they_stand(sweep: Sweep) -> None:
    """HTML, formulas and Markdown in a name are shown as they are and do nothing."""
    name = "_<b onclick=x>$a_1$ & `|*x*[y](z)_"
    sweep.repeats(spec(name), count=1)
    collected = collect_results([sweep.folder.path])
    for file in ("report.md", "ranking.md"):
        text = (collected.report / file).read_text()
        assert "<b" not in text
        assert "\\_&lt;b onclick=x&gt;\\$a_1\\$ &amp; \\`\\|\\*x\\*\\[y\\](z)\\_" in text
    assert pd.read_csv(collected.report / "ranking.csv")["experiment"].tolist() == [name]
    for svg in (collected.report / "plots").glob("*.svg"):
        assert "<b onclick" not in svg.read_text()


def test_groups_are_drawn_from_the_sweep_and_a_broken_sweep_is_told(two: Sweep) -> None:
    """A group's runs get their own pictures; a group of nothing is named; a broken file costs only these."""
    two.folder.sweep.write_text(
        "groups:\n- {id: G1, title: 'A & B', factor: strategy, runs: [ddp_gloo, single_gpu]}\n"
        "- {id: G2, title: none, factor: [backend], runs: [absent]}\n"
    )
    collected = collect_results([two.folder.path])
    assert {name for name in names_of_pictures(collected.report) if name.startswith("G")} == {
        f"G1.{picture}.{ending}" for picture in PICTURES for ending in ("png", "svg")
    }
    assert "- G2: none: Loss, accuracy" in page(collected)
    two.folder.sweep.write_text("groups: [nonsense]")
    again = collect_results([two.folder.path])
    assert "groups of this sweep cannot be read" in again.problems[0]
    assert len(again.ranking) == 2


def test_the_report_speaks_chinese_and_refuses_other_languages(two: Sweep) -> None:
    """`zh` changes the sentences, not the figures; another language is refused before anything is written."""
    with pytest.raises(InputError, match="en, zh"):
        collect_results([two.folder.path], lang="fr")
    assert not two.folder.report.exists()
    collected = collect_results([two.folder.path], lang="zh")
    assert "排名第一" in page(collected)


def test_an_unknown_column_is_refused_before_anything_is_written(two: Sweep) -> None:
    """The message names the columns that can rank."""
    with pytest.raises(InputError, match="throughput_samples_s"):
        collect_results([two.folder.path], rank_by="speed")
    assert not two.folder.report.exists()


def test_a_sweep_that_still_runs_is_collected_as_far_as_it_is(two: Sweep) -> None:
    """Runs that have not finished are listed, take no rank, and are no failures."""
    run = two.run(replace(spec("late", cache="memory"), epochs=3))
    run.attempt(1, last_epoch=2, stop_in_epoch=2)
    collected = collect_results([two.folder.path])
    assert collected.failed == 0
    assert "late/r0: unfinished" in page(collected)
    row = collected.ranking.set_index("experiment").loc["late"]
    assert (row["limit"], row["repeats"]) == ("unfinished", 0)


def test_the_same_runs_in_two_folders_count_once(tmp_path: Path, two: Sweep) -> None:
    """A copy of results beside the results adds no repeats, no steps, and says which of them count."""
    copy = tmp_path / "copy"
    shutil.copytree(two.folder.path, copy)
    alone = collect_results([two.folder.path], pictures=False).ranking
    merged = collect_results([two.folder.path, copy], pictures=False)
    assert merged.ranking["repeats"].tolist() == [3, 3]
    pd.testing.assert_frame_equal(merged.ranking, alone)
    assert sum("found twice" in problem for problem in merged.problems) == 6
    steps = pd.read_parquet(merged.report / "steps.parquet")
    assert not steps.duplicated(["run_id", "step"]).any() and len(steps) > 100


def test_two_schema_versions_in_one_sweep_are_ranked_together(
    two: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of an older version are upgraded silently; one of the future costs its repeat and is named."""

    def stored_as(version: int, name: str, repeat: int) -> Path:
        file = two.folder.run(name, repeat).events(1, 0)
        text = file.read_text()
        file.write_text(text.replace(f'"schema":{SCHEMA}', f'"schema":{version}'))
        return file

    before = collect_results([two.folder.path], pictures=False).ranking
    for repeat in range(3):
        stored_as(SCHEMA - 1, "single_gpu", repeat)
    monkeypatch.setitem(record_reader.UPGRADES, SCHEMA - 1, lambda line: line)
    collected = collect_results([two.folder.path], pictures=False)
    pd.testing.assert_frame_equal(collected.ranking, before)
    assert collected.problems == []
    file = stored_as(SCHEMA + 1, "ddp_gloo", 2)
    collected = collect_results([two.folder.path], pictures=False)
    assert collected.ranking.set_index("experiment")["repeats"].to_dict() == {"single_gpu": 3, "ddp_gloo": 2}
    (problem,) = collected.problems
    assert f"{file}:1" in problem and f"schema {SCHEMA + 1}" in problem and "Update hpcbench" in problem

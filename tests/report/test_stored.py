"""The report of a stored results folder: what an earlier version made of it, and extensions end to end.

`stored/` holds records and the `ranking.csv` that the version before the registry of figures made of them.
"""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Drawing
from rich.console import Console

from hpcbench.analysis.figure_registry import FIGURES, RANKING_CSV, Figure
from hpcbench.analysis.run_figures import Observation
from hpcbench.audit import rule_table
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import AuditedRow
from hpcbench.cli.ranking_output import print_ranking
from hpcbench.report.collection import CollectedReport, collect_results
from hpcbench.report.page.page_table import page_table_heads, used_page_columns
from hpcbench.report.plots.pictures import CAPTIONS, PICTURES, Picture
from hpcbench.report.report_document import generated_tables, with_generated_tables
from hpcbench.report.report_sentences import MEASURE_NAMES
from hpcbench.report.scenes import Scene
from hpcbench.report.table_cells import COLUMN_TITLES, METRIC_TITLES, columns_with_content
from hpcbench.report.translations import ENGLISH

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "stored"
ROW = "collective_bucketed"


def collect(tmp_path: Path, *, pictures: bool = False) -> CollectedReport:
    """Return the report of a copy of the stored results."""
    results = tmp_path / "stored"
    shutil.copytree(STORED, results, ignore=shutil.ignore_patterns("ranking.csv"))
    return collect_results([results], pictures=pictures)


def test_the_ranking_of_stored_records_stays_the_same(tmp_path: Path) -> None:
    """The columns that the earlier version wrote are the first ones, in its order, byte for byte."""
    stored = (STORED / "ranking.csv").read_text()
    lines = list(csv.reader((collect(tmp_path).report / "ranking.csv").open(newline="")))
    written = io.StringIO()
    width = len(stored.partition("\n")[0].split(","))
    csv.writer(written, lineterminator="\n").writerows(line[:width] for line in lines)
    assert written.getvalue() == stored
    assert stored.partition("\n")[0] == ",".join(RANKING_CSV[:width])


def test_the_registry_of_figures_is_complete() -> None:
    """Every column of the ranking has an entry; those that are shown have a title and a meaning."""
    assert set(RANKING_CSV) <= FIGURES.keys()
    shown = {key for key, figure in FIGURES.items() if figure.page or figure.priority is not None}
    assert all(FIGURES[key].meaning for key in shown | set(RANKING_CSV))
    ranking = {key for key, figure in FIGURES.items() if figure.better}
    by_epoch = {key for key, figure in FIGURES.items() if figure.by_epoch}
    assert COLUMN_TITLES.keys() == shown
    assert MEASURE_NAMES.keys() == ranking
    assert by_epoch <= METRIC_TITLES.keys()
    assert all(picture.caption for picture in PICTURES.values())


def test_the_page_about_reports_is_what_the_registries_say() -> None:
    """Tables of docs/report.md are written from figures and pictures; a change has to be written again."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert with_generated_tables(page) == page


def test_a_new_figure_is_shown_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry and a title put a figure into Markdown, terminal, page, statistics.csv and documentation."""
    figure = Figure(
        key="counted_wall_s", digits="sig3", over="mean", priority=1, page="shown", statistics=True,
        meaning="a figure of this test",
    )  # fmt: skip
    monkeypatch.setitem(FIGURES, figure.key, figure)
    monkeypatch.setitem(COLUMN_TITLES, figure.key, "counted s of {unit}")
    report = collect(tmp_path).report
    with (report / "statistics.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["experiment"] == ROW)
    assert float(row[figure.key]) > 0
    assert "counted s of img" in (report / "report.md").read_text()
    assert 'title="counted_wall_s"' in (report / "report.html").read_text()
    assert f"| `{figure.key}` | a figure of this test |" in generated_tables()["further columns"]
    assert ",".join(RANKING_CSV) == (report / "ranking.csv").read_text().partition("\n")[0]


def test_a_new_figure_of_a_row_is_a_column_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for people has the column of a figure where a row has the figure, with its digits."""
    row = {
        "rank": 1, "rank_high": 1, "experiment": "a", "class": "c", "dataset": "digits", "trusted": "yes",
        "throughput_samples_s": 5.0, "throughput_ci_high": None, "findings": "", "dummy_pct": 12.345,
    }  # fmt: skip
    monkeypatch.setitem(
        FIGURES, "dummy_pct", Figure(key="dummy_pct", digits="fix1", priority=0, page="shown")
    )
    monkeypatch.setitem(COLUMN_TITLES, "dummy_pct", "dummy %")
    console = Console(width=200, record=True, file=io.StringIO())
    print_ranking([row], console)
    printed = console.export_text()
    assert "dummy %" in printed
    assert "12.3" in printed
    assert [figure.key for figure in columns_with_content([row])][-1] == "dummy_pct"
    columns = used_page_columns([row], several_classes=False)
    assert page_table_heads(columns, [row], ENGLISH)[-1]["title"] == "dummy %"
    assert "dummy_pct" not in {figure.key for figure in columns_with_content([{**row, "dummy_pct": None}])}


def _draw_dummy(scene: Scene) -> Drawing:
    drawing = Drawing()
    drawing.add_subplot().plot([row["throughput_samples_s"] for row in scene.rows])
    return drawing


def test_a_new_picture_is_drawn_linked_and_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry and a caption put a picture into the folder, report.md and the documentation."""
    for name in list(PICTURES):
        monkeypatch.delitem(PICTURES, name)
    monkeypatch.setitem(
        PICTURES, "dummy", Picture("dummy", "Dummy picture", _draw_dummy, "a picture of this test")
    )
    monkeypatch.setitem(CAPTIONS, "dummy", "Dummy picture")
    report = collect(tmp_path, pictures=True).report
    assert (report / "plots" / "strategies.dummy.png").stat().st_size > 0
    assert "[![Dummy picture: " in (report / "report.md").read_text()
    assert "| `*.dummy` | a picture of this test |" in generated_tables()["pictures"]


def _judge_dummy(row: AuditedRow) -> Observation | None:
    if row.experiment != ROW:
        return None
    return Observation(message="the row of this test", figures={"answer": 42})


def test_a_new_rule_reports_findings_and_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rule in the table of rules is a finding in findings.csv, a mark in the ranking and a section."""
    rule = AuditRule(
        code="dummy-rule", severity=Severity.WARNING, scope=FindingScope.RUN, what="A rule of this test.",
        when="Always, for one row.", advice="Nothing.", of_row=_judge_dummy,
    )  # fmt: skip
    monkeypatch.setitem(rule_table.RULES_BY_TOPIC, "Dummies", (rule,))
    rule_table.ALL_RULES.append(rule)  # in place: other modules hold the same list
    try:
        report = collect(tmp_path).report
    finally:
        rule_table.ALL_RULES.remove(rule)
    with (report / "findings.csv").open(newline="") as file:
        found = [finding for finding in csv.DictReader(file) if finding["code"] == rule.code]
    assert [(finding["rows"], finding["message"]) for finding in found] == [(ROW, "the row of this test")]
    with (report / "ranking.csv").open(newline="") as file:
        marked = [row["experiment"] for row in csv.DictReader(file) if rule.code in row["findings"].split()]
    assert marked == [ROW]
    assert "### dummy-rule" in rule_table.rules_document()

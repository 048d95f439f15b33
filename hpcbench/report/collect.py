"""`hpcbench collect`: from the records of results folders to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hpcbench.analysis.digest_reading import garbage_collection_off
from hpcbench.analysis.limit_analysis import compare_with_predictions
from hpcbench.analysis.ranking import check_rank_by, values_by_block
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults, load_results, require_results_folder
from hpcbench.analysis.run_history import RecordedState
from hpcbench.audit.audit_findings import Finding
from hpcbench.audit.evidence import collect_evidence
from hpcbench.audit.judge import rank_audited
from hpcbench.errors import InputError, input_error
from hpcbench.report.draw import draw_all, remove_others
from hpcbench.report.extras import with_extras
from hpcbench.report.files import replace_file, report_folder
from hpcbench.report.findings import findings_csv, findings_markdown
from hpcbench.report.groups import read_groups
from hpcbench.report.html.page import Content, html_page
from hpcbench.report.languages import words
from hpcbench.report.limits import MODEL_BLOCKS, limit_tables, limits_csv
from hpcbench.report.page import Pictures, Report, incomplete, report_page
from hpcbench.report.plots.scene import scenes
from hpcbench.report.statistics import statistics_csv, statistics_of
from hpcbench.report.steps import keep, known
from hpcbench.report.studies import study_tables
from hpcbench.report.tables import to_csv, to_markdown
from hpcbench.report.words import Words
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import Group


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What `collect` found and wrote.

    `report` is the folder. `failed` counts repeats that failed or can't be read; running out of memory is
    a result and does not count. `problems` are sentences about records that were left out or are broken,
    `findings` what the audit says.
    """

    report: Path
    ranking: pd.DataFrame
    failed: int
    problems: list[str]
    findings: list[Finding]


def collect(
    folders: Sequence[Path], *, rank_by: str = "throughput_samples_s", lang: str = "en",
    target_pct: float | None = None, cost_per_device_hour: float | None = None, pictures: bool = True,
) -> Collected:  # fmt: skip
    """Merge the records of results folders into the report of the last one. Safe while jobs run.

    Raises InputError for a folder that holds no results, a column that can't rank, a language that is not
    spoken, or a report that can't be written.
    """
    if not folders:
        raise input_error("no results folder to collect", allowed="one or more of results/<sweep>")
    check_rank_by(rank_by)
    spoken = words(lang)
    sources = [require_results_folder(path) for path in folders]
    with report_folder(sources[-1].report) as report, garbage_collection_off():
        loaded = load_results(folders, blocks=MODEL_BLOCKS, cache=known(report))
        reached = compare_with_predictions(loaded)
        problems = list(loaded.problems)
        groups = _groups(sources, problems)
        binding = {name: each.limit.value for name, each in reached.items() if each.limit}
        ranking, findings = rank_audited(
            loaded.runs, collect_evidence(loaded, groups), rank_by=rank_by, limits=binding
        )
        rows = with_extras(
            plain_rows(ranking.frame), loaded, target_pct=target_pct,
            cost_per_device_hour=cost_per_device_hour, standings=reached,
        )  # fmt: skip
        found = scenes(loaded, rows, groups, spoken, reached, with_steps=pictures)
        sweeps = ", ".join(dict.fromkeys(source.path.resolve().name for source in sources))
        plots = report / "plots"
        drawn = (
            draw_all(plots, found, rows, sweeps, spoken, problems) if pictures else remove_others(plots, [])
        )
        _write_frames(report, loaded)
        values = values_by_block(loaded.runs, rank_by)
        content = Content(
            loaded=loaded, ranking=ranking, rows=rows, scenes=found, findings=findings, problems=problems,
            incomplete=incomplete(loaded.runs, spoken), studies=study_tables(rows, loaded, spoken),
            limits=limit_tables(reached, loaded.ceilings, rows, spoken),
            statistics=[each for scene in found if (each := statistics_of(scene, values, rank_by))],
        )  # fmt: skip
        if reached:
            write_atomically(report / "ceilings.csv", limits_csv(reached))
        _write_texts(report, content, drawn, spoken)
    return Collected(
        report=report,
        ranking=ranking.frame,
        failed=_failed(loaded.runs),
        problems=problems,
        findings=findings,
    )


def _write_texts(report: Path, content: Content, drawn: list[Pictures], spoken: Words) -> None:
    """Write what people read, and the tables for programs; `ranking.csv` last."""
    frame = content.ranking.frame
    listed = findings_markdown(content.findings, spoken)
    page = Report(
        ranking=content.ranking, runs=content.loaded.runs, rows=content.rows, findings=listed,
        statistics=content.statistics, studies=content.studies, limits=content.limits, pictures=drawn,
        problems=content.problems,
    )  # fmt: skip
    write_atomically(report / "report.md", report_page(page, spoken))
    write_atomically(report / "ranking.md", f"{to_markdown(frame, spoken)}\n{listed}")
    write_atomically(report / "findings.csv", findings_csv(content.findings))
    write_atomically(report / "statistics.csv", statistics_csv(content.statistics))
    write_atomically(report / "report.html", html_page(content, spoken))
    # Last: whoever finds a ranking that is newer than the records finds a whole report.
    write_atomically(report / "ranking.csv", to_csv(frame))


def _failed(runs: pd.DataFrame) -> int:
    broken = (
        runs["state"].isin([RecordedState.FAILED.value, RecordedState.UNREADABLE.value])
        & runs["limit"].isna()
    )
    return int(broken.sum())


def _groups(folders: Sequence[ResultsFolder], problems: list[str]) -> list[Group]:
    groups: list[Group] = []
    for folder in folders:
        try:
            groups += read_groups(folder.sweep)
        except InputError as error:
            problems.append(str(error))  # pictures of groups are missing then; the ranking needs none
    return groups


def _write_frames(report: Path, loaded: LoadedResults) -> None:
    replace_file(report / "runs.parquet", lambda path: loaded.runs.to_parquet(path, index=False))
    replace_file(report / "epochs.parquet", lambda path: loaded.epochs.to_parquet(path, index=False))
    keep(report, loaded)

"""Writes the report of results folders: reads and judges their records, then writes every table, picture
and page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hpcbench.analysis.derived_columns import add_derived_columns
from hpcbench.analysis.digest_reading import garbage_collection_off
from hpcbench.analysis.limit_analysis import compare_with_predictions
from hpcbench.analysis.ranking import check_rank_by, values_by_block
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults, load_results, read_groups
from hpcbench.analysis.run_history import RecordedState
from hpcbench.audit.audit_findings import Finding
from hpcbench.audit.evidence import collect_evidence
from hpcbench.audit.judge import rank_audited
from hpcbench.audit.rule_table import RUN_CHECKS
from hpcbench.catalog import MODEL_BLOCKS
from hpcbench.errors import InputError, input_error
from hpcbench.report.findings_report import findings_csv, findings_markdown
from hpcbench.report.limit_tables import limit_tables, limits_csv
from hpcbench.report.markdown_report import (
    MarkdownReport,
    incomplete_repeat_lines,
    markdown_report,
    ranking_csv,
    ranking_markdown,
)
from hpcbench.report.page.html_page import PageContent, html_page
from hpcbench.report.plots.pictures import ScenePictures, draw_all_pictures, remove_old_pictures
from hpcbench.report.report_files import read_digest_cache, replace_file, report_folder, write_step_parts
from hpcbench.report.scenes import build_scenes
from hpcbench.report.statistics_tables import scene_statistics, statistics_csv
from hpcbench.report.study_tables import study_tables
from hpcbench.report.translations import Language, language_of
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import ResultsFolder, open_results_folder
from hpcbench.sweep.run_spec import Group


@dataclass(frozen=True, kw_only=True)
class CollectedReport:
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


def collect_results(
    folders: Sequence[Path], *, rank_by: str = "throughput_samples_s", lang: str = "en",
    target_pct: float | None = None, cost_per_device_hour: float | None = None, pictures: bool = True,
) -> CollectedReport:  # fmt: skip
    """Merge the records of results folders into the report of the last one. Safe while jobs run.

    Raises InputError for a folder that holds no results, a column that can't rank, a language that is not
    language, or a report that can't be written.
    """
    if not folders:
        raise input_error("no results folder to collect", allowed="one or more of results/<sweep>")
    check_rank_by(rank_by)
    language = language_of(lang)
    sources = [open_results_folder(path) for path in folders]
    with report_folder(sources[-1].report) as report, garbage_collection_off():
        loaded = load_results(
            folders, blocks=MODEL_BLOCKS, cache=read_digest_cache(report), checks=RUN_CHECKS
        )
        reached = compare_with_predictions(loaded)
        problems = list(loaded.problems)
        groups = _readable_groups(sources, problems)
        binding = {name: each.limit.value for name, each in reached.items() if each.limit}
        ranking, findings = rank_audited(
            loaded.runs, collect_evidence(loaded, groups), rank_by=rank_by, limits=binding
        )
        rows = add_derived_columns(
            plain_rows(ranking.frame), loaded, target_pct=target_pct,
            cost_per_device_hour=cost_per_device_hour, standings=reached,
        )  # fmt: skip
        found = build_scenes(loaded, rows, groups, language, reached, with_steps=pictures)
        sweeps = ", ".join(dict.fromkeys(source.path.resolve().name for source in sources))
        plots = report / "plots"
        drawn = (
            draw_all_pictures(plots, found, rows, sweeps, language, problems)
            if pictures
            else remove_old_pictures(plots, [])
        )
        _write_frames(report, loaded)
        values = values_by_block(loaded.runs, rank_by)
        content = PageContent(
            loaded=loaded, ranking=ranking, rows=rows, scenes=found, findings=findings, problems=problems,
            incomplete=incomplete_repeat_lines(loaded.runs, language),
            studies=study_tables(rows, loaded, language),
            limits=limit_tables(reached, loaded.ceilings, rows, language),
            statistics=[each for scene in found if (each := scene_statistics(scene, values, rank_by))],
        )  # fmt: skip
        if reached:
            write_atomically(report / "ceilings.csv", limits_csv(reached))
        _write_texts(report, content, drawn, language)
    return CollectedReport(
        report=report,
        ranking=ranking.frame,
        failed=_count_failed(loaded.runs),
        problems=problems,
        findings=findings,
    )


def _write_texts(report: Path, content: PageContent, drawn: list[ScenePictures], language: Language) -> None:
    """Write what people read, and the tables for programs; `ranking.csv` last."""
    frame = content.ranking.frame
    listed = findings_markdown(content.findings, language)
    page = MarkdownReport(
        ranking=content.ranking, runs=content.loaded.runs, rows=content.rows, findings=listed,
        statistics=content.statistics, studies=content.studies, limits=content.limits, pictures=drawn,
        problems=content.problems,
    )  # fmt: skip
    write_atomically(report / "report.md", markdown_report(page, language))
    write_atomically(report / "ranking.md", f"{ranking_markdown(frame, language)}\n{listed}")
    write_atomically(report / "findings.csv", findings_csv(content.findings))
    write_atomically(report / "statistics.csv", statistics_csv(content.statistics))
    write_atomically(report / "report.html", html_page(content, language))
    # Last: whoever finds a ranking that is newer than the records finds a whole report.
    write_atomically(report / "ranking.csv", ranking_csv(frame))


def _count_failed(runs: pd.DataFrame) -> int:
    broken = (
        runs["state"].isin([RecordedState.FAILED.value, RecordedState.UNREADABLE.value])
        & runs["limit"].isna()
    )
    return int(broken.sum())


def _readable_groups(folders: Sequence[ResultsFolder], problems: list[str]) -> list[Group]:
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
    write_step_parts(report, loaded)

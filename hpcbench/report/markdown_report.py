"""`report.md`, and the ranking as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.limit_tables import LIMITS_NOTE
from hpcbench.report.plots.pictures import CAPTIONS, ScenePictures
from hpcbench.report.report_sentences import class_conclusion, methods_paragraph
from hpcbench.report.statistics_tables import STATISTICS_NOTE, SceneStatistics, statistics_table
from hpcbench.report.study_tables import PUBLISHED_NOTE, ReportTable
from hpcbench.report.table_cells import (
    RANKING_NOTE,
    STATE_NAMES,
    cell_text,
    columns_with_content,
    escape_markdown,
    figure_title,
    rows_by_class,
    sample_unit,
)
from hpcbench.report.translations import ENGLISH, Language


@dataclass(frozen=True, kw_only=True)
class MarkdownReport:
    """What `report.md` says, in the order in which it does."""

    ranking: Ranking
    runs: pd.DataFrame
    rows: Sequence[ReportRow]
    findings: str  # a section, or nothing
    statistics: Sequence[SceneStatistics]
    studies: Sequence[ReportTable]
    limits: Sequence[ReportTable]
    pictures: Sequence[ScenePictures]
    problems: Sequence[str]


def markdown_report(report: MarkdownReport, language: Language) -> str:
    """Return the report in Markdown."""
    sweeps = ", ".join(sorted(set(report.runs["sweep"]))) or "–"
    classes = rows_by_class(list(report.rows))
    parts = [f"# {escape_markdown(language.text('Report: {sweeps}', sweeps=sweeps))}"]
    parts += [_class_part(label, rows, report.ranking, language) for label, rows in classes.items()]
    parts.append(language.text(RANKING_NOTE) if classes else language.text("No run has written records yet."))
    parts += [report.findings.rstrip()] if report.findings else []
    parts += _list_part(language.text("Not finished"), incomplete_repeat_lines(report.runs, language))
    parts += _list_part(language.text("Problems with the records"), report.problems)
    parts += _limit_parts(report.limits, language)
    parts += _statistics_parts(report.statistics, language)
    parts += _study_parts(report.studies, language)
    parts += _picture_parts(report.pictures, language)
    if classes:
        parts.append(
            f"## {language.text('Methods')}\n\n"
            + escape_markdown(methods_paragraph(report.ranking, report.runs, language))
        )
    return "\n\n".join(parts) + "\n"


def _limit_parts(tables: Sequence[ReportTable], language: Language) -> list[str]:
    if not tables:
        return []
    return [
        f"## {language.text('Limits')}\n\n{language.text(LIMITS_NOTE)}",
        *map(_markdown_of, tables),
    ]


def _statistics_parts(found: Sequence[SceneStatistics], language: Language) -> list[str]:
    if not found:
        return []
    tables = [_markdown_of(statistics_table(each, language)) for each in found]
    return [
        f"## {language.text('Statistics')}\n\n{language.text(STATISTICS_NOTE)}",
        *tables,
    ]


def _study_parts(tables: Sequence[ReportTable], language: Language) -> list[str]:
    if not tables:
        return []
    note = language.text(PUBLISHED_NOTE)
    shown = (
        [note] if any(language.text("published") in head for each in tables for head in each.heads) else []
    )
    return [f"## {language.text('In the formats of the studies')}", *shown, *map(_markdown_of, tables)]


def _markdown_of(table: ReportTable) -> str:
    lines = [table.heads, (":---", *["---:"] * (len(table.heads) - 1)), *table.rows]
    first, second, *rest = (" | ".join(each) for each in (map(escape_markdown, line) for line in lines))
    text = "\n".join(f"| {line} |" for line in (first, second.replace("\\", ""), *rest))
    return f"### {escape_markdown(table.title)}\n\n{text}"


def _class_part(label: str | None, rows: list[ReportRow], ranking: Ranking, language: Language) -> str:
    sentence = class_conclusion(rows, ranking.pairs[str(label)], ranking.rank_by, language)
    table = class_table_markdown(rows, language).rstrip()
    title = label or language.text("unreadable")
    return _headed(title, f"**{escape_markdown(sentence)}**\n\n{table}")


def incomplete_repeat_lines(runs: pd.DataFrame, language: Language) -> list[str]:
    """Return a line for each repeat that has not finished."""
    rest = runs[runs["state"] != RecordedState.FINISHED.value]
    return [
        language.text(
            "{run}: {state}{reason}",
            run=f"{row['experiment']}/r{row['repeat']}",
            state=language.text(STATE_NAMES[row["state"]]) + (f" ({row['limit']})" if row["limit"] else ""),
            reason="" if row["reason"] is None else f"{language.colon}{row['reason']}",
        )
        for row in plain_rows(rest)
    ]


def _list_part(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {escape_markdown(line)}" for line in lines)] if lines else []


def _picture_parts(pictures: Sequence[ScenePictures], language: Language) -> list[str]:
    parts: list[str] = []
    for each in pictures:
        if each.files:
            parts.append(f"## {language.text('Pictures')}: {escape_markdown(each.title)}")
        for picture, file in each.files.items():
            caption = language.text(CAPTIONS[picture])
            parts.append(f"[![{caption}: {escape_markdown(each.title)}]({file}.png)]({file}.svg)")
    missing = [
        language.text(
            "{scene}: {pictures}",
            pictures=language.comma.join(language.text(CAPTIONS[picture]) for picture in each.left_out),
            scene=each.title,
        )
        for each in pictures
        if each.left_out
    ]
    return parts + _list_part(language.text("Pictures omitted for lack of data"), missing)


def ranking_csv(frame: pd.DataFrame) -> str:
    """Return the ranking as CSV: what is unknown is empty, numbers are not rounded."""
    return frame.to_csv(index=False, lineterminator="\n")


def ranking_markdown(frame: pd.DataFrame, language: Language = ENGLISH) -> str:
    """Return the ranking as Markdown, one table a class."""
    sections = [
        _headed(label or language.text("unreadable"), class_table_markdown(members, language))
        for label, members in rows_by_class(plain_rows(frame)).items()
    ]
    return "\n".join(
        [
            f"# {language.text('Ranking')}\n",
            *(sections or [f"{language.text('No run has written records yet.')}\n"]),
            language.text(
                "A range of ranks is a tie: no difference inside it is supported (docs/report.md)."
            ),
            "",
        ]
    )


def _headed(title: str, text: str) -> str:
    return f"## {escape_markdown(title)}\n\n{text}"


def class_table_markdown(rows: list[ReportRow], language: Language) -> str:
    """Return the rows of one class as a table."""
    columns = columns_with_content(rows)
    unit = sample_unit(rows)
    lines = [
        [figure_title(column, language, unit) for column in columns],
        [":---" if column.left else "---:" for column in columns],
        *([escape_markdown(cell_text(column, row)) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

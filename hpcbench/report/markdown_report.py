"""`report.md`, and the ranking as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.plots.pictures import ScenePictures
from hpcbench.report.report_sentences import class_conclusion, methods_paragraph
from hpcbench.report.statistics_tables import SceneStatistics, statistics_table
from hpcbench.report.study_tables import ReportTable
from hpcbench.report.table_cells import (
    cell_text,
    columns_with_content,
    escape_markdown,
    figure_title,
    rows_by_class,
    sample_unit,
)
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH


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


def markdown_report(report: MarkdownReport, words: Words) -> str:
    """Return the report in Markdown."""
    sweeps = ", ".join(sorted(set(report.runs["sweep"]))) or "–"
    classes = rows_by_class(list(report.rows))
    parts = [f"# {escape_markdown(words.title.format(sweeps=sweeps))}"]
    parts += [_class_part(label, rows, report.ranking, words) for label, rows in classes.items()]
    parts.append(words.notes if classes else words.nothing)
    parts += [report.findings.rstrip()] if report.findings else []
    parts += _list_part(words.incomplete, incomplete_repeat_lines(report.runs, words))
    parts += _list_part(words.problems, report.problems)
    parts += _limit_parts(report.limits, words)
    parts += _statistics_parts(report.statistics, words)
    parts += _study_parts(report.studies, words)
    parts += _picture_parts(report.pictures, words)
    if classes:
        parts.append(
            f"## {words.page['methods']}\n\n"
            + escape_markdown(methods_paragraph(report.ranking, report.runs, words))
        )
    return "\n\n".join(parts) + "\n"


def _limit_parts(tables: Sequence[ReportTable], words: Words) -> list[str]:
    if not tables:
        return []
    return [f"## {words.limits['title']}\n\n{words.limits['note']}", *map(_markdown_of, tables)]


def _statistics_parts(found: Sequence[SceneStatistics], words: Words) -> list[str]:
    if not found:
        return []
    tables = [_markdown_of(statistics_table(each, words)) for each in found]
    return [f"## {words.tables['statistics']}\n\n{words.tables['statistics_note']}", *tables]


def _study_parts(tables: Sequence[ReportTable], words: Words) -> list[str]:
    if not tables:
        return []
    note = words.tables["published_note"]
    shown = [note] if any(words.tables["published"] in head for each in tables for head in each.heads) else []
    return [f"## {words.tables['studies']}", *shown, *map(_markdown_of, tables)]


def _markdown_of(table: ReportTable) -> str:
    lines = [table.heads, (":---", *["---:"] * (len(table.heads) - 1)), *table.rows]
    first, second, *rest = (" | ".join(each) for each in (map(escape_markdown, line) for line in lines))
    text = "\n".join(f"| {line} |" for line in (first, second.replace("\\", ""), *rest))
    return f"### {escape_markdown(table.title)}\n\n{text}"


def _class_part(label: str | None, rows: list[ReportRow], ranking: Ranking, words: Words) -> str:
    sentence = class_conclusion(rows, ranking.pairs[str(label)], ranking.rank_by, words)
    table = class_table_markdown(rows, words).rstrip()
    return f"## {escape_markdown(label or words.unreadable)}\n\n**{escape_markdown(sentence)}**\n\n{table}"


def incomplete_repeat_lines(runs: pd.DataFrame, words: Words) -> list[str]:
    """Return a line for each repeat that has not finished."""
    rest = runs[runs["state"] != RecordedState.FINISHED.value]
    return [
        words.incomplete_line.format(
            run=f"{row['experiment']}/r{row['repeat']}",
            state=words.states[row["state"]] + (f" ({row['limit']})" if row["limit"] else ""),
            reason="" if row["reason"] is None else f"{words.colon}{row['reason']}",
        )
        for row in plain_rows(rest)
    ]


def _list_part(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {escape_markdown(line)}" for line in lines)] if lines else []


def _picture_parts(pictures: Sequence[ScenePictures], words: Words) -> list[str]:
    parts: list[str] = []
    for each in pictures:
        if each.files:
            parts.append(f"## {words.pictures}: {escape_markdown(each.title)}")
        for picture, file in each.files.items():
            caption = words.captions[picture]
            parts.append(f"[![{caption}: {escape_markdown(each.title)}]({file}.png)]({file}.svg)")
    missing = [
        words.left_out_line.format(
            pictures=words.joiner.join(words.captions[picture] for picture in each.left_out), scene=each.title
        )
        for each in pictures
        if each.left_out
    ]
    return parts + _list_part(words.left_out, missing)


def ranking_csv(frame: pd.DataFrame) -> str:
    """Return the ranking as CSV: what is unknown is empty, numbers are not rounded."""
    return frame.to_csv(index=False, lineterminator="\n")


def ranking_markdown(frame: pd.DataFrame, words: Words = ENGLISH) -> str:
    """Return the ranking as Markdown, one table a class."""
    sections = [
        f"## {escape_markdown(label or words.unreadable)}\n\n{class_table_markdown(members, words)}"
        for label, members in rows_by_class(plain_rows(frame)).items()
    ]
    return "\n".join([f"# {words.ranking}\n", *(sections or [f"{words.nothing}\n"]), words.ties, ""])


def class_table_markdown(rows: list[ReportRow], words: Words) -> str:
    """Return the rows of one class as a table."""
    columns = columns_with_content(rows)
    unit = sample_unit(rows)
    lines = [
        [figure_title(column, words, unit) for column in columns],
        [":---" if column.left else "---:" for column in columns],
        *([escape_markdown(cell_text(column, row)) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

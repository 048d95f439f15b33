"""`report.md`: the verdict, the table, what went wrong, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.cells import Row, by_class
from hpcbench.report.methods import methods
from hpcbench.report.statistics import Statistics, statistics_table
from hpcbench.report.studies import StudyTable
from hpcbench.report.tables import markdown_table
from hpcbench.report.text import escape
from hpcbench.report.verdict import verdict
from hpcbench.report.words import Words


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of one class or group; `files` are relative to the report, without their endings."""

    title: str
    files: dict[str, str] = field(default_factory=dict)  # picture -> file
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `report.md` says, in the order in which it does."""

    ranking: Ranking
    runs: pd.DataFrame
    rows: Sequence[Row]
    findings: str  # a section, or nothing
    statistics: Sequence[Statistics]
    studies: Sequence[StudyTable]
    limits: Sequence[StudyTable]
    pictures: Sequence[Pictures]
    problems: Sequence[str]


def report_page(report: Report, words: Words) -> str:
    """Return the report in Markdown."""
    sweeps = ", ".join(sorted(set(report.runs["sweep"]))) or "–"
    classes = by_class(list(report.rows))
    parts = [f"# {escape(words.title.format(sweeps=sweeps))}"]
    parts += [_class_part(label, rows, report.ranking, words) for label, rows in classes.items()]
    parts.append(words.notes if classes else words.nothing)
    parts += [report.findings.rstrip()] if report.findings else []
    parts += _list_part(words.incomplete, incomplete(report.runs, words))
    parts += _list_part(words.problems, report.problems)
    parts += _limit_parts(report.limits, words)
    parts += _statistics_parts(report.statistics, words)
    parts += _study_parts(report.studies, words)
    parts += _picture_parts(report.pictures, words)
    if classes:
        parts.append(f"## {words.page['methods']}\n\n{escape(methods(report.ranking, report.runs, words))}")
    return "\n\n".join(parts) + "\n"


def _limit_parts(tables: Sequence[StudyTable], words: Words) -> list[str]:
    if not tables:
        return []
    return [f"## {words.limits['title']}\n\n{words.limits['note']}", *map(_plain_table, tables)]


def _statistics_parts(found: Sequence[Statistics], words: Words) -> list[str]:
    if not found:
        return []
    tables = [_plain_table(statistics_table(each, words)) for each in found]
    return [f"## {words.tables['statistics']}\n\n{words.tables['statistics_note']}", *tables]


def _study_parts(tables: Sequence[StudyTable], words: Words) -> list[str]:
    if not tables:
        return []
    note = words.tables["published_note"]
    shown = [note] if any(words.tables["published"] in head for each in tables for head in each.heads) else []
    return [f"## {words.tables['studies']}", *shown, *map(_plain_table, tables)]


def _plain_table(table: StudyTable) -> str:
    lines = [table.heads, (":---", *["---:"] * (len(table.heads) - 1)), *table.rows]
    first, second, *rest = (" | ".join(each) for each in (map(escape, line) for line in lines))
    text = "\n".join(f"| {line} |" for line in (first, second.replace("\\", ""), *rest))
    return f"### {escape(table.title)}\n\n{text}"


def _class_part(label: str | None, rows: list[Row], ranking: Ranking, words: Words) -> str:
    sentence = verdict(rows, ranking.pairs[str(label)], ranking.rank_by, words)
    table = markdown_table(rows, words).rstrip()
    return f"## {escape(label or words.unreadable)}\n\n**{escape(sentence)}**\n\n{table}"


def incomplete(runs: pd.DataFrame, words: Words) -> list[str]:
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
    return [f"## {title}", "\n".join(f"- {escape(line)}" for line in lines)] if lines else []


def _picture_parts(pictures: Sequence[Pictures], words: Words) -> list[str]:
    parts: list[str] = []
    for each in pictures:
        if each.files:
            parts.append(f"## {words.pictures}: {escape(each.title)}")
        for picture, file in each.files.items():
            caption = words.captions[picture]
            parts.append(f"[![{caption}: {escape(each.title)}]({file}.png)]({file}.svg)")
    missing = [
        words.left_out_line.format(
            pictures=words.joiner.join(words.captions[picture] for picture in each.left_out), scene=each.title
        )
        for each in pictures
        if each.left_out
    ]
    return parts + _list_part(words.left_out, missing)

"""`report.md`: the verdict, the table, what went wrong, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from hpcbench.analysis.history import State
from hpcbench.analysis.ranking import Ranking
from hpcbench.report.cells import Row, by_class, rows_of
from hpcbench.report.tables import UNREADABLE_CLASS, escape, markdown_table
from hpcbench.report.verdict import verdict
from hpcbench.report.words import Words


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of one class or group; `files` are relative to the report, without their endings."""

    title: str
    files: dict[str, str] = field(default_factory=dict)  # picture -> file
    left_out: list[str] = field(default_factory=list)


def report_page(
    ranking: Ranking, runs: pd.DataFrame, pictures: Sequence[Pictures], problems: Sequence[str], words: Words
) -> str:
    """Return the report in Markdown."""
    sweeps = ", ".join(sorted(set(runs["sweep"]))) or "–"
    classes = by_class(rows_of(ranking.frame))
    parts = [f"# {escape(words.title.format(sweeps=sweeps))}"]
    parts += [_class_part(label, rows, ranking, words) for label, rows in classes.items()]
    parts.append(words.notes if classes else words.nothing)
    parts += _list_part(words.incomplete, _incomplete(runs, words))
    parts += _list_part(words.problems, problems)
    parts += _picture_parts(pictures, words)
    return "\n\n".join(parts) + "\n"


def _class_part(label: str | None, rows: list[Row], ranking: Ranking, words: Words) -> str:
    sentence = verdict(rows, ranking.pairs[str(label)], ranking.rank_by, words)
    return (
        f"## {escape(label or UNREADABLE_CLASS)}\n\n**{escape(sentence)}**\n\n{markdown_table(rows).rstrip()}"
    )


def _incomplete(runs: pd.DataFrame, words: Words) -> list[str]:
    rest = runs[runs["state"] != State.FINISHED.value]
    return [
        words.incomplete_line.format(
            run=f"{row['experiment']}/r{row['repeat']}",
            state=row["state"] if row["limit"] is None else f"{row['state']} ({row['limit']})",
            reason="" if row["reason"] is None else f": {row['reason']}",
        )
        for row in rows_of(rest)
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

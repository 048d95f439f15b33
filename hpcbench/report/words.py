"""What a report says, in any language: the type of a language's texts.

Keys of columns are those of `ranking.csv`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Words:
    """The sentences of a report; what stands in braces is filled in."""

    html_lang: str
    title: str
    nothing: str
    nothing_ranked: str
    only: str
    first: str
    by_factor: str
    supported: str
    tied: str
    too_few: str
    needed: str
    hopeless: str
    interval: str
    single: str
    joiner: str
    last_joiner: str
    stop: str
    colon: str
    sentence_space: str
    ties: str
    all_rows: str  # a finding about no row in particular
    more_columns: str  # of the table on a terminal
    notes: str
    unaudited: str
    ranking: str
    unreadable: str
    incomplete: str
    incomplete_line: str
    problems: str
    pictures: str
    left_out: str
    left_out_line: str
    captions: dict[str, str]  # of pictures
    measures: dict[str, str]  # that can rank
    columns: dict[str, str]  # titles of columns, with {unit}
    states: dict[str, str]
    phases: dict[str, str]  # of the counted time
    life: dict[str, str]  # of a process
    methods: dict[str, str]  # the sentences of the paragraph about methods
    page: dict[str, str]  # of report.html
    labels: dict[str, str]  # axes and legends of pictures and charts
    severities: dict[str, str]
    rules: dict[str, tuple[str, str]]  # of the audit: what is wrong, what to do; empty: as the rules say it
    limits: dict[str, str]  # of ceilings and predictions
    tables: dict[str, str]  # of the tables in the studies' own formats, and of statistics

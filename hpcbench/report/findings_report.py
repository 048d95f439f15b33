"""Findings of the audit as CSV, as Markdown and as entries of the page. Imports no pandas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hpcbench.audit.audit_findings import Finding, FindingScope, Severity
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.report.table_cells import escape_markdown
from hpcbench.report.words import Words

FINDINGS_CSV_COLUMNS = ("severity", "code", "scope", "rows", "message", "advice", "figures")


def findings_csv(findings: Sequence[Finding]) -> str:
    """Return `findings.csv`: one line a finding, worst first, its figures as JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FINDINGS_CSV_COLUMNS)
    for each in findings:
        data = each.to_json()
        data |= {"rows": "".join(each.rows), "figures": json.dumps(data["figures"], ensure_ascii=False)}
        writer.writerow([data[column] for column in FINDINGS_CSV_COLUMNS])
    return text.getvalue()


def read_findings(path: Path) -> list[Finding]:
    """Return the findings of a `findings.csv`; none where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [
        Finding(
            code=line["code"],
            severity=Severity(line["severity"]),
            scope=FindingScope(line["scope"]),
            rows=(line["rows"],) if line["rows"] else (),
            message=line["message"],
            figures=json.loads(line["figures"]),
            advice=line["advice"],
        )
        for line in csv.DictReader(io.StringIO(text))
    ]


def rule_texts(words: Words) -> dict[str, tuple[str, str]]:
    """Return what is wrong and what to do, of each rule, as a language says it."""
    return {rule.code: (rule.what, rule.advice) for rule in ALL_RULES} | words.rules


def findings_markdown(findings: Sequence[Finding], words: Words) -> str:
    """Return findings as a section of a report, worst first; nothing where there are none.

    What was seen stands as the rule states it; in other languages, what is wrong stands before it.
    """
    if not findings:
        return ""
    told = rule_texts(words)
    parts = [f"## {escape_markdown(words.page['findings'])}\n"]
    for (severity, code, advice), group in groupby(findings, lambda f: (f.severity, f.code, f.advice)):
        what, todo = told.get(code, ("", advice))
        sentences = [what, todo] if code in words.rules else [todo]
        lines = [f"- {_row_names(each, words)}{words.colon}{escape_markdown(each.message)}" for each in group]
        head = f"**{words.severities[severity]}{words.colon}{code}{words.stop}**"
        parts.append(
            f"{head} {escape_markdown(words.sentence_space.join(sentences))}\n\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


def _row_names(finding: Finding, words: Words) -> str:
    return escape_markdown(" ".join(finding.rows) or words.all_rows)


OPEN_UP_TO = 12  # findings of a rule that stand open at first
LONGEST_FIGURES_TEXT = 300  # characters


def findings_by_rule(
    findings: Sequence[Finding], anchors: Mapping[str, str], words: Words
) -> list[dict[str, Any]]:
    """Return what the template needs; `anchors` are of the experiments in the ranking."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    told = rule_texts(words)
    return [_rule_entry(code, told, found, anchors) for code, found in by_code.items()]


def _rule_entry(
    code: str, told: Mapping[str, tuple[str, str]], found: list[Finding], anchors: Mapping[str, str]
) -> dict[str, Any]:
    first = found[0]
    what, advice = told.get(code, ("", first.advice))
    return {
        "code": code,
        "anchor": f"finding-{code}",
        "severity": str(first.severity),
        "what": what,
        "advice": advice,
        "open": len(found) <= OPEN_UP_TO,
        "seen": [
            {
                "message": each.message,
                "figures": _figures_text(each.figures),
                "rows": [
                    {"name": row, "anchor": f"row-{anchors[row]}"} for row in each.rows if row in anchors
                ],
            }
            for each in found
        ],
    }


def _figures_text(figures: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} = {_figure_text(value)}" for key, value in figures.items())
    return told if len(told) <= LONGEST_FIGURES_TEXT else f"{told[:LONGEST_FIGURES_TEXT]}…"


def _figure_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

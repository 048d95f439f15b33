"""Findings of the audit as CSV, Markdown and entries of the page. Imports no pandas."""

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
from hpcbench.report.translations import ENGLISH, N_, Language

SEVERITY_NAMES = {
    Severity.ERROR: N_("error"),
    Severity.WARNING: N_("warning"),
    Severity.NOTE: N_("note"),
}
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


def rule_texts(language: Language) -> dict[str, tuple[str, str]]:
    """Return what is wrong and what to do, of each rule, in a language."""
    return {rule.code: (language.text(rule.what), language.text(rule.advice)) for rule in ALL_RULES}


def findings_markdown(findings: Sequence[Finding], language: Language) -> str:
    """Return findings as a section of a report, worst first; nothing where there are none.

    What was seen stands as the rule states it; in other languages, what is wrong stands before it.
    """
    if not findings:
        return ""
    texts = rule_texts(language)
    parts = [f"## {escape_markdown(language.text('Findings'))}\n"]
    for (severity, code, advice), group in groupby(findings, lambda f: (f.severity, f.code, f.advice)):
        what, todo = texts.get(code, ("", advice))
        sentences = [todo] if language == ENGLISH or not what else [what, todo]
        lines = [
            f"- {_row_names(each, language)}{language.colon}{escape_markdown(each.message)}" for each in group
        ]
        head = f"**{language.text(SEVERITY_NAMES[severity])}{language.colon}{code}{language.stop}**"
        parts.append(f"{head} {escape_markdown(language.sentences(sentences))}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _row_names(finding: Finding, language: Language) -> str:
    return escape_markdown(" ".join(finding.rows) or language.text("all rows"))


OPEN_UP_TO = 12  # findings of a rule that stand open at first
LONGEST_FIGURES_TEXT = 300  # characters


def findings_by_rule(
    findings: Sequence[Finding], anchors: Mapping[str, str], language: Language
) -> list[dict[str, Any]]:
    """Return what the template needs; `anchors` are of the experiments in the ranking."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    texts = rule_texts(language)
    return [_rule_entry(code, texts, found, anchors, language) for code, found in by_code.items()]


def _rule_entry(
    code: str,
    texts: Mapping[str, tuple[str, str]],
    found: list[Finding],
    anchors: Mapping[str, str],
    language: Language,
) -> dict[str, Any]:
    first = found[0]
    what, advice = texts.get(code, ("", first.advice))
    return {
        "code": code,
        "anchor": f"finding-{code}",
        "severity": str(first.severity),
        "severity_name": language.text(SEVERITY_NAMES[first.severity]),
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
    text = ", ".join(f"{key} = {_figure_text(value)}" for key, value in figures.items())
    return text if len(text) <= LONGEST_FIGURES_TEXT else f"{text[:LONGEST_FIGURES_TEXT]}…"


def _figure_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

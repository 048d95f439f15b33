"""Findings as people and programs read them: on a terminal, in Markdown, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hpcbench.audit.audit_findings import Finding, FindingScope, Severity
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.report.text import encodable, escape
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
COLUMNS = ("severity", "code", "scope", "rows", "message", "advice", "figures")


def findings_json(findings: Sequence[Finding]) -> str:
    """Return what `audit --json` prints."""
    return json.dumps({"findings": [each.to_json() for each in findings]}, ensure_ascii=False, indent=2)


def findings_csv(findings: Sequence[Finding]) -> str:
    """Return `findings.csv`: one line a finding, worst first, its figures as JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in findings:
        data = each.to_json()
        data |= {"rows": "".join(each.rows), "figures": json.dumps(data["figures"], ensure_ascii=False)}
        writer.writerow([data[column] for column in COLUMNS])
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


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each severity."""
    counts = Counter(each.severity for each in findings)
    parts = [f"{counts[s]} {s}{'s' if counts[s] > 1 else ''}" for s in Severity if counts[s]]
    return ", ".join(parts) if parts else "no findings"


def print_findings(findings: Sequence[Finding], console: Console, *, only: Severity | None = None) -> None:
    """Print findings, those of one rule together, with what to do about them; `only` those of a severity."""
    shown = [each for each in findings if only is None or each.severity is only]
    for (severity, code, advice), group in groupby(shown, lambda f: (f.severity, f.code, f.advice)):
        head = Text.assemble((severity.upper(), STYLES[severity]), "  ", (code, "bold"))
        console.print(head)
        for each in group:
            row = " ".join(each.rows) or ENGLISH.all_rows
            console.print(Text(encodable(f"  {row}: {each.message}", console)), soft_wrap=True)
        console.print(Text(encodable(f"  -> {advice}", console), style="dim"), soft_wrap=True)
    console.print(Text(summary(findings)))


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
    parts = [f"## {escape(words.page['findings'])}\n"]
    for (severity, code, advice), group in groupby(findings, lambda f: (f.severity, f.code, f.advice)):
        what, todo = told.get(code, ("", advice))
        sentences = [what, todo] if code in words.rules else [todo]
        lines = [f"- {_rows(each, words)}{words.colon}{escape(each.message)}" for each in group]
        head = f"**{words.severities[severity]}{words.colon}{code}{words.stop}**"
        parts.append(f"{head} {escape(words.sentence_space.join(sentences))}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(finding: Finding, words: Words) -> str:
    return escape(" ".join(finding.rows) or words.all_rows)

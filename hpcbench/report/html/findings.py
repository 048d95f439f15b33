"""The findings of the page: by rule, worst first, each with links to its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpcbench.audit.audit_findings import Finding
from hpcbench.report.findings import rule_texts
from hpcbench.report.words import Words

FEW = 12  # findings of a rule that stand open at first
MOST_FIGURES = 300  # characters


def rules_of(findings: Sequence[Finding], anchors: Mapping[str, str], words: Words) -> list[dict[str, Any]]:
    """Return what the template needs; `anchors` are of the experiments in the ranking."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    told = rule_texts(words)
    return [_rule(code, told, found, anchors) for code, found in by_code.items()]


def _rule(
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
        "open": len(found) <= FEW,
        "seen": [
            {
                "message": each.message,
                "figures": _figures(each.figures),
                "rows": [
                    {"name": row, "anchor": f"row-{anchors[row]}"} for row in each.rows if row in anchors
                ],
            }
            for each in found
        ],
    }


def _figures(figures: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} = {_value(value)}" for key, value in figures.items())
    return told if len(told) <= MOST_FIGURES else f"{told[:MOST_FIGURES]}…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

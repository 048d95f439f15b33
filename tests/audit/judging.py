"""What the audit says of a results folder, in the form that tests ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcbench.analysis.results_loading import load_results
from hpcbench.audit.audit_findings import Finding, Severity
from hpcbench.audit.evidence import collect_evidence
from hpcbench.audit.judge import rank_audited
from hpcbench.audit.rule_table import RUN_CHECKS
from hpcbench.sweep.run_spec import Group


def findings(results: Path, groups: Sequence[Group] = ()) -> list[Finding]:
    """Return all findings of a results folder."""
    loaded = load_results([results], checks=RUN_CHECKS)
    return rank_audited(loaded.runs, collect_evidence(loaded, groups), rank_by="throughput_samples_s")[1]


def codes(found: Sequence[Finding], row: str) -> set[str]:
    """Return the codes of the findings about a row."""
    return {each.code for each in found if row in each.rows}


def errors(found: Sequence[Finding]) -> list[Finding]:
    """Return the errors among findings."""
    return [each for each in found if each.severity is Severity.ERROR]


def group(*rows: str, factor: tuple[str, ...] = ("strategy",)) -> Group:
    """Return a group of rows."""
    return Group(id="G1", title="a group", factor=factor, runs=rows)

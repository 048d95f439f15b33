"""Applies every rule to the evidence, and marks or excludes rows of the ranking accordingly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from hpcbench.analysis.limit_analysis import ceilings_of_own_node
from hpcbench.analysis.ranking import Ranking, rank_runs
from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.audit.audit_findings import AuditRule, Finding, FindingScope, Severity
from hpcbench.audit.evidence import AuditedRow, AuditEvidence, RowComparison
from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.audit.tables.foreign_table import ForeignTable
from hpcbench.ceilings.node_ceilings import Ceilings

SEVERITY_ORDER = tuple(Severity)


def audit_evidence(evidence: AuditEvidence, rules: Sequence[AuditRule] = ALL_RULES) -> list[Finding]:
    """Return what the rules find, worst first; one finding of a rule for each row."""
    found = [finding for rule in rules for finding in _distinct_findings(rule, evidence)]
    return sort_findings(found)


def audit_ranking(ranking: Ranking, rules: Sequence[AuditRule] = ALL_RULES) -> list[Finding]:
    """Return what the rules find in the comparisons of neighbours in a ranking."""
    found = []
    for label, pairs in ranking.pairs.items():
        frame = ranking.frame
        names = frame.loc[(frame["class"] == label) & frame["rank"].notna(), "experiment"].tolist()
        neighbours = set(pairwise(names))
        for rule in rules:
            seen = (rule.of_pair(p) for p in pairs if rule.of_pair and (p.first, p.second) in neighbours)
            found += [rule.finding(each) for each in seen if each is not None]
    return found


def audit_table(table: ForeignTable, rules: Sequence[AuditRule] = ALL_RULES) -> list[Finding]:
    """Return what the rules find in a table that others have published."""
    return sort_findings(
        rule.finding(seen) for rule in rules if rule.of_table is not None for seen in rule.of_table(table)
    )


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: errors first, then by rule as the table has them, then as found."""
    codes = [rule.code for rule in ALL_RULES]
    return sorted(
        findings, key=lambda finding: (SEVERITY_ORDER.index(finding.severity), codes.index(finding.code))
    )


def _distinct_findings(rule: AuditRule, evidence: AuditEvidence) -> Iterator[Finding]:
    """Yield a rule's findings; what it sees of a row a second time is left out."""
    told: set[object] = set()
    for finding in _findings_of_rule(rule, evidence):
        # A group names what it is about; the same row may be wrong in two groups.
        key = (finding.rows, finding.figures.get("group"))
        if key not in told:
            told.add(key)
            yield finding


def _findings_of_rule(rule: AuditRule, evidence: AuditEvidence) -> Iterator[Finding]:
    for row in evidence.rows:
        if seen := _observe_repeats(rule, row, evidence.ceilings):
            yield rule.finding(seen, row.experiment)
        if rule.of_row and (seen := rule.of_row(row)):
            yield rule.finding(seen, row.experiment)
    if rule.of_nodes:
        yield from map(rule.finding, rule.of_nodes(evidence.ceilings))
    for judge, comparisons in ((rule.of_class, evidence.classes), (rule.of_group, evidence.groups)):
        for comparison in _comparable(comparisons) if judge else ():
            yield from map(rule.finding, judge(comparison) if judge else ())


def _comparable(comparisons: Iterable[RowComparison]) -> Iterator[RowComparison]:
    return (comparison for comparison in comparisons if len(comparison.rows) > 1)


def _observe_repeats(rule: AuditRule, row: AuditedRow, ceilings: Ceilings) -> Observation | None:
    """Return the first observation of any repeat, saying how many repeats are like that."""
    seen = [
        (repeat.spec.repeat, found)
        for repeat in row.repeats
        if (found := _observe_repeat(rule, repeat, ceilings)) is not None
    ]
    if not seen:
        return None
    numbers = [number for number, _ in seen]
    first = seen[0][1]
    also = f" (r{numbers[0]}; {len(numbers)} of {len(row.repeats)} repeats)" if len(row.repeats) > 1 else ""
    return Observation(message=f"{first.message}{also}", figures={**first.figures, "repeats": numbers})


def _observe_repeat(rule: AuditRule, repeat: FinishedRepeat, ceilings: Ceilings) -> Observation | None:
    seen = repeat.observed.get(rule.code)
    if seen is None and rule.of_ceilings and ceilings:
        seen = rule.of_ceilings(repeat, ceilings_of_own_node(repeat.history, ceilings))
    return seen


def untrusted_rows(findings: Iterable[Finding]) -> set[str]:
    """Return the rows that take no rank: those with an error of run scope."""
    return {
        row
        for finding in findings
        if finding.severity is Severity.ERROR and finding.scope is FindingScope.RUN
        for row in finding.rows
    }


def rank_audited(
    runs: pd.DataFrame, evidence: AuditEvidence, *, rank_by: str, limits: Mapping[str, str] | None = None
) -> tuple[Ranking, list[Finding]]:
    """Audit, rank what is left to rank, and fill `limit`, `findings` and `trusted` of the ranking.

    `limits` names what binds a run that has finished; of others the ranking says what kept them from it.
    """
    findings = audit_evidence(evidence)
    untrusted = untrusted_rows(findings)
    rankable = runs.assign(rankable=runs["rankable"] & ~runs["experiment"].isin(sorted(untrusted)))
    ranking = rank_runs(rankable, rank_by=rank_by)
    findings = sort_findings([*findings, *audit_ranking(ranking)])
    _fill_limits(ranking.frame, limits or {})
    _mark_rows(ranking.frame, findings, {row.experiment for row in evidence.rows}, untrusted)
    return ranking, findings


def _fill_limits(frame: pd.DataFrame, limits: Mapping[str, str]) -> None:
    named = frame["experiment"].map(lambda name: limits.get(name)).astype("string")
    frame["limit"] = frame["limit"].fillna(named)


def _mark_rows(
    frame: pd.DataFrame, findings: Sequence[Finding], audited: set[str], untrusted: set[str]
) -> None:
    names = frame["experiment"].tolist()
    codes = {name: list(dict.fromkeys(f.code for f in findings if name in f.rows)) for name in names}
    frame["findings"] = pd.array([" ".join(codes[name]) for name in names], dtype="string")
    trusted = ["no" if n in untrusted else "yes" if n in audited else "unaudited" for n in names]
    frame["trusted"] = pd.array(trusted, dtype="string")

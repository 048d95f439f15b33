"""Every rule on all of the evidence, and what follows for the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import pandas as pd

from hpcbench.analysis.audit.evidence import Comparison, Evidence, Repeat, RunRow
from hpcbench.analysis.audit.findings import Finding, Observation, Rule, Scope, Severity
from hpcbench.analysis.audit.foreign.table import Table
from hpcbench.analysis.audit.rules import RULES
from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.limits import of_own_node
from hpcbench.analysis.ranking import Ranking, rank

ORDER = tuple(Severity)
FINDING_COLUMNS = ("severity", "code", "scope", "rows", "message", "advice", "figures")


def audit(evidence: Evidence, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """Return what the rules find, worst first; one finding of a rule for each row."""
    found = [finding for rule in rules for finding in _of_rule(rule, evidence)]
    return in_order(found)


def audit_ranking(ranking: Ranking, rules: Sequence[Rule] = RULES) -> list[Finding]:
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


def audit_table(table: Table, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """Return what the rules find in a table that somebody else has made."""
    return in_order(
        rule.finding(seen) for rule in rules if rule.of_table is not None for seen in rule.of_table(table)
    )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: errors first, then by rule as the table has them, then as found."""
    codes = [rule.code for rule in RULES]
    return sorted(findings, key=lambda finding: (ORDER.index(finding.severity), codes.index(finding.code)))


def _of_rule(rule: Rule, evidence: Evidence) -> Iterator[Finding]:
    """Yield a rule's findings; what it sees of a row a second time is left out."""
    told: set[object] = set()
    for finding in _all_of_rule(rule, evidence):
        # A group names what it is about; the same row may be wrong in two groups.
        key = (finding.rows, finding.figures.get("group"))
        if key not in told:
            told.add(key)
            yield finding


def _all_of_rule(rule: Rule, evidence: Evidence) -> Iterator[Finding]:
    for row in evidence.rows:
        if seen := _of_repeats(rule, row, evidence.ceilings):
            yield rule.finding(seen, row.experiment)
        if rule.of_row and (seen := rule.of_row(row)):
            yield rule.finding(seen, row.experiment)
    if rule.of_nodes:
        yield from map(rule.finding, rule.of_nodes(evidence.ceilings))
    for judge, comparisons in ((rule.of_class, evidence.classes), (rule.of_group, evidence.groups)):
        for comparison in _comparable(comparisons) if judge else ():
            yield from map(rule.finding, judge(comparison) if judge else ())


def _comparable(comparisons: Iterable[Comparison]) -> Iterator[Comparison]:
    return (comparison for comparison in comparisons if len(comparison.rows) > 1)


def _of_repeats(rule: Rule, row: RunRow, ceilings: Ceilings) -> Observation | None:
    """Return the first observation of any repeat, saying how many repeats are like that."""
    seen = [
        (repeat.spec.repeat, found)
        for repeat in row.repeats
        if (found := _of_repeat(rule, repeat, ceilings)) is not None
    ]
    if not seen:
        return None
    numbers = [number for number, _ in seen]
    first = seen[0][1]
    also = f" (r{numbers[0]}; {len(numbers)} of {len(row.repeats)} repeats)" if len(row.repeats) > 1 else ""
    return Observation(message=f"{first.message}{also}", figures={**first.figures, "repeats": numbers})


def _of_repeat(rule: Rule, repeat: Repeat, ceilings: Ceilings) -> Observation | None:
    seen = repeat.observed.get(rule.code)
    if seen is None and rule.of_ceilings and ceilings:
        seen = rule.of_ceilings(repeat, of_own_node(repeat.history, ceilings))
    return seen


def condemned(findings: Iterable[Finding]) -> set[str]:
    """Return the rows that take no rank: those with an error of run scope."""
    return {
        row
        for finding in findings
        if finding.severity is Severity.ERROR and finding.scope is Scope.RUN
        for row in finding.rows
    }


def rank_audited(
    runs: pd.DataFrame, evidence: Evidence, *, rank_by: str, limits: Mapping[str, str] | None = None
) -> tuple[Ranking, list[Finding]]:
    """Audit, rank what is left to rank, and fill `limit`, `findings` and `trusted` of the ranking.

    `limits` names what binds a run that has finished; of others the ranking says what kept them from it.
    """
    findings = audit(evidence)
    untrusted = condemned(findings)
    rankable = runs.assign(rankable=runs["rankable"] & ~runs["experiment"].isin(sorted(untrusted)))
    ranking = rank(rankable, rank_by=rank_by)
    findings = in_order([*findings, *audit_ranking(ranking)])
    _name_limits(ranking.frame, limits or {})
    _mark(ranking.frame, findings, {row.experiment for row in evidence.rows}, untrusted)
    return ranking, findings


def _name_limits(frame: pd.DataFrame, limits: Mapping[str, str]) -> None:
    named = frame["experiment"].map(lambda name: limits.get(name)).astype("string")
    frame["limit"] = frame["limit"].fillna(named)


def _mark(frame: pd.DataFrame, findings: Sequence[Finding], audited: set[str], untrusted: set[str]) -> None:
    names = frame["experiment"].tolist()
    codes = {name: list(dict.fromkeys(f.code for f in findings if name in f.rows)) for name in names}
    frame["findings"] = pd.array([" ".join(codes[name]) for name in names], dtype="string")
    trusted = ["no" if n in untrusted else "yes" if n in audited else "unaudited" for n in names]
    frame["trusted"] = pd.array(trusted, dtype="string")

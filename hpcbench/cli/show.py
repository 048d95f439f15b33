"""The answer on a terminal: the ranked table, what is wrong with it, and where the report is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcbench.analysis.audit.findings import Finding
    from hpcbench.records.layout import ResultsFolder
    from hpcbench.report.cells import Row
    from hpcbench.report.collect import Collected


def rank(results: ResultsFolder) -> None:
    """Print the ranked table: that of the report, where nothing has happened since it was written."""
    from hpcbench.cluster.wait import report_is_current

    if report_is_current(results):
        from hpcbench.report.findings import read_findings
        from hpcbench.report.terminal import read_ranking

        found = read_findings(results.report / "findings.csv")
        _print(results.report, read_ranking(results.report / "ranking.csv"), found)
    else:
        from hpcbench.report.collect import collect

        show(collect([results.path]))


def show(collected: Collected) -> None:
    """Print what a collection found, and what it could not read."""
    from hpcbench.analysis.rows import plain_rows

    for problem in collected.problems:
        print(f"hpcbench: {problem}", file=sys.stderr)
    _print(collected.report, plain_rows(collected.ranking), collected.findings)


def _print(report: Path, rows: Sequence[Row], findings: Sequence[Finding]) -> None:
    from hpcbench.analysis.audit.findings import Severity
    from hpcbench.cluster.show import console
    from hpcbench.report.findings import print_findings
    from hpcbench.report.terminal import print_ranking

    print_ranking(rows, console())
    print_findings(findings, console(), only=Severity.ERROR)
    print(f"hpcbench: the report, for a browser: {report / 'report.html'}", file=sys.stderr)

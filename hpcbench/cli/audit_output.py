"""What `hpcbench audit` and `hpcbench compare` print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.figure_registry import FIGURES
from hpcbench.analysis.result_comparison import ChangeVerdict, FigureChange, ResultComparison
from hpcbench.audit.audit_findings import Finding, Severity
from hpcbench.audit.tables.foreign_table import StatedFacts
from hpcbench.cli.ranking_output import print_findings, to_console_encoding
from hpcbench.errors import input_error
from hpcbench.report.results_audit import audit_file, audit_results
from hpcbench.report.table_cells import EMPTY_CELL, escape_markdown, format_number

TABLE_OPTIONS_HINT = "--samples-per-epoch, --epochs, --eval-samples, --ranks and --column are for tables"


def run_audit_command(target: Path, stated: StatedFacts, *, as_json: bool, console: Console) -> int:
    """Print what is wrong; returns 1 if anything is an error. Raises InputError for what cannot be judged."""
    if target.is_dir():
        if stated != StatedFacts():
            raise input_error(
                f"{target} holds records, which say themselves what they are", hint=TABLE_OPTIONS_HINT
            )
        findings, remarks = audit_results(target)
    else:
        findings, remarks = audit_file(target, stated)
    for remark in remarks:
        print(f"hpcbench: {remark}", file=sys.stderr)
    if as_json:
        print(findings_json(findings))
    else:
        print_findings(findings, console)
    return 1 if any(finding.severity is Severity.ERROR for finding in findings) else 0


def findings_json(findings: Sequence[Finding]) -> str:
    """Return what `audit --json` prints."""
    return json.dumps({"findings": [each.to_json() for each in findings]}, ensure_ascii=False, indent=2)


COMPARISON_HEADS = ("experiment", "figure", "old", "new", "change", "95 % interval", "p", "n", "verdict")
VERDICT_STYLES = {
    ChangeVerdict.REGRESSION: "bold red",
    ChangeVerdict.LOST: "bold red",
    ChangeVerdict.IMPROVEMENT: "green",
}


def comparison_json(compared: ResultComparison) -> str:
    """Return what `compare --json` prints."""
    return json.dumps(compared.to_json(), ensure_ascii=False, indent=2)


def comparison_markdown(compared: ResultComparison) -> str:
    """Return the comparison as Markdown."""
    lines = [
        COMPARISON_HEADS,
        (":---", ":---", *["---:"] * 6, ":---"),
        *(map(escape_markdown, _change_cells(c)) for c in compared.changes),
    ]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    told = "\n".join(f"- {escape_markdown(line)}" for line in _comparison_remarks(compared))
    return "\n".join(
        [table, f"**{escape_markdown(comparison_summary(compared))}**\n", *([f"{told}\n"] if told else [])]
    )


def print_comparison(compared: ResultComparison, console: Console) -> None:
    """Print the comparison; the worst stands out."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, head in enumerate(COMPARISON_HEADS):
        left = place < 2 or head == "verdict"
        table.add_column(head, justify="left" if left else "right", overflow="fold")
    for change in compared.changes:
        cells = (Text(to_console_encoding(cell, console)) for cell in _change_cells(change))
        table.add_row(*cells, style=VERDICT_STYLES.get(change.verdict))
    console.print(table)
    for line in _comparison_remarks(compared):
        console.print(Text(to_console_encoding(line, console)), soft_wrap=True)
    console.print(
        Text(to_console_encoding(comparison_summary(compared), console), style="bold"), soft_wrap=True
    )


def comparison_summary(compared: ResultComparison) -> str:
    """Say in a sentence how the comparison ends."""
    if not compared.changes:
        return "The two results have no finished run in common."
    if compared.regressions:
        names = list(dict.fromkeys(each.experiment for each in compared.regressions))
        return f"Worse than before, beyond {compared.tolerance_pct:g} %: {', '.join(names)}."
    untested = sum(each.verdict is ChangeVerdict.UNTESTED for each in compared.changes)
    rest = f" {untested} figures have fewer than 3 repeats and were not tested." if untested else ""
    return f"No regression beyond {compared.tolerance_pct:g} % is supported.{rest}"


def _comparison_remarks(compared: ResultComparison) -> list[str]:
    lines = [f"The machines are not alike, so a change may be theirs: {note}" for note in compared.notes]
    for which, names in (("old", compared.only_old), ("new", compared.only_new)):
        if names:
            lines.append(f"Only in the {which} results: {', '.join(names)}")
    return lines


def _change_cells(change: FigureChange) -> tuple[str, ...]:
    unit = " %" if FIGURES[change.column].logarithmic else ""
    interval = (
        EMPTY_CELL
        if change.low is None or change.high is None
        else f"{change.low:+.2f} to {change.high:+.2f}{unit}"
    )
    p = EMPTY_CELL if change.p is None else ("< 0.001" if change.p < 0.001 else f"{change.p:.2g}")
    return (
        change.experiment, change.column, format_number(change.old), format_number(change.new),
        EMPTY_CELL if change.change is None else f"{change.change:+.2f}{unit}", interval, p,
        f"{change.old_n}, {change.new_n}", str(change.verdict),
    )  # fmt: skip

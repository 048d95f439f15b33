"""`hpcbench compare OLD NEW`: the comparison as people and programs read it."""

from __future__ import annotations

import json

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpcbench.analysis.result_comparison import ChangeVerdict, FigureChange, ResultComparison
from hpcbench.report.cells import NOTHING, number
from hpcbench.report.text import encodable, escape

HEADS = ("experiment", "figure", "old", "new", "change", "95 % interval", "p", "n", "verdict")
STYLES = {
    ChangeVerdict.REGRESSION: "bold red",
    ChangeVerdict.LOST: "bold red",
    ChangeVerdict.IMPROVEMENT: "green",
}
POINTS = ("final_acc_pct",)


def comparison_json(compared: ResultComparison) -> str:
    """Return what `compare --json` prints."""
    return json.dumps(compared.to_json(), ensure_ascii=False, indent=2)


def comparison_markdown(compared: ResultComparison) -> str:
    """Return the comparison as Markdown."""
    lines = [
        HEADS,
        (":---", ":---", *["---:"] * 6, ":---"),
        *(map(escape, _cells(c)) for c in compared.changes),
    ]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    told = "\n".join(f"- {escape(line)}" for line in _remarks(compared))
    return "\n".join([table, f"**{escape(summary(compared))}**\n", *([f"{told}\n"] if told else [])])


def print_comparison(compared: ResultComparison, console: Console) -> None:
    """Print the comparison; the worst stands out."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, head in enumerate(HEADS):
        left = place < 2 or head == "verdict"
        table.add_column(head, justify="left" if left else "right", overflow="fold")
    for change in compared.changes:
        cells = (Text(encodable(cell, console)) for cell in _cells(change))
        table.add_row(*cells, style=STYLES.get(change.verdict))
    console.print(table)
    for line in _remarks(compared):
        console.print(Text(encodable(line, console)), soft_wrap=True)
    console.print(Text(encodable(summary(compared), console), style="bold"), soft_wrap=True)


def summary(compared: ResultComparison) -> str:
    """Say in a sentence how the comparison ends."""
    if not compared.changes:
        return "The two results have no finished run in common."
    if compared.regressions:
        names = list(dict.fromkeys(each.experiment for each in compared.regressions))
        return f"Worse than before, beyond {compared.tolerance_pct:g} %: {', '.join(names)}."
    untested = sum(each.verdict is ChangeVerdict.UNTESTED for each in compared.changes)
    rest = f" {untested} figures have fewer than 3 repeats and were not tested." if untested else ""
    return f"No regression beyond {compared.tolerance_pct:g} % is supported.{rest}"


def _remarks(compared: ResultComparison) -> list[str]:
    lines = [f"The machines are not alike, so a change may be theirs: {note}" for note in compared.notes]
    for which, names in (("old", compared.only_old), ("new", compared.only_new)):
        if names:
            lines.append(f"Only in the {which} results: {', '.join(names)}")
    return lines


def _cells(change: FigureChange) -> tuple[str, ...]:
    unit = "" if change.column in POINTS else " %"
    interval = (
        NOTHING
        if change.low is None or change.high is None
        else f"{change.low:+.2f} to {change.high:+.2f}{unit}"
    )
    p = NOTHING if change.p is None else ("< 0.001" if change.p < 0.001 else f"{change.p:.2g}")
    return (
        change.experiment, change.column, number(change.old), number(change.new),
        NOTHING if change.change is None else f"{change.change:+.2f}{unit}", interval, p,
        f"{change.old_n}, {change.new_n}", str(change.verdict),
    )  # fmt: skip

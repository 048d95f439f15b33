"""Tables and lines about runs and their states, for a terminal or a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpcbench.launch import machine_queue
from hpcbench.launch.admission import Decision
from hpcbench.launch.submission import format_duration
from hpcbench.runs.run_status import RUN_STATES, RunProgress, RunStatus, count_states

STATE_COLOURS = {
    "pending": "dim", "running": "cyan", "done": "green", "failed": "bold red", "interrupted": "yellow",
    "lost": "bold red", "cancelled": "yellow", "run": "green", "skipped": "dim", "conflict": "bold red",
}  # fmt: skip
PIPE_WIDTH = 200
SHOWN_LINES = 5


def console(*, stderr: bool = False) -> Console:
    """Return where to print: as wide as the terminal, and wide enough for whole lines in a pipe.

    `$COLUMNS` overrides that, as it does elsewhere.
    """
    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    is_set = os.environ.get("COLUMNS", "").isdigit()
    return out if out.is_terminal or is_set else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def status_table(results: Path, runs: Sequence[RunStatus]) -> RenderableType:
    """Return the table of all runs, the last output of failed ones, and a line of counts."""
    table = _table("run", "state", "", "seconds", "why")
    for run in runs:
        took = f"{run.wall_s:.1f}" if run.wall_s is not None else ""
        state = Text(run.state, style=STATE_COLOURS[run.state])
        table.add_row(Text(run.key), state, Text(format_progress(run.progress)), took, Text(_reason(run)))
    parts: list[RenderableType] = [table, *_failed_output(runs), *_queue_lines(results)]
    return Group(*parts, Text(count_summary(runs), style="bold"))


def _reason(run: RunStatus) -> str:
    return f"out of {run.limit}, which is a result: {run.reason}" if run.limit else run.reason


def count_summary(runs: Sequence[RunStatus]) -> str:
    """Return how many runs are in which state."""
    found = count_states(runs)
    parts = [f"{found[state]} {state}" for state in RUN_STATES if found[state]]
    return f"{len(runs)} runs: {', '.join(parts) if parts else 'none'}"


def format_progress(progress: RunProgress | None) -> str:
    """Return epoch, rate and expected end of a running run."""
    if progress is None:
        return ""
    of_epochs = f"/{progress.epochs}" if progress.epochs else ""
    of_steps = f"/{progress.steps}" if progress.steps else ""
    text = f"epoch {progress.epoch}{of_epochs}, step {progress.step}{of_steps}"
    if progress.rate_samples_s:
        text += f", {progress.rate_samples_s:,.0f} samples/s"
    return text + (f", {format_duration(progress.eta_s)} left" if progress.eta_s is not None else "")


def _failed_output(runs: Iterable[RunStatus]) -> list[Text]:
    """Return what the ranks of failed runs printed last."""
    found = []
    for run in runs:
        if run.last_lines and run.state in ("failed", "lost"):
            rank = f" rank {run.failed_rank}" if run.failed_rank is not None else ""
            lines = "\n".join(f"    {line}" for line in run.last_lines[-SHOWN_LINES:])
            found.append(Text(f"{run.key},{rank} last lines:\n{lines}"))
    return found


def _queue_lines(results: Path) -> list[Text]:
    """Return which jobs of these results wait for the machine, and for which job."""
    folder = machine_queue.existing_queue_folder()
    waiting = [ticket for ticket in machine_queue.read_tickets(folder) if ticket.alive()] if folder else []
    lines = []
    for place, ticket in enumerate(waiting):
        if place and ticket.results == str(results) and not (ticket.shared and waiting[0].shared):
            ahead = waiting[0]
            lines.append(
                Text(f"job {ticket.job_id} waits for the machine: {ahead.job_id} ({ahead.results}) has it")
            )
    return lines


def decisions_table(decisions: Sequence[Decision]) -> RenderableType:
    """Return the table of what a submission would do."""
    table = _table("run", "strategy", "ranks", "resources", "action", "reason")
    for decision in decisions:
        spec = decision.spec
        label = decision.action.label
        table.add_row(
            Text(decision.key),
            spec.strategy,
            str(spec.ranks),
            _resources(decision),
            Text(label, style=STATE_COLOURS[label]),
            Text(decision.reason),
        )
    return table


def _resources(decision: Decision) -> str:
    spec = decision.spec
    needed = spec.resources
    nodes = f"{needed.nodes} nodes x " if needed.nodes > 1 else ""
    devices = f"{needed.gpus_per_node} GPUs" if spec.device == "cuda" else f"{spec.processes} CPU processes"
    return f"{nodes}{devices}, up to {needed.time}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(
            column, overflow="fold", justify="right" if column in ("seconds", "ranks") else "left"
        )
    return table

"""What a submission will cost, said before anything is queued."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from hpcbench.cluster.decide import Action, Decision
from hpcbench.cluster.disk import disk_bytes, written
from hpcbench.cluster.show import duration
from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import RunSpec
from hpcbench.errors import HpcbenchError, InputError

# Of each process: its record and its log. Of each run: spec, claim, rendezvous.
FILES_PER_PROCESS = 2
FILES_PER_RUN = 3


def estimate(decisions: Sequence[Decision], to_do: Sequence[RunSpec], catalog: Catalog) -> str:
    """Return one line: how many runs, how long at most, how long by experience, how much disk and files."""
    names = {spec.name for spec in to_do}
    longest_s = sum(spec.resources.time_s for spec in to_do)
    gpu_hours = gpu_hours_at_most(to_do)
    gpus = f", at most {gpu_hours:.1f} GPU-hours" if gpu_hours else ""
    disk = written(sum(disk_bytes(spec, catalog) for spec in to_do))
    files = sum(FILES_PER_RUN + FILES_PER_PROCESS * spec.processes for spec in to_do)
    return (
        f"to do: {len(names)} runs, {len(to_do)} with their repeats, at most {duration(longest_s)} by limits"
        f"{gpus}, {_expected(decisions, to_do)}, at most about {disk} in {files} files"
    )


def gpu_hours_at_most(to_do: Sequence[RunSpec]) -> float:
    """Return the GPU-hours if every run used up its time limit: all GPUs of its nodes are its own."""
    return sum(
        spec.resources.time_s / 3600 * spec.resources.nodes * spec.resources.gpus_per_node
        for spec in to_do
        if spec.device == "cuda"
    )


def refuse_above(limit: float | None, to_do: Sequence[RunSpec]) -> None:
    """Raise InputError where the runs could use more GPU-hours than `--max-gpu-hours` allows."""
    needed = gpu_hours_at_most(to_do)
    if limit is not None and needed > limit:
        raise InputError(
            f"--max-gpu-hours {limit:g}: these runs may use {needed:.1f} GPU-hours by their time limits. "
            "Lower resources.time, pick runs with --only, or raise the limit"
        )


def ask_above(limit: float, to_do: Sequence[RunSpec]) -> None:
    """Ask before so many GPU-hours may be used; raises HpcbenchError without somebody to ask, or for a no."""
    needed = gpu_hours_at_most(to_do)
    if needed <= limit:
        return
    if not sys.stdin.isatty():
        raise InputError(
            f"these runs may use {needed:.0f} GPU-hours by their time limits: say --yes, or --max-gpu-hours N"
        )
    answer = input(f"Use up to {needed:.0f} GPU-hours? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


def _expected(decisions: Sequence[Decision], to_do: Sequence[RunSpec]) -> str:
    """Project from the repeats that are done, and from earlier runs of the same name."""
    took = defaultdict(list)
    for decision in decisions:
        if decision.action is Action.DONE and decision.status and decision.status.wall_s:
            took[decision.spec.name].append(decision.status.wall_s)
    known = [mean(took[spec.name]) for spec in to_do if spec.name in took]
    if not known:
        return "no earlier records to tell how long"
    missing = len(to_do) - len(known)
    rest = f" for {len(known)} of them" if missing else ""
    return f"about {duration(sum(known))}{rest} by earlier records"

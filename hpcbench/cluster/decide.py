"""What a submission would do with each run, and why: what `--dry-run` shows, and a real one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hpcbench.cluster.admission import oversubscribed, why_not
from hpcbench.cluster.jobs import Living, read_jobs
from hpcbench.cluster.machine import Machine
from hpcbench.cluster.plan import run_key
from hpcbench.cluster.status import RunStatus, run_status
from hpcbench.cluster.stored import read_raw
from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import RunSpec
from hpcbench.records.layout import ResultsFolder


class Action(Enum):
    """What happens to a run."""

    RUN = "it is done (again)"
    DONE = "it has been done"
    BUSY = "a job has it"
    IMPOSSIBLE = "it can't run here"
    CONFLICT = "another run of its name has results here"

    @property
    def word(self) -> str:
        """What users see; the reason beside it tells more."""
        return {Action.RUN: "run", Action.CONFLICT: "conflict"}.get(self, "skipped")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens to one repeat of a run. `status` is None for a run that has no folder yet."""

    spec: RunSpec
    action: Action
    reason: str = ""
    status: RunStatus | None = None

    @property
    def key(self) -> str:
        """How the ledger names the run."""
        return run_key(self.spec.name, self.spec.repeat)

    def to_json(self) -> dict[str, Any]:
        """Return a line of `--dry-run --json`."""
        return {
            "name": self.spec.name,
            "repeat": self.spec.repeat,
            "run_id": self.spec.run_id,
            "strategy": self.spec.strategy,
            "ranks": self.spec.ranks,
            "resources": self.spec.to_json()["resources"] | {"device": self.spec.device},
            "action": self.action.word,
            "reason": self.reason,
        }


def decide(
    runs: Sequence[RunSpec],
    data: Mapping[str, str],
    results: ResultsFolder,
    machine: Machine | None,
    catalog: Catalog,
) -> list[Decision]:
    """Decide for each run, in the given order; `machine` is None where they go to the nodes of a cluster."""
    jobs = read_jobs(results)
    living = Living(jobs)
    decisions = []
    for spec in runs:
        folder = results.run(spec.name, spec.repeat)
        if not folder.spec.exists():
            decisions.append(_of_new(spec, data, machine, catalog))
            continue
        status = run_status(spec.name, spec.repeat, folder, jobs, living)
        if status.run_id != spec.run_id:
            reason = _difference(spec, read_raw(folder)["spec"])
            decisions.append(Decision(spec=spec, action=Action.CONFLICT, reason=reason, status=status))
        else:
            decisions.append(_of_known(spec, status) or _of_new(spec, data, machine, catalog, status))
    return decisions


def _of_known(spec: RunSpec, status: RunStatus) -> Decision | None:
    """Decide for a run that has been here before; None where it is to be done (again)."""
    if status.state == "done":
        reason = f"done: out of {status.limit} is its result" if status.limit else "done"
        return Decision(spec=spec, action=Action.DONE, reason=reason, status=status)
    if status.state == "running" or status.queued:
        doing = "running" if status.state == "running" else "queued"
        return Decision(
            spec=spec, action=Action.BUSY, reason=f"{doing} in job {status.job_id}", status=status
        )
    return None


def _of_new(
    spec: RunSpec,
    data: Mapping[str, str],
    machine: Machine | None,
    catalog: Catalog,
    status: RunStatus | None = None,
) -> Decision:
    obstacle = why_not(spec, machine, catalog, data)
    if obstacle:
        return Decision(spec=spec, action=Action.IMPOSSIBLE, reason=obstacle, status=status)
    notes = []
    if status and status.state != "pending":
        notes.append(f"again: {status.state}{f', {status.reason}' if status.reason else ''}")
    if machine is not None and oversubscribed(spec, machine):
        notes.append(f"{spec.processes} processes on {machine.cores} cores: one thread each, a warning")
    return Decision(spec=spec, action=Action.RUN, reason="; ".join(notes), status=status)


def _difference(spec: RunSpec, stored: Mapping[str, Any]) -> str:
    """Name what differs between a run and the one of its name that has results already."""
    new, old = _flat(spec.to_json()), _flat(stored)
    differing = [key for key in sorted(new.keys() | old.keys()) if new.get(key) != old.get(key)]
    shown = [f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in differing[:3]]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return "; ".join(shown) + more


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

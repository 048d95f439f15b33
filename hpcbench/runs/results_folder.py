"""Paths of everything in a results folder, and `spec.json` of a run. No other module builds these paths."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.errors import InputError, RecordError
from hpcbench.runs.record_writer import write_atomically
from hpcbench.sweep.run_spec import RunSpec

KEPT_CHECKPOINTS = 2  # of a run: the one before the newest may still be read by another attempt


@dataclass(frozen=True)
class RunFolder:
    """The folder of one repeat of one run."""

    path: Path

    @property
    def spec(self) -> Path:
        """The run as resolved: `{"run_id", "spec", "declared", "data", "cores_shared_by"}`."""
        return self.path / "spec.json"

    @property
    def logs(self) -> Path:
        """What the processes printed."""
        return self.path / "log"

    @property
    def weights(self) -> Path:
        """The trained model, with `save_weights: true`."""
        return self.path / "weights.pt"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted run goes on from."""
        return self.path / "checkpoint"

    def log(self, attempt: int, rank: int) -> Path:
        """Return the file that a rank prints into."""
        return self.logs / f"a{attempt}.rank{rank}.log"

    def events(self, attempt: int, rank: int) -> Path:
        """Return the record file of a rank."""
        return self.path / f"events.a{attempt}.rank{rank}.jsonl"

    def supervisor_events(self, attempt: int, node: int) -> Path:
        """Return the record file of a node's supervisor."""
        return self.path / f"events.a{attempt}.node{node}.jsonl"

    def claim(self, attempt: int) -> Path:
        """Return the file whose creation claims an attempt."""
        return self.path / f"claim.a{attempt}.json"

    def rendezvous(self, attempt: int) -> Path:
        """Return the file with the address of rank 0."""
        return self.path / f"rendezvous.a{attempt}.json"

    @property
    def probe(self) -> Path:
        """Of a folder that is no run but a probe: the runs whose ceilings are measured."""
        return self.path / "probe.json"

    def measured(self, attempt: int, node: int) -> Path:
        """Return the file into which the processes of a probe write the ceilings of their node."""
        return self.path / f"ceilings.a{attempt}.node{node}.jsonl"

    def measured_files(self) -> list[Path]:
        """List what `measured` names, of all attempts and nodes."""
        return sorted(self.path.glob("ceilings.a*.node*.jsonl"))

    def event_files(self) -> list[EventFile]:
        """List all record files, ranks before supervisors, in a stable order."""
        found = [EventFile.parse(path) for path in self.path.glob("events.a*.jsonl")]
        return sorted(
            (file for file in found if file),
            key=lambda f: (f.attempt, f.rank is None, f.rank or 0, f.node or 0),
        )

    def attempts(self) -> list[int]:
        """List the attempts that were claimed, oldest first."""
        numbers = (
            re.fullmatch(r"claim\.a(\d+)\.json", path.name) for path in self.path.glob("claim.a*.json")
        )
        return sorted(int(match[1]) for match in numbers if match)


@dataclass(frozen=True)
class EventFile:
    """A record file, and the parts of its name."""

    path: Path
    attempt: int
    rank: int | None
    node: int | None

    @classmethod
    def parse(cls, path: Path) -> EventFile | None:
        """Read the name; None for a file that is not a record file."""
        match = re.fullmatch(r"events\.a(\d+)\.(rank|node)(\d+)\.jsonl", path.name)
        if not match:
            return None
        number = int(match[3])
        rank, node = (number, None) if match[2] == "rank" else (None, number)
        return cls(path, int(match[1]), rank, node)


@dataclass(frozen=True)
class JobFolder:
    """What is kept of one job: its plan, who executes it, and the executor's own files."""

    path: Path

    @property
    def plan(self) -> Path:
        """What the job does."""
        return self.path / "plan.json"

    @property
    def controller(self) -> Path:
        """The process that the executor has started."""
        return self.path / "controller.json"

    @property
    def owner(self) -> Path:
        """The process that does the runs."""
        return self.path / "owner.json"

    @property
    def probing(self) -> Path:
        """There while the job measures what its nodes can do, before its first run."""
        return self.path / "probing"

    @property
    def script(self) -> Path:
        """What was handed to the scheduler."""
        return self.path / "submission.sh"

    @property
    def output(self) -> Path:
        """What a job of the scheduler prints, one file a node."""
        return self.path / "log"

    def rendezvous(self, part: str) -> Path:
        """Return the file with the address of the first node of a job."""
        return self.path / f"meeting.{part}.json"


@dataclass(frozen=True)
class ResultsFolder:
    """The folder of one sweep: `results/<sweep>/`."""

    path: Path

    @property
    def sweep(self) -> Path:
        """The sweep as resolved and submitted."""
        return self.path / "sweep.yaml"

    @property
    def ledger(self) -> Path:
        """One line per submission, attempt, requeue and cancellation."""
        return self.path / "ledger.jsonl"

    @property
    def profile(self) -> Path:
        """What was asked of the scheduler when the sweep was last submitted."""
        return self.path / "profile.json"

    @property
    def jobs(self) -> Path:
        """What submitit keeps of the jobs, and their plans."""
        return self.path / "jobs"

    @property
    def ceilings(self) -> Path:
        """What each node can do at most: `<host>.jsonl`."""
        return self.path / "ceilings"

    def ceilings_of(self, host: str) -> Path:
        """Return the file of a node's ceilings."""
        return self.ceilings / f"{host}.jsonl"

    def ceiling_files(self) -> list[Path]:
        """List the files of ceilings, by host."""
        return sorted(self.ceilings.glob("*.jsonl"))

    @property
    def report(self) -> Path:
        """What `collect` writes."""
        return self.path / "report"

    @property
    def submission_lock(self) -> Path:
        """Held while a submitter decides what is to be done and submits it."""
        return self.path / ".submit.lock"

    def job(self, job_id: str) -> JobFolder:
        """Return the folder of a job."""
        return JobFolder(self.jobs / job_id)

    def replaced(self, name: str, repeat: int, run_id: str) -> Path:
        """Return where a run goes that `--force` has set aside for another of its name."""
        return self.path / "replaced" / name / f"r{repeat}.{run_id}"

    def run(self, name: str, repeat: int) -> RunFolder:
        """Return the folder of a repeat of a run."""
        return RunFolder(self.path / "runs" / name / f"r{repeat}")

    def runs(self) -> list[tuple[str, int, RunFolder]]:
        """List the runs that have a folder, by name and repeat."""
        folders = (path for path in (self.path / "runs").glob("*/r*") if re.fullmatch(r"r\d+", path.name))
        found = [(path.parent.name, int(path.name[1:]), RunFolder(path)) for path in folders]
        return sorted(found, key=lambda item: item[:2])


def open_results_folder(path: Path) -> ResultsFolder:
    """Return the results folder of a sweep; raises InputError for a folder that is none."""
    if not path.is_dir():
        raise InputError(f"{path}: no such results folder")
    if _holds_results(path):
        return ResultsFolder(path)
    inside = sorted(folder for folder in path.iterdir() if _holds_results(folder))
    hint = f". Did you mean {inside[0]}?" if inside else ""
    raise InputError(f"{path}: this is no results folder: it has neither sweep.yaml nor runs{hint}")


def _holds_results(path: Path) -> bool:
    return any((path / name).exists() for name in ("sweep.yaml", "ledger.jsonl", "runs"))


FIRST_NODE = 0
# Checkpoints of a run; the one before the newest stays for an attempt that reads it at this moment.


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run in its folder.

    `declared` is the run of the sweep file where `--smoke` scaled it down, `data` where its data set is, and
    `cores_shared_by` among how many devices the cores of a machine are split.
    """

    spec: RunSpec
    declared: RunSpec | None = None
    data: str | None = None
    cores_shared_by: int = 1

    def write(self, folder: RunFolder) -> None:
        """Write it; a file that is the same already is not touched."""
        text = json.dumps(self._to_json(), indent=1)
        if not folder.spec.exists() or folder.spec.read_text() != text:
            write_atomically(folder.spec, text)

    def _to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.spec.run_id,
            "spec": self.spec.to_json(),
            "declared": self.declared.to_json() if self.declared else None,
            "data": self.data,
            "cores_shared_by": self.cores_shared_by,
        }


def read_spec_file(folder: RunFolder) -> StoredRun:
    """Read a run back; raises RecordError where the file is not what `write` leaves."""
    values = read_spec_json(folder)
    try:
        return StoredRun(
            spec=RunSpec.from_json(values["spec"]),
            declared=RunSpec.from_json(values["declared"]) if values["declared"] else None,
            data=values["data"],
            cores_shared_by=values["cores_shared_by"],
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder.spec}: this does not describe a run ({error!r})") from error


def read_spec_json(folder: RunFolder) -> dict[str, Any]:
    """Read the JSON values only: `status` looks at many runs and needs few fields."""
    try:
        values = json.loads(folder.spec.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder.spec}: this does not describe a run ({error})") from error
    if not isinstance(values, dict) or "spec" not in values:
        raise RecordError(f"{folder.spec}: this does not describe a run")
    return values

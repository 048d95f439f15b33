"""What a job does, as a file: the job reads it, and so does whoever asks what the job is about."""

from __future__ import annotations

import json
import platform
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpcbench.records.layout import JobFolder, ResultsFolder
from hpcbench.records.writer import write_atomically


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The runs of a job, in the order in which it does them.

    `visible_devices` is the submitter's CUDA_VISIBLE_DEVICES, which submitit overwrites.
    `presume_silent_dead` lets the job take over from owners on other machines that show no sign of life.
    What follows it is for jobs of Slurm: their unique `name` there, whether each run is an element of an
    `array`, on how many `nodes` they are done together, how often they may go back into the queue, and how
    long before the end of their time they are told.
    """

    job_id: str
    results: str
    runs: tuple[tuple[str, int], ...]
    shared: bool = False
    presume_silent_dead: bool = False
    visible_devices: str | None = None
    name: str | None = None
    array: bool = False
    nodes: int = 1
    max_requeues: int = 0
    notice_s: float = 0.0
    host: str = field(default_factory=platform.node)

    @property
    def folder(self) -> JobFolder:
        """Where the job's own files are."""
        return ResultsFolder(Path(self.results)).job(self.job_id)

    def write(self) -> None:
        """Write the plan into the job's folder."""
        write_atomically(self.folder.plan, json.dumps(asdict(self), indent=1))


def read_plan(path: Path) -> JobPlan:
    """Read a plan back."""
    values = json.loads(path.read_text())
    return JobPlan(**values | {"runs": tuple((name, repeat) for name, repeat in values["runs"])})


def new_job_id() -> str:
    """Return a job id that sorts by time and that nobody else has."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def run_key(name: str, repeat: int) -> str:
    """Return how the ledger names a run."""
    return f"{name}/r{repeat}"


def element_id(job_id: str, index: int | None) -> str:
    """Return how an element of an array is named: `index` counts from 0; None for a job that is no array."""
    return job_id if index is None else f"{job_id}.{index}"

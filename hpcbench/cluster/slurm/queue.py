"""Where jobs stand with Slurm: one question for all jobs of a sweep, asked when the first answer is needed.

Jobs are found by their names, which are unique: also one whose submitter died before it was told the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpcbench.cluster.slurm.ask import SlurmError, ask

# Wide enough for anything; squeue pads and cuts each column.
COLUMNS = {"JobArrayID": 40, "Name": 200, "State": 20, "RestartCnt": 12, "Reason": 80, "NodeList": 400}
OVER = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    }
)  # fmt: skip
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING", "SPECIAL_EXIT"})
# Reasons for which a job waits until somebody changes something.
FOR_EVER = frozenset(
    {
        "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "JobHeldAdmin",
        "JobHeldUser", "PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit",
        "PartitionTimeLimit", "ReqNodeNotAvail", "Reservation",
    }
)  # fmt: skip

Key = tuple[str, int | None]  # name of a job, index in its array


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job, or an element of an array, as Slurm has it."""

    slurm_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: str = ""

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or is just about to be gone."""
        return self.state not in OVER

    @property
    def waiting(self) -> bool:
        """Whether it has not begun, or has to begin again."""
        return self.state in WAITING

    def __str__(self) -> str:
        if self.waiting:
            why = f", {self.reason}" if self.reason not in ("", "None") else ""
            stuck = " (it will not start by itself)" if self.reason in FOR_EVER else ""
            return f"queued as Slurm job {self.slurm_id}{why}{stuck}"
        on = f" on {self.nodes}" if self.nodes else ""
        return f"Slurm job {self.slurm_id}: {self.state}{on}"


@dataclass
class Snapshot:
    """What Slurm knows of some jobs, at the moment of the first question."""

    names: Sequence[str]
    since: str  # ISO time before which none of them was submitted; for the accounting
    _places: dict[Key, Place] | None = None
    _ended: dict[Key, Place] | None = None
    problem: str | None = field(default=None)

    def find(self, name: str, index: int | None) -> Place | None:
        """Return where a job stands; None for one that the controller does not know (any more)."""
        if self._places is None:
            try:
                self._places = _squeue(self.names)
            except SlurmError as error:
                self._places, self.problem = {}, str(error)
        return self._places.get((name, index))

    def alive(self, name: str, index: int | None) -> bool:
        """Return whether a job waits or works; as long as Slurm does not answer, it may."""
        place = self.find(name, index)
        return place.alive if place else self.problem is not None

    def ending(self, name: str, index: int | None) -> Place | None:
        """Return how a job ended: what the controller still remembers, else what the accounting says."""
        place = self.find(name, index)
        if place is not None:
            return place
        if self._ended is None:
            try:
                self._ended = _sacct(self.names, self.since)
            except SlurmError:
                self._ended = {}  # no accounting here: the records have to say it all
        return self._ended.get((name, index))


def _squeue(names: Sequence[str]) -> dict[Key, Place]:
    layout = ",".join(f"{column}:{width}" for column, width in COLUMNS.items())
    lines = ask(
        ["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", f"--Format={layout}"]
    ).splitlines()
    places = {}
    for line in lines:
        cells, at = {}, 0
        for column, width in COLUMNS.items():
            cells[column], at = line[at : at + width].strip(), at + width
        slurm_id = cells["JobArrayID"]
        places[cells["Name"], _index(slurm_id)] = Place(
            slurm_id=slurm_id,
            state=cells["State"],
            reason=cells["Reason"],
            nodes=cells["NodeList"],
            restarts=int(cells["RestartCnt"] or 0),
        )
    return places


def _sacct(names: Sequence[str], since: str) -> dict[Key, Place]:
    listing = ask(
        [
            "sacct", "--noheader", "--allocations", "--parsable2", f"--name={','.join(names)}",
            f"--starttime={since}", "--format=JobID,JobName,State,ExitCode,NodeList",
        ]
    )  # fmt: skip
    places = {}
    for line in listing.splitlines():
        slurm_id, name, state, exit_code, nodes = line.split("|")
        if "[" not in slurm_id:  # elements that never began have nothing to tell
            # "CANCELLED by 1000"
            places[name, _index(slurm_id)] = Place(
                slurm_id=slurm_id, state=state.split()[0], nodes=nodes, exit_code=exit_code
            )
    return places


def _index(slurm_id: str) -> int | None:
    _, underscore, index = slurm_id.partition("_")
    return int(index) if underscore and index.isdigit() else None

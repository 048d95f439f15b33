"""Which job this process is part of, and where it is in it: from what Slurm has set, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcbench.cluster.slurm.ask import ask


@dataclass(frozen=True, kw_only=True)
class Here:
    """A node of a job. `index` is that of an array's element, `names` are the job's nodes, first to last."""

    slurm_id: str
    index: int | None
    node: int
    names: tuple[str, ...]
    restart: int

    @property
    def name(self) -> str:
        """What Slurm calls this node."""
        return self.names[self.node]

    def part_of(self, runs: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
        """Return the runs of a job that are this element's, where it is an array."""
        return runs if self.index is None else runs[self.index : self.index + 1]

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Here:
        """Read Slurm's variables; raises SlurmError where its commands are missing on a node."""
        index = environment.get("SLURM_ARRAY_TASK_ID")
        listed = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        # "n[1-3,7]": only Slurm itself reads every form of it.
        several = "[" in listed or "," in listed
        names = ask(["scontrol", "show", "hostnames", listed]).split() if several else [listed]
        job = environment["SLURM_JOB_ID"]
        return cls(
            slurm_id=job if index is None else f"{environment['SLURM_ARRAY_JOB_ID']}_{index}",
            index=None if index is None else int(index),
            node=int(environment.get("SLURM_NODEID", "0")),
            names=tuple(names),
            restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        )

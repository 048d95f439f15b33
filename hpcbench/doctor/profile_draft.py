"""`hpcbench doctor --write-profile FILE`: drafts a profile from what Slurm reports about its nodes."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import InputError
from hpcbench.launch.slurm.slurm_client import SlurmError, run_slurm

PROFILE_TEMPLATE = """\
# Drafted from what Slurm says of partition {partition}{others}.
# docs/slurm.md explains every key; check account and time, and what your nodes need in setup and env.
account: {account}
partition: {partition}
time: {time}
gpus_per_node: {gpus}
cpus_per_node: {cpus}
gpu_request: {request}
gpu_type: {gpu_type}
exclusive: true
max_requeues: 3
env: {{}}
data: null                       # the folder with the data sets
setup: []                        # such as: [module load cuda/12.4]
extra: []
"""


@dataclass(frozen=True, kw_only=True)
class PartitionNodes:
    """Like nodes of a partition; `gres` as sinfo has it, such as `gpu:rtx4090:4(S:0-1)`."""

    partition: str
    default: bool
    limit: str
    cpus: int
    gres: str

    @property
    def gpus(self) -> tuple[int, str | None]:
        """How many GPUs a node has, and what they are called."""
        for each in self.gres.split(","):
            kind, *rest = each.partition("(")[0].split(":")
            if kind == "gpu" and rest and rest[-1].isdigit():
                return int(rest[-1]), rest[0] if len(rest) > 1 else None
        return 0, None


def write_profile(path: Path, partition: str | None) -> Path:
    """Write the draft; returns its path. Raises InputError for an existing file or an unknown partition."""
    if path.exists():
        raise InputError(f"--write-profile {path}: there is such a file already")
    path.write_text(draft_profile(_read_nodes(), partition, _default_account()))
    return path


def draft_profile(nodes: list[PartitionNodes], partition: str | None, account: str | None) -> str:
    """Return a profile for the largest nodes of a partition (None: the default one)."""
    names = list(dict.fromkeys(each.partition for each in nodes))
    chosen = partition or next((each.partition for each in nodes if each.default), names[0])
    candidates = [node for node in nodes if node.partition == chosen]
    if not candidates:
        raise InputError(
            f"--partition {chosen}: there is no such partition. Partitions are: {', '.join(names)}"
        )
    best = max(candidates, key=lambda node: (node.gpus[0], node.cpus))
    count, kind = best.gpus
    others = [name for name in names if name != chosen]
    return PROFILE_TEMPLATE.format(
        partition=chosen,
        others=f"; others are {', '.join(others)}" if others else "",
        account=account or "null",
        time="null" if best.limit in ("infinite", "n/a") else f'"{best.limit}"',
        gpus=count,
        cpus=best.cpus,
        request="gres" if kind else "gpus_per_node",
        gpu_type=kind or "null",
    )


def _read_nodes() -> list[PartitionNodes]:
    found = []
    for line in run_slurm(["sinfo", "--noheader", "--format=%P|%l|%c|%G"]).splitlines():
        name, limit, cpus, gres = line.split("|")
        # "4+": nodes of several sizes; the smallest is what a job can count on.
        found.append(
            PartitionNodes(
                partition=name.rstrip("*"),
                default=name.endswith("*"),
                limit=_as_limit(limit),
                cpus=int(cpus.rstrip("+")),
                gres=gres,
            )
        )
    if not found:
        raise InputError("--write-profile: Slurm shows no partition")
    return found


def _as_limit(text: str) -> str:
    """Write sinfo's `30:00` (minutes and seconds) as the time limit that it is."""
    return f"00:{text}" if text.count(":") == 1 and "-" not in text else text


def _default_account() -> str | None:
    """Return the user's account, where the accounting knows it."""
    try:
        text = run_slurm(["sacctmgr", "-nP", "show", "user", getpass.getuser(), "format=defaultaccount"])
    except SlurmError:
        return None
    return text.strip() or None

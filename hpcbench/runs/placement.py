"""A process's place in its run: what a supervisor tells each rank, and what a rank can learn elsewhere.

A supervisor hands it over in one environment variable of hpcbench's own, so that nothing that Slurm,
torchrun or an outer job left in the environment can be mistaken for it.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcbench.sweep.run_spec import RunSpec

PLACEMENT_VARIABLE = "HPCBENCH_PLACEMENT"

# Variables of launchers around us, which must not leak into ranks that we place ourselves.
LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE", "SLURM_PROCID", "SLURM_LOCALID",
    "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
)  # fmt: skip

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a process is. Training ranks come first, then servers.

    `address` is what rank 0 listens on and the others connect to; `port` None lets rank 0 take a free one and
    say so in the run folder. `threads` is how many compute threads this process may use, `cores` are those
    that it is bound to, None: any. `warnings` are what the supervisor wants to stand in the record.
    """

    run_folder: str
    attempt: int
    rank: int
    processes: int
    local_rank: int
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int | None = None
    threads: int = 1
    cores: list[int] | None = None
    data: str | None = None
    process_start_ns: int
    warnings: list[str] = field(default_factory=list)

    def to_environment(self) -> dict[str, str]:
        """Return the variable to set in the rank's environment."""
        return {PLACEMENT_VARIABLE: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Placement | None:
        """Read what a supervisor has set; None where none did."""
        text = environment.get(PLACEMENT_VARIABLE)
        return cls(**json.loads(text)) if text else None


def without_launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without what launchers around us have set."""
    return {
        key: value
        for key, value in environment.items()
        if key not in (*LAUNCHER_VARIABLES, PLACEMENT_VARIABLE)
    }


@dataclass(frozen=True)
class RankLocation:
    """A rank's node, and its number among the ranks there."""

    node: int
    local_rank: int


def locate_ranks(spec: RunSpec) -> list[RankLocation]:
    """Seat every process of a run.

    Training ranks fill the nodes in blocks, so that neighbours in a ring are neighbours on a node; servers
    come after them, dealt out one by one. Fewer ranks than nodes: one each, as far as they go.
    """
    nodes = spec.resources.nodes
    share = -(-spec.ranks // nodes)
    of_ranks = [rank // share for rank in range(spec.ranks)] if spec.ranks >= nodes else range(spec.ranks)
    of_servers = (server % nodes for server in range(spec.servers))
    there: Counter[int] = Counter()
    seats = []
    for node in (*of_ranks, *of_servers):
        seats.append(RankLocation(node, there[node]))
        there[node] += 1
    return seats


def ranks_on_node(spec: RunSpec, node: int) -> list[int]:
    """Return the ranks of a node."""
    return [rank for rank, seat in enumerate(locate_ranks(spec)) if seat.node == node]


def most_ranks_per_node(spec: RunSpec) -> int:
    """Return how many processes the fullest node has."""
    return max(seat.local_rank for seat in locate_ranks(spec)) + 1

"""Where each process of a run is: its rank, node and local rank."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpcbench.config.spec import RunSpec


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

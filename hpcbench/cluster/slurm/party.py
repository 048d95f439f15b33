"""The ranks of a run over several nodes: those here, and those that the other supervisors start."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.cluster.containers import ContainerError
from hpcbench.cluster.inbox import Inbox
from hpcbench.cluster.plan import run_key
from hpcbench.cluster.ranks import Exit, Ranks
from hpcbench.cluster.seats import ranks_on
from hpcbench.cluster.slurm.link import Message, Post, Wire
from hpcbench.cluster.supervisor import Assignment, ranks_here


def exit_to_json(ended: Exit) -> dict[str, Any]:
    """Return plain values; `exit_from_json` is the inverse."""
    return vars(ended) | {"signal": ended.signal.value if ended.signal else None}


def exit_from_json(values: Mapping[str, Any]) -> Exit:
    """Read what `exit_to_json` made."""
    number = values["signal"]
    return Exit(**{**values, "signal": signal.Signals(number) if number else None})


@dataclass
class Others:
    """The other nodes of a job: what they say goes to whoever supervises the run that is being done."""

    post: Post
    names: Sequence[str]
    inbox: Inbox
    lost: list[str] = field(default_factory=list)
    party: Party | None = None

    def hear(self, node: int, message: Message | None) -> None:
        """Take a message of a node; None: it is gone."""
        if message is None:
            self.lost.append(self.names[node])
            if self.party:
                self.party.lose(node)
        elif "signal" in message:
            self.inbox.take(signal.Signals(message["signal"]))
        elif self.party and message["of"] == self.party.label:
            self.party.note(exit_from_json(message["exit"]))


class Party:
    """What `Ranks` is for one node, for all of them; this one is node 0."""

    def __init__(self, report: Callable[[Exit], None], task: Assignment, others: Others) -> None:
        self._report, self._others = report, others
        self._here = ranks_here(task, report)
        spec, claim = task.spec, task.claim
        self._of_node = {node: ranks_on(spec, node) for node in range(spec.resources.nodes)}
        self._gone: set[int] = set()
        self.label = f"{run_key(spec.name, spec.repeat)} a{claim.attempt}"
        others.party = self
        order = {"do": "start", "of": self.label, "folder": str(claim.folder.path)}
        others.post.send_all(order | {"attempt": claim.attempt})

    def start(self, rank: int, environment: Mapping[str, str], log: Path) -> None:
        """Start a rank that belongs here."""
        if rank in self._of_node[0]:
            self._here.start(rank, environment, log)

    def watch(self) -> None:
        """Report the ends of ranks from now on; a node that has gone already takes its ranks with it."""
        self._here.watch()
        for node, name in enumerate(self._others.names):
            if name in self._others.lost:
                self.lose(node)

    def note(self, ended: Exit) -> None:
        """Report the end of a rank on another node, once."""
        if ended.rank not in self._gone:
            self._gone.add(ended.rank)
            self._report(ended)

    def lose(self, node: int) -> None:
        """Report the end of all that was on a node."""
        for rank in self._of_node.get(node, []):
            self.note(Exit(rank, time.time_ns(), None, None, lost=self._others.names[node]))

    def tell(self, ranks: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to ranks."""
        self._here.tell([rank for rank in ranks if rank in self._of_node[0]], number)
        self._others.post.send_all({"do": "tell", "ranks": list(ranks), "signal": number.value})

    def kill(self) -> None:
        """End all that is left of them, everywhere."""
        self._others.post.send_all({"do": "kill"})
        self._here.kill()

    def finish(self) -> None:
        """Leave nothing behind, anywhere."""
        self._others.post.send_all({"do": "finish"})
        self._here.finish()
        self._others.party = None


class Follower:
    """A node that does what node 0 says, and says what becomes of its ranks."""

    def __init__(
        self, wire: Wire, inbox: Inbox, assign: Callable[[Message], tuple[Assignment, dict[int, Any]]]
    ) -> None:
        self._wire, self._inbox, self._assign = wire, inbox, assign
        self._ranks: Ranks | None = None
        self._living: set[int] = set()
        self._label = ""

    def obey(self) -> bool:
        """Take messages until the job is over; returns whether node 0 has said so itself."""
        while True:
            message = self._inbox.wait()
            if isinstance(message, Exit):
                self._living.discard(message.rank)
                self._wire.send({"of": self._label, "exit": exit_to_json(message)})
            elif isinstance(message, signal.Signals):
                self._wire.send({"signal": message.value})
            elif message["do"] in ("leave", "lost"):
                self._finish()
                return bool(message["do"] == "leave")
            else:
                self._follow(message)

    def _follow(self, order: Message) -> None:
        if order["do"] == "start":
            self._start(order)
        elif order["do"] == "finish":
            self._finish()
        elif self._ranks and order["do"] == "kill":
            self._ranks.kill()
        elif self._ranks:
            told = [rank for rank in order["ranks"] if rank in self._living]
            self._ranks.tell(told, signal.Signals(order["signal"]))

    def _start(self, order: Message) -> None:
        task, environments = self._assign(order)
        self._label = order["of"]
        self._ranks = ranks_here(task, self._inbox.messages.put)
        self._living = set()
        for rank, environment in environments.items():
            log = task.claim.folder.log(task.claim.attempt, rank)
            try:
                self._ranks.start(rank, environment, log)
                self._living.add(rank)
            except ContainerError as error:
                with log.open("a") as output:
                    output.write(f"{error}\n")
                self._inbox.messages.put(Exit(rank, time.time_ns(), 1, None))
        self._ranks.watch()

    def _finish(self) -> None:
        if self._ranks:
            self._ranks.finish()
        self._ranks, self._living = None, set()

"""Supervisors of one job on several nodes: their connections to node 0, and the ranks that node 0 starts
through them.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from hpcbench.errors import HpcbenchError
from hpcbench.launch.containers.container_engines import ContainerError
from hpcbench.launch.rank_processes import LocalRanks, RankExit, SupervisorInbox
from hpcbench.launch.supervisor import Assignment, local_ranks
from hpcbench.runs.ledger import run_key
from hpcbench.runs.placement import ranks_on_node
from hpcbench.runs.record_writer import write_atomically

POLL_S = 0.05
CONNECT_S = 3.0
WELCOME = b"ok\n"
PeerMessage = dict[str, Any]
# A node that is switched off says nothing: after some 15 s without an answer it counts as gone.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}


class NodesMissingError(HpcbenchError):
    """Not all nodes of a job have come."""


@dataclass
class PeerConnection:
    """One connection; `lock` keeps the lines of two senders apart."""

    socket: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: PeerMessage) -> None:
        """Send a message; to a node that is gone, nothing: its end is reported where it is read."""
        try:
            with self.lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def listen(self, hear: Callable[[PeerMessage | None], None]) -> None:
        """Report every message, and None at the end, from a thread."""
        threading.Thread(target=self._read, args=(hear,), daemon=True).start()

    def _read(self, hear: Callable[[PeerMessage | None], None]) -> None:
        try:
            with self.socket.makefile("rb") as lines:
                for line in lines:
                    hear(json.loads(line))
        except OSError:
            pass  # reset by the other side: that is an end like any other
        hear(None)

    @property
    def interface(self) -> str | None:
        """The network interface that this connection uses here."""
        mine = _plain_address(self.socket.getsockname()[0])
        for name, addresses in psutil.net_if_addrs().items():
            if any(_plain_address(each.address) == mine for each in addresses):
                return name
        return None

    @property
    def peer(self) -> str:
        """The address of the other side, as it can be reached from here."""
        return _plain_address(self.socket.getpeername()[0])


def _plain_address(address: str) -> str:
    """Strip what IPv6 adds: the zone, and the prefix of an IPv4 address."""
    return address.partition("%")[0].removeprefix("::ffff:")


class PeerServer:
    """Node 0's side: waits for the others and knows each by its number."""

    def __init__(self, meeting: Path, names: list[str]) -> None:
        self._meeting, self._names, self._key = meeting, names, secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
        self.wires: dict[int, PeerConnection] = {}

    def gather(self, hear: Callable[[int, PeerMessage | None], None], patience_s: float) -> None:
        """Wait until all other nodes are connected; raises NodesMissingError, naming those that are not."""
        content = {"addresses": local_addresses(self._names[0]), "port": self._server.getsockname()[1]}
        write_atomically(self._meeting, json.dumps(content | {"key": self._key}))
        self._meeting.chmod(0o600)
        deadline = time.monotonic() + patience_s
        while len(self.wires) < len(self._names) - 1:
            self._server.settimeout(max(POLL_S, deadline - time.monotonic()))
            try:
                self._welcome(self._server.accept()[0])
            except TimeoutError:
                missing = [name for node, name in enumerate(self._names[1:], 1) if node not in self.wires]
                raise NodesMissingError(
                    f"no sign of {', '.join(missing)} within {patience_s:.0f} s on {self._names[0]}: can it "
                    f"see {self._meeting}, and reach port {content['port']} there?"
                ) from None
        self._server.close()
        self._meeting.unlink(missing_ok=True)
        for node, wire in self.wires.items():
            wire.listen(partial(hear, node))

    def _welcome(self, connection: socket.socket) -> None:
        connection.settimeout(CONNECT_S)
        try:
            hello = json.loads(connection.recv(4096))
        except (OSError, ValueError):
            connection.close()
            return
        if hello.get("key") != self._key:  # somebody else has found the port
            connection.close()
            return
        connection.sendall(WELCOME)
        self.wires[hello["node"]] = PeerConnection(_with_keepalive(connection))

    def send_all(self, message: PeerMessage) -> None:
        """Send a message to every node that is there."""
        for wire in self.wires.values():
            wire.send(message)


def connect_to_first_node(meeting: Path, node: int, patience_s: float) -> PeerConnection:
    """Connect to node 0, over whichever of its addresses can be reached; raises NodesMissingError."""
    deadline = time.monotonic() + patience_s
    tried: dict[str, str] = {}
    while time.monotonic() < deadline:
        try:
            where = json.loads(meeting.read_text())
        except (OSError, ValueError):
            time.sleep(POLL_S)  # not there yet; on a network file system it may take seconds to be seen
            continue
        for address in where["addresses"]:
            try:
                return PeerConnection(
                    _with_keepalive(_handshake(address, where["port"], {"node": node, "key": where["key"]}))
                )
            except OSError as error:
                tried[address] = str(error)
        time.sleep(POLL_S)
    what = "; ".join(f"{address}: {why}" for address, why in tried.items()) or f"{meeting} never appeared"
    raise NodesMissingError(f"node 0 could not be reached within {patience_s:.0f} s ({what})")


def _handshake(address: str, port: int, hello: PeerMessage) -> socket.socket:
    """Connect and be welcomed: an address such as that of a bridge may be one of this node's own, too."""
    connection = socket.create_connection((address, port), timeout=CONNECT_S)
    connection.sendall(json.dumps(hello).encode())
    if connection.recv(len(WELCOME)) != WELCOME:
        connection.close()
        raise ConnectionRefusedError("somebody else listens there")
    return connection


def _with_keepalive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def local_addresses(name: str) -> list[str]:
    """List how this node may be reached: by the scheduler's name for it first, then by number."""
    numbers = [
        each.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    outside = [each for each in numbers if not each.startswith(("127.", "::1", "fe80:"))]
    return list(dict.fromkeys([name, socket.gethostname(), *outside]))


def exit_to_json(ended: RankExit) -> dict[str, Any]:
    """Return plain values; `exit_from_json` is the inverse."""
    return vars(ended) | {"signal": ended.signal.value if ended.signal else None}


def exit_from_json(values: Mapping[str, Any]) -> RankExit:
    """Read what `exit_to_json` made."""
    number = values["signal"]
    return RankExit(**{**values, "signal": signal.Signals(number) if number else None})


@dataclass
class PeerNodes:
    """The other nodes of a job: what they say goes to whoever supervises the run that is being done."""

    post: PeerServer
    names: Sequence[str]
    inbox: SupervisorInbox
    lost: list[str] = field(default_factory=list)
    party: DistributedRanks | None = None

    def hear(self, node: int, message: PeerMessage | None) -> None:
        """Take a message of a node; None: it is gone."""
        if message is None:
            self.lost.append(self.names[node])
            if self.party:
                self.party.lose(node)
        elif "signal" in message:
            self.inbox.take(signal.Signals(message["signal"]))
        elif self.party and message["of"] == self.party.label:
            self.party.note(exit_from_json(message["exit"]))


class DistributedRanks:
    """What `Ranks` is for one node, for all of them; this one is node 0."""

    def __init__(self, report: Callable[[RankExit], None], task: Assignment, others: PeerNodes) -> None:
        self._report, self._others = report, others
        self._here = local_ranks(task, report)
        spec, claim = task.spec, task.claim
        self._of_node = {node: ranks_on_node(spec, node) for node in range(spec.resources.nodes)}
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

    def note(self, ended: RankExit) -> None:
        """Report the end of a rank on another node, once."""
        if ended.rank not in self._gone:
            self._gone.add(ended.rank)
            self._report(ended)

    def lose(self, node: int) -> None:
        """Report the end of all that was on a node."""
        for rank in self._of_node.get(node, []):
            self.note(RankExit(rank, time.time_ns(), None, None, lost=self._others.names[node]))

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


class PeerSupervisor:
    """A node that does what node 0 says, and says what becomes of its ranks."""

    def __init__(
        self,
        wire: PeerConnection,
        inbox: SupervisorInbox,
        assign: Callable[[PeerMessage], tuple[Assignment, dict[int, Any]]],
    ) -> None:
        self._wire, self._inbox, self._assign = wire, inbox, assign
        self._ranks: LocalRanks | None = None
        self._living: set[int] = set()
        self._label = ""

    def obey(self) -> bool:
        """Take messages until the job is over; returns whether node 0 has said so itself."""
        while True:
            message = self._inbox.wait()
            if isinstance(message, RankExit):
                self._living.discard(message.rank)
                self._wire.send({"of": self._label, "exit": exit_to_json(message)})
            elif isinstance(message, signal.Signals):
                self._wire.send({"signal": message.value})
            elif message["do"] in ("leave", "lost"):
                self._finish()
                return bool(message["do"] == "leave")
            else:
                self._follow(message)

    def _follow(self, order: PeerMessage) -> None:
        if order["do"] == "start":
            self._start(order)
        elif order["do"] == "finish":
            self._finish()
        elif self._ranks and order["do"] == "kill":
            self._ranks.kill()
        elif self._ranks:
            told = [rank for rank in order["ranks"] if rank in self._living]
            self._ranks.tell(told, signal.Signals(order["signal"]))

    def _start(self, order: PeerMessage) -> None:
        task, environments = self._assign(order)
        self._label = order["of"]
        self._ranks = local_ranks(task, self._inbox.messages.put)
        self._living = set()
        for rank, environment in environments.items():
            log = task.claim.folder.log(task.claim.attempt, rank)
            try:
                self._ranks.start(rank, environment, log)
                self._living.add(rank)
            except ContainerError as error:
                with log.open("a") as output:
                    output.write(f"{error}\n")
                self._inbox.messages.put(RankExit(rank, time.time_ns(), 1, None))
        self._ranks.watch()

    def _finish(self) -> None:
        if self._ranks:
            self._ranks.finish()
        self._ranks, self._living = None, set()

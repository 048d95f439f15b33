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
from hpcbench.launch.rank_processes import LocalRanks, RankExit, RankStartError, SupervisorInbox
from hpcbench.launch.supervisor import Assignment, local_ranks
from hpcbench.runs.ledger import run_key
from hpcbench.runs.placement import ranks_on_node
from hpcbench.runs.record_writer import write_atomically

CONNECT_POLL_S = 0.05
CONNECT_S = 3.0
WELCOME = b"ok\n"
PeerMessage = dict[str, Any]
# A node that is switched off does not answer: after some 15 s it counts as gone.
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

    def listen(self, on_message: Callable[[PeerMessage | None], None]) -> None:
        """Report every message, and None at the end, from a thread."""
        threading.Thread(target=self._read, args=(on_message,), daemon=True).start()

    def _read(self, on_message: Callable[[PeerMessage | None], None]) -> None:
        try:
            with self.socket.makefile("rb") as lines:
                for line in lines:
                    on_message(json.loads(line))
        except OSError:
            pass  # reset by the other side: that is an end like any other
        on_message(None)

    @property
    def interface(self) -> str | None:
        """The network interface that this connection uses here."""
        own_address = _plain_address(self.socket.getsockname()[0])
        for name, entries in psutil.net_if_addrs().items():
            if any(_plain_address(entry.address) == own_address for entry in entries):
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

    def __init__(self, rendezvous: Path, names: list[str]) -> None:
        self._rendezvous, self._names, self._key = rendezvous, names, secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
        self.connections: dict[int, PeerConnection] = {}

    def accept_all(self, on_message: Callable[[int, PeerMessage | None], None], timeout_s: float) -> None:
        """Wait until all other nodes are connected; raises NodesMissingError, naming those that are not."""
        content = {"addresses": local_addresses(self._names[0]), "port": self._server.getsockname()[1]}
        write_atomically(self._rendezvous, json.dumps(content | {"key": self._key}))
        self._rendezvous.chmod(0o600)
        deadline = time.monotonic() + timeout_s
        while len(self.connections) < len(self._names) - 1:
            self._server.settimeout(max(CONNECT_POLL_S, deadline - time.monotonic()))
            try:
                self._accept(self._server.accept()[0])
            except TimeoutError:
                absent = set(range(1, len(self._names))) - self.connections.keys()
                missing = ", ".join(self._names[node] for node in sorted(absent))
                raise NodesMissingError(
                    f"no connection from {missing} within {timeout_s:.0f} s on {self._names[0]}: can it see "
                    f"{self._rendezvous}, and reach port {content['port']} there?"
                ) from None
        self._server.close()
        self._rendezvous.unlink(missing_ok=True)
        for node, connection in self.connections.items():
            connection.listen(partial(on_message, node))

    def _accept(self, connection: socket.socket) -> None:
        connection.settimeout(CONNECT_S)
        try:
            hello = json.loads(connection.recv(4096))
        except (OSError, ValueError):
            connection.close()
            return
        if hello.get("key") != self._key:  # another program has found the port
            connection.close()
            return
        connection.sendall(WELCOME)
        self.connections[hello["node"]] = PeerConnection(_with_keepalive(connection))

    def send_all(self, message: PeerMessage) -> None:
        """Send a message to every node that is there."""
        for connection in self.connections.values():
            connection.send(message)


def connect_to_first_node(rendezvous: Path, node: int, timeout_s: float) -> PeerConnection:
    """Connect to node 0, over whichever of its addresses can be reached; raises NodesMissingError."""
    deadline = time.monotonic() + timeout_s
    tried: dict[str, str] = {}
    while time.monotonic() < deadline:
        try:
            where = json.loads(rendezvous.read_text())
        except (OSError, ValueError):
            time.sleep(CONNECT_POLL_S)  # it may take seconds to be seen on a network file system
            continue
        for address in where["addresses"]:
            try:
                return PeerConnection(
                    _with_keepalive(_handshake(address, where["port"], {"node": node, "key": where["key"]}))
                )
            except OSError as error:
                tried[address] = str(error)
        time.sleep(CONNECT_POLL_S)
    what = "; ".join(f"{address}: {why}" for address, why in tried.items()) or f"{rendezvous} never appeared"
    raise NodesMissingError(f"node 0 could not be reached within {timeout_s:.0f} s ({what})")


def _handshake(address: str, port: int, hello: PeerMessage) -> socket.socket:
    """Connect and be accepted: an address such as that of a bridge may be one of this node's own, too."""
    connection = socket.create_connection((address, port), timeout=CONNECT_S)
    connection.sendall(json.dumps(hello).encode())
    if connection.recv(len(WELCOME)) != WELCOME:
        connection.close()
        raise ConnectionRefusedError("another program listens there")
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
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    outside = [number for number in numbers if not number.startswith(("127.", "::1", "fe80:"))]
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
    """The other nodes of a job: their messages go to the supervisor of the run that is being done."""

    server: PeerServer
    names: Sequence[str]
    inbox: SupervisorInbox
    lost: list[str] = field(default_factory=list)
    ranks: DistributedRanks | None = None

    def on_message(self, node: int, message: PeerMessage | None) -> None:
        """Take a message of a node; None: it is gone."""
        if message is None:
            self.lost.append(self.names[node])
            if self.ranks:
                self.ranks.report_node_lost(node)
        elif "signal" in message:
            self.inbox.handle_signal(signal.Signals(message["signal"]))
        elif self.ranks and message["of"] == self.ranks.label:
            self.ranks.report_exit(exit_from_json(message["exit"]))


class DistributedRanks:
    """The ranks of a run on all nodes of a job; this one is node 0."""

    def __init__(self, report: Callable[[RankExit], None], task: Assignment, others: PeerNodes) -> None:
        self._report, self._others = report, others
        self._here = local_ranks(task, report)
        spec, claim = task.spec, task.claim
        self._of_node = {node: ranks_on_node(spec, node) for node in range(spec.resources.nodes)}
        self._gone: set[int] = set()
        self.label = f"{run_key(spec.name, spec.repeat)} a{claim.attempt}"
        others.ranks = self
        order = {"do": "start", "of": self.label, "folder": str(claim.folder.path)}
        others.server.send_all(order | {"attempt": claim.attempt})

    def start(self, rank: int, environment: Mapping[str, str], log: Path) -> None:
        """Start a rank that belongs here."""
        if rank in self._of_node[0]:
            self._here.start(rank, environment, log)

    def watch(self) -> None:
        """Report the ends of ranks from now on; a node that has gone already takes its ranks with it."""
        self._here.watch()
        for node, name in enumerate(self._others.names):
            if name in self._others.lost:
                self.report_node_lost(node)

    def report_exit(self, ended: RankExit) -> None:
        """Report the end of a rank on another node, once."""
        if ended.rank not in self._gone:
            self._gone.add(ended.rank)
            self._report(ended)

    def report_node_lost(self, node: int) -> None:
        """Report the end of all that was on a node."""
        for rank in self._of_node.get(node, []):
            self.report_exit(RankExit(rank, time.time_ns(), None, None, lost=self._others.names[node]))

    def send_signal(self, ranks: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to ranks."""
        self._here.send_signal([rank for rank in ranks if rank in self._of_node[0]], number)
        self._others.server.send_all({"do": "signal", "ranks": list(ranks), "number": number.value})

    def kill(self) -> None:
        """End all that is left of them, everywhere."""
        self._others.server.send_all({"do": "kill"})
        self._here.kill()

    def finish(self) -> None:
        """Leave nothing behind, anywhere."""
        self._others.server.send_all({"do": "finish"})
        self._here.finish()
        self._others.ranks = None


class PeerSupervisor:
    """A node that starts and ends ranks when node 0 says so, and reports their ends."""

    def __init__(
        self,
        connection: PeerConnection,
        inbox: SupervisorInbox,
        assign: Callable[[PeerMessage], tuple[Assignment, dict[int, Any]]],
    ) -> None:
        self._connection, self._inbox, self._assign = connection, inbox, assign
        self._ranks: LocalRanks | None = None
        self._living: set[int] = set()
        self._label = ""

    def serve(self) -> bool:
        """Take messages until the job is over; returns whether node 0 has ended it."""
        while True:
            message = self._inbox.wait_for_message()
            if isinstance(message, RankExit):
                self._living.discard(message.rank)
                self._connection.send({"of": self._label, "exit": exit_to_json(message)})
            elif isinstance(message, signal.Signals):
                self._connection.send({"signal": message.value})
            elif message["do"] in ("leave", "lost"):
                self._finish()
                return bool(message["do"] == "leave")
            else:
                self._handle(message)

    def _handle(self, order: PeerMessage) -> None:
        if order["do"] == "start":
            self._start(order)
        elif order["do"] == "finish":
            self._finish()
        elif self._ranks and order["do"] == "kill":
            self._ranks.kill()
        elif self._ranks:
            living = [rank for rank in order["ranks"] if rank in self._living]
            self._ranks.send_signal(living, signal.Signals(order["number"]))

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
            except RankStartError as error:
                with log.open("a") as output:
                    output.write(f"{error}\n")
                self._inbox.messages.put(RankExit(rank, time.time_ns(), 1, None))
        self._ranks.watch()

    def _finish(self) -> None:
        if self._ranks:
            self._ranks.finish()
        self._ranks, self._living = None, set()

"""How the supervisors of one job talk: those of the other nodes each hold a connection to that of node 0.

Orders and news are lines of JSON. A connection that ends says that a node, or its supervisor, is gone: that
is how the death of a node is known at once, on every node, without Slurm.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from hpcbench.errors import HpcbenchError
from hpcbench.records.writer import write_atomically

POLL_S = 0.05
CONNECT_S = 3.0
WELCOME = b"ok\n"
Message = dict[str, Any]
# A node that is switched off says nothing: after some 15 s without an answer it counts as gone.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}


class NodesMissingError(HpcbenchError):
    """Not all nodes of a job have come."""


@dataclass
class Wire:
    """One connection; `lock` keeps the lines of two senders apart."""

    socket: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Message) -> None:
        """Send a message; to a node that is gone, nothing: its end is reported where it is read."""
        try:
            with self.lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return

    def listen(self, hear: Callable[[Message | None], None]) -> None:
        """Report every message, and None at the end, from a thread."""
        threading.Thread(target=self._read, args=(hear,), daemon=True).start()

    def _read(self, hear: Callable[[Message | None], None]) -> None:
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
        mine = _plain(self.socket.getsockname()[0])
        for name, addresses in psutil.net_if_addrs().items():
            if any(_plain(each.address) == mine for each in addresses):
                return name
        return None

    @property
    def peer(self) -> str:
        """The address of the other side, as it can be reached from here."""
        return _plain(self.socket.getpeername()[0])


def _plain(address: str) -> str:
    """Strip what IPv6 adds: the zone, and the prefix of an IPv4 address."""
    return address.partition("%")[0].removeprefix("::ffff:")


class Post:
    """Node 0's side: waits for the others and knows each by its number."""

    def __init__(self, meeting: Path, names: list[str]) -> None:
        self._meeting, self._names, self._key = meeting, names, secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both)
        self.wires: dict[int, Wire] = {}

    def gather(self, hear: Callable[[int, Message | None], None], patience_s: float) -> None:
        """Wait until all other nodes are connected; raises NodesMissingError, naming those that are not."""
        content = {"addresses": addresses_here(self._names[0]), "port": self._server.getsockname()[1]}
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
        self.wires[hello["node"]] = Wire(_lasting(connection))

    def send_all(self, message: Message) -> None:
        """Send a message to every node that is there."""
        for wire in self.wires.values():
            wire.send(message)


def connect(meeting: Path, node: int, patience_s: float) -> Wire:
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
                return Wire(_lasting(_knock(address, where["port"], {"node": node, "key": where["key"]})))
            except OSError as error:
                tried[address] = str(error)
        time.sleep(POLL_S)
    what = "; ".join(f"{address}: {why}" for address, why in tried.items()) or f"{meeting} never appeared"
    raise NodesMissingError(f"node 0 could not be reached within {patience_s:.0f} s ({what})")


def _knock(address: str, port: int, hello: Message) -> socket.socket:
    """Connect and be welcomed: an address such as that of a bridge may be one of this node's own, too."""
    connection = socket.create_connection((address, port), timeout=CONNECT_S)
    connection.sendall(json.dumps(hello).encode())
    if connection.recv(len(WELCOME)) != WELCOME:
        connection.close()
        raise ConnectionRefusedError("somebody else listens there")
    return connection


def _lasting(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def addresses_here(name: str) -> list[str]:
    """List how this node may be reached: by the scheduler's name for it first, then by number."""
    numbers = [
        each.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    outside = [each for each in numbers if not each.startswith(("127.", "::1", "fe80:"))]
    return list(dict.fromkeys([name, socket.gethostname(), *outside]))

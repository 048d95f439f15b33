"""What `hpcbench doctor` finds: one check a line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """`ABSENT` is nothing wrong: not every machine has everything."""

    FINE = "fine"
    ABSENT = "absent"
    WRONG = "wrong"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at, and what mends it where it is wrong."""

    area: str
    name: str
    state: State
    found: str
    advice: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return an entry of `doctor --json`."""
        return {**vars(self), "state": self.state.value}

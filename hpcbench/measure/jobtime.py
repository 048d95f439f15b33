"""How much processor time the processes of a job have used, found without asking about every process.

The ranks lead sessions of their own, and what they start stays in these. Whose a process is, is looked up
once, when it is new: on a node with thousands of processes that is what keeps a reading cheap.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc")
SESSION, USER_TICKS, SYSTEM_TICKS = 3, 11, 12  # fields 6, 14, 15 of proc(5) stat, counted after the name
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class JobProcesses:
    """The processes of these `sessions`, this one, and those whose environment names `mark`.

    The mark is for containers whose processes an engine has started: they are in no session of ours.
    """

    def __init__(self, sessions: Collection[int], mark: str | None = None) -> None:
        self._sessions = frozenset(sessions)
        self._mark = mark.encode() if mark else None
        self._mine: dict[int, bool] = {}
        self._ticks: dict[int, int] = {}

    @property
    def pids(self) -> set[int]:
        """The processes of the job when it was last looked."""
        return set(self._ticks)

    def used_s(self) -> float:
        """Return the processor time that the job has used since the last call, of all cores together.

        What has ended in between is missing, at most its last interval.
        """
        there = {int(name) for name in os.listdir(PROC) if name.isdigit()}  # noqa: PTH208  once a second
        self._mine = {pid: mine for pid, mine in self._mine.items() if pid in there}
        before, self._ticks = self._ticks, {}
        used = 0
        for pid in there:
            if self._mine.get(pid, True):
                used += self._look_at(pid, before)
        return used / TICKS_PER_S

    def _look_at(self, pid: int, before: dict[int, int]) -> int:
        """Note a process's time if it is the job's; return how much was added since it was last seen."""
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0  # it has ended
        if pid not in self._mine:
            session = int(fields[SESSION])
            self._mine[pid] = pid == os.getpid() or session in self._sessions or self._is_marked(pid)
        if not self._mine[pid]:
            return 0
        ticks = self._ticks[pid] = int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])
        return ticks - before.get(pid, 0)

    def _is_marked(self, pid: int) -> bool:
        if self._mark is None:
            return False
        try:
            return self._mark in (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False  # somebody else's

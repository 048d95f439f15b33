"""What a rank in a container may lock in memory and put on its stack: as much as this machine lets it.

NVIDIA asks for unlimited locked memory and 64 MiB of stack. An engine refuses to start a container with a
limit that it may not set, so nothing is asked for that can't be had.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")
PID_MAX = Path("/proc/sys/kernel/pid_max")
CAP_SYS_RESOURCE = 1 << 24
STACK_BYTES = 64 * 1024 * 1024


def limits_of_root(status: str | None = None) -> tuple[str, ...]:
    """Return the limits that an engine run by root can give: any, unless this machine withholds that."""
    found = re.search(
        r"^CapBnd:\s*([0-9a-f]+)$", STATUS.read_text() if status is None else status, re.MULTILINE
    )
    if found and int(found[1], 16) & CAP_SYS_RESOURCE:
        return ("memlock=-1:-1", f"stack={STACK_BYTES}:{STACK_BYTES}")
    return limits_of_caller()


def limits_of_caller() -> tuple[str, ...]:
    """Return the limits that whoever runs this has: podman would try to set higher ones by itself."""
    stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    largest = STACK_BYTES if stack == resource.RLIM_INFINITY else min(stack, STACK_BYTES)
    kept = {
        "memlock": resource.RLIMIT_MEMLOCK,
        "nofile": resource.RLIMIT_NOFILE,
        "nproc": resource.RLIMIT_NPROC,
    }
    values = {name: resource.getrlimit(kind)[1] for name, kind in kept.items()} | {"stack": largest}
    # podman has lowered its own to this, so it can't give more.
    pids = int(PID_MAX.read_text())
    values["nproc"] = pids if values["nproc"] == resource.RLIM_INFINITY else min(values["nproc"], pids)
    return tuple(f"{name}={value}:{value}" for name, value in sorted(values.items()))

"""How much memory a rank has needed at most."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def resident_peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    Linux tells it in /proc (VmHWM, proc_pid_status(5)). getrusage, which is asked elsewhere, there counts the
    process that started this one as well: a rank that a large process starts would have its peak.
    """
    found = PEAK.search(STATUS.read_text()) if STATUS.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_peak_bytes(device: torch.device) -> int:
    """Return the largest amount allocated on a GPU since the last call, and begin anew.

    On a CPU this is the resident set of the process, which never begins anew.
    """
    if device.type != "cuda":
        return resident_peak_bytes()
    import torch

    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return int(peak)

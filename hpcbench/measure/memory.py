"""How much memory a rank has needed at most."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def resident_peak_bytes() -> int:
    """Return the largest resident set of this process so far (getrusage counts KiB on Linux)."""
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

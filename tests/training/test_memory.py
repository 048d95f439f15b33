"""The peak of a rank's resident set is its own."""

from __future__ import annotations

import subprocess
import sys

from hpcbench.training.measurement import resident_peak_bytes

PEAK = "from hpcbench.training.measurement import resident_peak_bytes; print(resident_peak_bytes())"
LARGE = f"""
import subprocess, sys
kept = bytearray(300_000_000)
kept[::4096] = b"x" * len(kept[::4096])
print(subprocess.run([sys.executable, "-c", {PEAK!r}], capture_output=True, text=True, check=True).stdout)
{PEAK}
"""


def test_a_process_does_not_have_the_peak_of_the_one_that_started_it() -> None:
    """What a rank has needed does not depend on who has started it: 300 MB of that one are not its own."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    inner, outer = (int(line) for line in done.stdout.split())
    assert inner < 100_000_000 < 300_000_000 < outer


def test_the_peak_stays_when_memory_is_given_back() -> None:
    """It is the largest so far, not what is used now."""
    before = resident_peak_bytes()
    taken = bytearray(before + 50_000_000)
    taken[::4096] = b"x" * len(taken[::4096])
    assert resident_peak_bytes() >= before + 50_000_000
    del taken
    assert resident_peak_bytes() >= before + 50_000_000

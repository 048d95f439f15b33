"""What it costs to look at a node while it trains."""

from __future__ import annotations

import os
import time

import psutil

from hpcbench.launch.node_telemetry import INTERVAL_S, JobProcesses, NodeMeter

READINGS = 20


def test_telemetry_takes_less_than_half_a_per_cent_of_a_core() -> None:
    """Processor time of readings at their real interval, over the time that went by."""
    meter = NodeMeter("host", JobProcesses([os.getsid(0)]), None)
    spent_s, began = 0.0, time.monotonic()
    for _ in range(READINGS):
        time.sleep(INTERVAL_S)
        meter.read()
        if meter.full and (event := meter.event()):
            spent_s += event.reading_s
    share = spent_s / (time.monotonic() - began)
    print(
        f"\ntelemetry: {1e3 * spent_s / READINGS:.2f} ms a reading beside {len(psutil.pids())} processes on "
        f"{psutil.cpu_count()} cores: {share:.3%} of one core"
    )
    assert share < 0.005

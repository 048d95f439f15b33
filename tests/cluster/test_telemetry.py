"""What a supervisor sees of its node while a run goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from hpcbench.launch.gpu_telemetry import GpuReader, handles_of, reasons_of
from hpcbench.launch.node_telemetry import READINGS_PER_EVENT, JobProcesses, NodeMeter
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import supervise
from hpcbench.runs.events import RunFailed, Telemetry
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import FIRST_NODE
from tests.cluster.helpers import Lab, noop
from tests.cluster.test_supervisor import task_of

SPIN = "import os, time\nend = time.monotonic() + {0}\nwhile time.monotonic() < end: pass"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_run_leaves_telemetry_once_a_second(lab: Lab) -> None:
    """A run of some seconds has a reading for each, and the supervisor's last word stands behind them."""
    spec = noop(ranks=1, step_s=0.15, fail_at_step=19)
    began = time.monotonic()
    task = task_of(lab.folder / "run", spec)
    assert supervise(task, SupervisorInbox()).state == "failed"
    seconds = time.monotonic() - began
    *events, last = [
        each.event for each in read_events(task.claim.folder.supervisor_events(1, FIRST_NODE)).records
    ]
    assert isinstance(last, RunFailed)
    assert events
    assert all(isinstance(event, Telemetry) for event in events)
    read = [event for event in events if isinstance(event, Telemetry)]
    times_ns = [each for event in read for each in event.read_ns]
    assert seconds - 2.5 <= len(times_ns) <= seconds
    for event in read:
        lists = (event.cpu_percent, event.load, event.cpu_mhz, event.memory_used_bytes, event.other_cpu_cores)
        assert {len(each) for each in lists} == {len(event.read_ns)}
        assert event.device_percent is None
        assert 0 < event.reading_s < 0.1 * len(event.read_ns)
    assert all(0.4e9 < after - before < 3e9 for before, after in pairwise(times_ns))


def test_short_run_leaves_no_file(lab: Lab) -> None:
    """What ends well within a second was not looked at, and its folder has no empty file for that."""
    task = task_of(lab.folder / "run", noop(ranks=1, step_s=0.0))
    assert supervise(task, SupervisorInbox()).state == "finished"
    path = task.claim.folder.supervisor_events(1, FIRST_NODE)
    assert not path.exists() or read_events(path).records


def test_other_processes_are_told_from_those_of_the_job() -> None:
    """Work in a session of the job and in what it has started is the job's, other work is not."""
    code = SPIN.format(1.2)
    mine = subprocess.Popen([sys.executable, "-c", CHILD, code], start_new_session=True)
    other = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        job = JobProcesses([mine.pid])
        job.used_s()
        time.sleep(0.8)
        before = {p.pid for p in (psutil.Process(mine.pid), *psutil.Process(mine.pid).children())}
        used_s = job.used_s()
        assert before <= job.pids
        assert other.pid not in job.pids
        assert len(before) == 2
        spun = psutil.Process(other.pid).cpu_times()
        assert 0.1 < used_s < 0.9
        assert spun.user > 0.1
    finally:
        mine.wait()
        other.wait()


def test_process_of_an_engine_is_known_by_its_mark() -> None:
    """A process in no session of the job is its own by what its environment says."""
    environment = {"PLACE": "/results/run one"}
    process = subprocess.Popen(["sleep", "5"], env={"PATH": "/usr/bin:/bin", **environment})
    try:
        time.sleep(0.1)
        for mark, found in (("/results/run one", True), ("/results/run two", False), (None, False)):
            job = JobProcesses([], mark)
            job.used_s()
            assert (process.pid in job.pids) is found
    finally:
        process.kill()
        process.wait()


def test_meter_sees_a_busy_neighbour() -> None:
    """Cores that somebody else keeps busy are counted; the job's own are not."""
    meter = NodeMeter("host", JobProcesses([]), None)
    with subprocess.Popen([sys.executable, "-c", SPIN.format(1.5)], start_new_session=True):
        time.sleep(1.2)
        meter.read()
    event = meter.event()
    assert event is not None
    assert event.other_cpu_cores[0] > 0.3
    assert event.cpu_percent[0] > 100 * 0.3 / (psutil.cpu_count() or 1)
    assert meter.event() is None


def test_a_batch_asks_for_clocks_once() -> None:
    """The cores' clock is read with the first reading of an event."""
    meter = NodeMeter("host", JobProcesses([]), None)
    for _ in range(READINGS_PER_EVENT):
        assert not meter.full
        meter.read()
    assert meter.full
    event = meter.event()
    assert event is not None
    assert event.cpu_mhz[1:] == [None] * (READINGS_PER_EVENT - 1)


@pytest.mark.parametrize("error", [NotImplementedError, FileNotFoundError])
def test_a_clock_that_cannot_be_read_is_not_told(monkeypatch: Any, error: type[Exception]) -> None:
    """Where the kernel hides its cores' clocks, the rest is read as ever."""

    def hidden() -> None:
        raise error

    monkeypatch.setattr(psutil, "cpu_freq", hidden)
    meter = NodeMeter("host", JobProcesses([]), None)
    meter.read()
    event = meter.event()
    assert event is not None and event.cpu_mhz == [None]


def test_supervisor_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    """Telemetry that a full disk has cut off does not break what is written after it."""
    path = tmp_path / "events.a1.node0.jsonl"
    with EventWriter(path, run_id="r", attempt=1, rank=None) as writer:
        writer.write(RunFailed(reason="first"))
    with path.open("a") as file:
        file.write('{"event":"telemetry","sche')
    with EventWriter(path, run_id="r", attempt=1, rank=None, go_on=True) as writer:
        writer.write(RunFailed(reason="second"))
    reasons = [record.event.reason for record in read_events(path).records]  # type: ignore[attr-defined]
    assert reasons == ["first", "second"]


class FakeError(Exception):
    """What NVML raises."""


def fake_nvml(**changes: Any) -> Any:
    """Return the part of nvidia-ml-py that is used, of a machine with two GPUs; there is none here."""

    def unsupported(*_: Any) -> Any:
        raise FakeError("not supported")

    functions = {
        "NVMLError": FakeError,
        "NVML_CLOCK_SM": 1, "NVML_TEMPERATURE_GPU": 0,
        "NVML_PCIE_UTIL_TX_BYTES": 0, "NVML_PCIE_UTIL_RX_BYTES": 1,
        "nvmlClocksThrottleReasonNone": 0, "nvmlClocksThrottleReasonGpuIdle": 1,
        "nvmlClocksThrottleReasonSwPowerCap": 4, "nvmlClocksThrottleReasonHwSlowdown": 8,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda text: {"GPU-b": 1}[text],
        "nvmlDeviceGetUtilizationRates": lambda h: SimpleNamespace(gpu=90 + h),
        "nvmlDeviceGetClockInfo": lambda h, kind: 2500,
        "nvmlDeviceGetPowerUsage": lambda h: 350_000,
        "nvmlDeviceGetTemperature": lambda h, kind: 60,
        "nvmlDeviceGetMemoryInfo": lambda h: SimpleNamespace(used=10**9),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda h: 1 + 4 + 8,
        "nvmlDeviceGetPcieThroughput": unsupported,
        "nvmlDeviceGetComputeRunningProcesses": lambda h: [SimpleNamespace(pid=n) for n in (100 + h, 7)],
    }  # fmt: skip
    return SimpleNamespace(**functions | changes)


def test_gpus_are_read_in_the_order_of_the_job() -> None:
    """Each quantity has an entry a GPU, in plain units; one that a GPU does not know is left out."""
    gpus = GpuReader.find("1,0", fake_nvml())
    assert gpus is not None
    read = gpus.read(job_pids=[100, 101])
    assert read is not None
    assert read["device_percent"] == [91.0, 90.0]
    assert read["device_watts"] == [350.0, 350.0]
    assert read["device_throttle"] == ["HwSlowdown|SwPowerCap"] * 2
    assert read["device_other_processes"] == 2
    assert "device_pcie_bytes_per_s" not in read
    assert handles_of(fake_nvml(), "GPU-b") == [1]


def test_processes_of_another_namespace_count_as_ours_once() -> None:
    """Where no number is known here, one process on each GPU is taken for the rank."""
    gpus = GpuReader.find(None, fake_nvml())
    assert gpus is not None
    read = gpus.read(job_pids=[1])
    assert read is not None
    assert read["device_other_processes"] == 2


def test_telemetry_without_a_driver_has_no_devices() -> None:
    """No driver, no GPU, or a GPU that falls off the bus: other readings go on."""

    def gone(*_: Any) -> Any:
        raise FakeError("driver not loaded")

    assert GpuReader.find(None, fake_nvml(nvmlInit=gone)) is None
    assert GpuReader.find(None, fake_nvml(nvmlDeviceGetCount=lambda: 0)) is None
    nvml = fake_nvml()
    gpus = GpuReader.find(None, nvml)
    meter = NodeMeter("host", JobProcesses([]), gpus)
    meter.read()
    nvml.nvmlDeviceGetUtilizationRates = gone
    meter.read()
    event = meter.event()
    assert event is not None
    assert event.device_percent is None
    assert len(event.cpu_percent) == 2


def test_names_of_the_library_are_its_own() -> None:
    """Every function and constant that is used exists in nvidia-ml-py, and so do reasons for low clocks."""
    pynvml = pytest.importorskip("pynvml", reason="the optional extra nvidia is not installed")
    for name in vars(fake_nvml()):
        if not name.startswith("nvmlClocks"):
            assert hasattr(pynvml, name), name
    assert {"HwSlowdown", "SwPowerCap", "HwThermalSlowdown"} <= reasons_of(pynvml).keys()

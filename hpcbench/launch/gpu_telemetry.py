"""Utilisation, clocks and power of a job's GPUs, read through NVML; nothing where the library or a GPU is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

KILO = 1000  # NVML counts PCIe bytes in KB/s, power in milliwatts
# Bits that are no reason for a clock below its best: nothing to do, and masks.
NO_REASON = ("GpuIdle", "None", "All")
REASON_PREFIXES = ("nvmlClocksEventReason", "nvmlClocksThrottleReason")

GpuField = Callable[[Any], Any]


class GpuReader:
    """The GPUs of a job in its order. What one of them does not know is left out for all."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml, self._handles = nvml, handles
        self._reasons = reasons_of(nvml)
        self._fields = {name: field for name, field in self._all_fields().items() if self._is_known(field)}

    @classmethod
    def find(cls, visible: str | None, library: Any = None) -> GpuReader | None:
        """Return the GPUs that CUDA_VISIBLE_DEVICES names (None: all); None where they can't be asked."""
        nvml = library or _load_nvml()
        if nvml is None:
            return None
        try:
            nvml.nvmlInit()
            handles = handles_of(nvml, visible)
        except nvml.NVMLError:
            return None
        return cls(nvml, handles) if handles else None

    def read(self, job_pids: Collection[int]) -> dict[str, Any] | None:
        """Return each known quantity, one entry a GPU; `job_pids` are the processes of the job.

        `device_other_processes` is one number. None where a GPU does not answer any more.
        """
        try:
            found = {name: [field(h) for h in self._handles] for name, field in self._fields.items()}
            others = [self._others(handle, job_pids) for handle in self._handles]
        except self._nvml.NVMLError:
            return None
        return {**found, "device_other_processes": sum(others)}

    def _all_fields(self) -> dict[str, GpuField]:
        nvml = self._nvml
        return {
            "device_percent": lambda h: float(nvml.nvmlDeviceGetUtilizationRates(h).gpu),
            "device_mhz": lambda h: int(nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM)),
            "device_watts": lambda h: nvml.nvmlDeviceGetPowerUsage(h) / KILO,
            "device_celsius": lambda h: int(nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU)),
            "device_memory_used_bytes": lambda h: int(nvml.nvmlDeviceGetMemoryInfo(h).used),
            "device_throttle": self._throttle,
            "device_pcie_bytes_per_s": self._pcie,
        }

    def _is_known(self, field: GpuField) -> bool:
        try:
            for handle in self._handles:
                field(handle)
        except self._nvml.NVMLError:
            return False
        return True

    def _throttle(self, handle: Any) -> str:
        bits = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return "|".join(name for name, bit in self._reasons.items() if bits & bit)

    def _pcie(self, handle: Any) -> float:
        """Both directions; the driver counts for 20 ms at each call, and sleeps meanwhile."""
        nvml = self._nvml
        directions = (nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES)
        return float(sum(nvml.nvmlDeviceGetPcieThroughput(handle, each) for each in directions) * KILO)

    def _others(self, handle: Any, job_pids: Collection[int]) -> int:
        """Count processes that compute on a GPU and are not the job's.

        Where none of them is known here the numbers are of another namespace: then one of them is ours.
        """
        running = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        known = running & set(job_pids)
        return len(running) - (len(known) or min(1, len(running)))


def _load_nvml() -> Any:
    """Return nvidia-ml-py, which is optional; None without it."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def handles_of(nvml: Any, visible: str | None) -> list[Any]:
    """Return the handles of the visible GPUs: by UUID, or by number in the order of the bus."""
    if visible is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    handles = []
    for entry in filter(None, (part.strip() for part in visible.split(","))):
        by_number = entry.isdigit()
        handles.append(
            nvml.nvmlDeviceGetHandleByIndex(int(entry))
            if by_number
            else nvml.nvmlDeviceGetHandleByUUID(entry)
        )
    return handles


def reasons_of(nvml: Any) -> dict[str, int]:
    """Return the bits that say why clocks are low, under NVML's names for them."""
    found: dict[str, int] = {}
    for prefix in REASON_PREFIXES:
        for name in sorted(vars(nvml)):
            word = name.removeprefix(prefix)
            bit = getattr(nvml, name)
            if word == name or word in NO_REASON or not isinstance(bit, int) or bit in found.values():
                continue
            found[word] = bit
    return found

"""Rules about the machine: the same for all runs, and otherwise idle."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.audit.evidence import RowComparison, most_frequent
from hpcbench.runs.events import OVERSUBSCRIBED, SHARED_MACHINE, Telemetry
from hpcbench.sweep.run_spec import flatten_fields

# A run that has just ended still shows in the load, with at most one for each core.
LOAD_PER_CORE = 1.5
FEWEST_READINGS = 3  # of telemetry, one a second: fewer are an accident
OTHERS_SHARE = 0.10  # of the cores; a system at rest needs a hundredth
# Parts of NVML's reasons. Idle clocks and clocks that an application asked for are no throttling.
SLOWDOWN_REASONS = ("thermal", "hwslowdown", "powerbrake")
MAX_SLOWDOWN_SHARE = 0.05
POWER_CAP_REASONS = ("powercap",)
MAX_POWER_CAP_SHARE = 0.20
WORKING_PERCENT = 50.0
SLOW_CLOCK = 0.8

COMPARED_FACTS = (
    "hpcbench", "python", "os", "cpu", "cores_physical", "cores_logical", "cores_usable", "device",
    "device_memory_bytes", "cuda", "cudnn", "threads", "image_digest", "packages", "variables", "git",
)  # fmt: skip
# hpcbench sets these itself, by the number of ranks; scikit-learn the last two, by being imported.
FACTS_SET_BY_HPCBENCH = (
    "variables.GLOO_SOCKET_IFNAME", "variables.OMP_NUM_THREADS", "variables.MKL_NUM_THREADS",
    "variables.KMP_DUPLICATE_LIB_OK", "variables.KMP_INIT_AT_FORK",
)  # fmt: skip


def busy_machine(repeat: FinishedRepeat) -> Observation | None:
    """Find runs that were not alone on their machine, by their mark, the telemetry, or the load before."""
    return _shared_machine(repeat) or _others_seen(repeat) or _load_before(repeat)


def _shared_machine(repeat: FinishedRepeat) -> Observation | None:
    started = repeat.history.started
    if started is None or SHARED_MACHINE not in started.warnings:
        return None
    return Observation(message="another job ran on the machine at the same time")


def _others_seen(repeat: FinishedRepeat) -> Observation | None:
    """Find processes outside the job, on the cores or on its devices."""
    started = repeat.history.started
    cores = started.environment.get("cores_usable") if started else None
    for host, told in _by_host(repeat.history.telemetry).items():
        busy = [each for line in told for each in line.other_cpu_cores]
        if cores and len(busy) >= FEWEST_READINGS and statistics.fmean(busy) > OTHERS_SHARE * cores:
            return Observation(
                message=f"other processes kept {statistics.fmean(busy):.2g} of {cores} cores of {host} busy "
                "while it ran",
                figures={"other_cpu_cores": statistics.fmean(busy), "cores": cores, "readings": len(busy)},
            )
        others = [each for line in told for each in line.device_other_processes or ()]
        if len(others) >= FEWEST_READINGS and statistics.median(others) > 0:
            return Observation(
                message=f"{max(others)} other processes were on the devices of {host} while it ran",
                figures={"device_other_processes": max(others), "readings": len(others)},
            )
    return None


def throttled(repeat: FinishedRepeat) -> Observation | None:
    """Find devices or cores that were slowed down by heat or power."""
    for host, told in _by_host(repeat.history.telemetry).items():
        seen = _device_throttled(host, told) or _cpu_throttled(host, told)
        if seen:
            return seen
    return None


def _device_throttled(host: str, told: Sequence[Telemetry]) -> Observation | None:
    readings = [reading for line in told for reading in line.device_throttle or ()]
    if len(readings) < FEWEST_READINGS:
        return None
    for device in range(max(map(len, readings))):
        reasons = [
            set(reading[device].lower().replace("_", "").split("|"))
            for reading in readings
            if device < len(reading)
        ]
        for kind, words, most in (
            ("heat or power supply", SLOWDOWN_REASONS, MAX_SLOWDOWN_SHARE),
            ("power limit", POWER_CAP_REASONS, MAX_POWER_CAP_SHARE),
        ):
            share = sum(any(word in reason for reason in each for word in words) for each in reasons) / len(
                reasons
            )
            if share > most:
                return Observation(
                    message=f"device {device} of {host} was slowed down by its {kind} in {share:.0%} of the "
                    "readings",
                    figures={"device": device, "share": share, "readings": len(reasons)},
                )
    return None


def _cpu_throttled(host: str, told: Sequence[Telemetry]) -> Observation | None:
    working = [
        mhz
        for line in told
        for mhz, busy in zip(line.cpu_mhz, line.cpu_percent, strict=False)
        if mhz and busy >= WORKING_PERCENT
    ]
    if len(working) < FEWEST_READINGS:
        return None
    highest = max(working)
    share = sum(mhz < SLOW_CLOCK * highest for mhz in working) / len(working)
    if share <= MAX_POWER_CAP_SHARE:
        return None
    return Observation(
        message=f"the cores of {host} ran below {SLOW_CLOCK:.0%} of their highest clock of "
        f"{highest:,.0f} MHz in {share:.0%} of the readings under load",
        figures={"highest_mhz": highest, "lowest_mhz": min(working), "share": share},
    )


def _by_host(telemetry: Sequence[Telemetry]) -> dict[str, list[Telemetry]]:
    hosts: dict[str, list[Telemetry]] = {}
    for line in telemetry:
        hosts.setdefault(line.host, []).append(line)
    return hosts


def _load_before(repeat: FinishedRepeat) -> Observation | None:
    started = repeat.history.started
    if started is None or OVERSUBSCRIBED in started.warnings:
        return None
    load, cores = started.environment.get("load_1min"), started.environment.get("cores_usable")
    if load is None or not cores or load <= LOAD_PER_CORE * cores:
        return None
    return Observation(
        message=f"the load was {load:.3g} on {cores} cores before the run began",
        figures={"load_1min": load, "cores": cores},
    )


def cpu_oversubscribed(repeat: FinishedRepeat) -> Observation | None:
    """Find runs with more processes than cores."""
    started = repeat.history.started
    if started is None or OVERSUBSCRIBED not in started.warnings:
        return None
    cores = started.environment.get("cores_usable")
    return Observation(
        message=f"{repeat.spec.processes} processes shared {cores or 'too few'} cores",
        figures={"processes": repeat.spec.processes, "cores": cores},
    )


def emulated(repeat: FinishedRepeat) -> Observation | None:
    """Find runs that were not on the devices that their strategy is for."""
    started = repeat.history.started
    if started is None or not started.emulated:
        return None
    return Observation(message=f"{repeat.spec.strategy} did not run on the devices that it is for")


def environment_differs(comparison: RowComparison) -> Iterable[Observation]:
    """Name, for each row, what is not as in most repeats of the rows that it is ranked with."""
    facts = [
        (row.experiment, _environment_facts(started.environment))
        for row in comparison.rows
        for repeat in row.repeats
        for started in repeat.history.starts
        if started.environment
    ]
    paths = sorted({path for _, found in facts for path in found})
    expected = {path: most_frequent([repr(found.get(path)) for _, found in facts]) for path in paths}
    wrong: dict[str, dict[str, object]] = {}
    for experiment, found in facts:
        different = {path: found.get(path) for path in paths if repr(found.get(path)) != expected[path]}
        if different:
            wrong.setdefault(experiment, different)
    for experiment, fields in wrong.items():
        told = ", ".join(f"{path} {value!r} instead of {expected[path]}" for path, value in fields.items())
        yield Observation(row=experiment, message=f"it ran elsewhere: {told}", figures={"fields": fields})


def _environment_facts(environment: dict[str, object]) -> dict[str, object]:
    kept = flatten_fields({key: value for key, value in environment.items() if key in COMPARED_FACTS})
    return {path: value for path, value in kept.items() if path not in FACTS_SET_BY_HPCBENCH}


MACHINE_RULES = (
    AuditRule(
        code="busy-machine",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="Something else ran on the machine.",
        when="The run shared its machine with another job (--share); or, in the telemetry of three seconds "
        "or more, processes outside the job kept more than 10 % of the usable cores busy, or were on its "
        "devices; or the load over one minute was above 1.5 for each usable core when it began.",
        advice="Run it again on an idle machine.",
        source="docs/methodology.md, M16; two one-thread trainings side by side were 12 % slower each",
        of_repeat=busy_machine,
    ),
    AuditRule(
        code="throttled",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="The machine slowed itself down: the run measures its cooling or its power limit.",
        when="In the telemetry of three seconds or more, a device was slowed down for heat or power supply "
        "in more than 5 % of the readings, or held back by its power limit in more than 20 %; or the cores "
        "ran below 80 % of their highest clock in more than 20 % of the readings in which at least half of "
        "them were busy.",
        advice="Look at cooling and power limits, lock the clocks, or compare only runs that were throttled "
        "alike.",
        source="docs/methodology.md, M16",
        of_repeat=throttled,
    ),
    AuditRule(
        code="cpu-oversubscribed",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="More processes than cores: they took turns, and times say little.",
        when="The record carries the warning cpu-oversubscribed.",
        advice="Use fewer ranks, or a machine with more cores.",
        source="docs/methodology.md, M16",
        of_repeat=cpu_oversubscribed,
    ),
    AuditRule(
        code="environment-differs",
        severity=Severity.WARNING,
        scope=FindingScope.SWEEP,
        what="Runs that are ranked together ran on unlike machines, with unlike software or settings.",
        when="Device, cores, versions, commit, image or variables of a run's ranks differ from those of "
        "most ranks in its class. Host names may differ.",
        advice="Run them again on one machine with one installation.",
        source="docs/methodology.md, M14 (pyperf's checked metadata)",
        of_class=environment_differs,
    ),
    AuditRule(
        code="emulated",
        severity=Severity.WARNING,
        scope=FindingScope.RUN,
        what="The strategy ran without the devices that it is for: its learning is right, its speed means "
        "nothing.",
        when="The record says emulated, as for model_parallel and dp on a CPU.",
        advice="Run it on as many GPUs as it asks for before its speed is compared.",
        source="docs/methodology.md, M14",
        of_repeat=emulated,
    ),
)

"""Rules about the machine: it was the same for all, and had nothing else to do."""

from __future__ import annotations

from collections.abc import Iterable

from hpcbench.analysis.audit.evidence import Comparison, Repeat, flatten, usual
from hpcbench.analysis.audit.findings import Observation, Rule, Scope, Severity

# A run that has just ended still shows in the load, with at most one for each core.
LOAD_PER_CORE = 1.5
OVERSUBSCRIBED = "cpu-oversubscribed"
SHARED_MACHINE = "shared-machine"

COMPARED = (
    "hpcbench", "python", "os", "cpu", "cores_physical", "cores_logical", "cores_usable", "device",
    "device_memory_bytes", "cuda", "cudnn", "threads", "image_digest", "packages", "variables", "git",
)  # fmt: skip
# hpcbench sets these itself, by the number of ranks; scikit-learn the last two, by being imported.
SET_BY_US = (
    "variables.GLOO_SOCKET_IFNAME", "variables.OMP_NUM_THREADS", "variables.MKL_NUM_THREADS",
    "variables.KMP_DUPLICATE_LIB_OK", "variables.KMP_INIT_AT_FORK",
)  # fmt: skip


def busy_machine(repeat: Repeat) -> Observation | None:
    """Find runs that were not alone on their machine."""
    started = repeat.history.started
    if started is None or OVERSUBSCRIBED in started.warnings:
        return None
    if SHARED_MACHINE in started.warnings:
        return Observation(message="another job ran on the machine at the same time")
    load, cores = started.environment.get("load_1min"), started.environment.get("cores_usable")
    if load is None or not cores or load <= LOAD_PER_CORE * cores:
        return None
    return Observation(
        message=f"the load was {load:.3g} on {cores} cores before the run began",
        figures={"load_1min": load, "cores": cores},
    )


def cpu_oversubscribed(repeat: Repeat) -> Observation | None:
    """Find runs with more processes than cores."""
    started = repeat.history.started
    if started is None or OVERSUBSCRIBED not in started.warnings:
        return None
    cores = started.environment.get("cores_usable")
    return Observation(
        message=f"{repeat.spec.processes} processes shared {cores or 'too few'} cores",
        figures={"processes": repeat.spec.processes, "cores": cores},
    )


def emulated(repeat: Repeat) -> Observation | None:
    """Find runs that were not on the devices that their strategy is for."""
    started = repeat.history.started
    if started is None or not started.emulated:
        return None
    return Observation(message=f"{repeat.spec.strategy} did not run on the devices that it is for")


def environment_differs(comparison: Comparison) -> Iterable[Observation]:
    """Name, for each row, what is not as in most repeats of the rows that it is ranked with."""
    facts = [
        (row.experiment, _facts(started.environment))
        for row in comparison.rows
        for repeat in row.repeats
        for started in repeat.history.starts
        if started.environment
    ]
    paths = sorted({path for _, found in facts for path in found})
    expected = {path: usual([repr(found.get(path)) for _, found in facts]) for path in paths}
    wrong: dict[str, dict[str, object]] = {}
    for experiment, found in facts:
        different = {path: found.get(path) for path in paths if repr(found.get(path)) != expected[path]}
        if different:
            wrong.setdefault(experiment, different)
    for experiment, fields in wrong.items():
        told = ", ".join(f"{path} {value!r} instead of {expected[path]}" for path, value in fields.items())
        yield Observation(row=experiment, message=f"it ran elsewhere: {told}", figures={"fields": fields})


def _facts(environment: dict[str, object]) -> dict[str, object]:
    kept = flatten({key: value for key, value in environment.items() if key in COMPARED})
    return {path: value for path, value in kept.items() if path not in SET_BY_US}


RULES = (
    Rule(
        code="busy-machine",
        severity=Severity.WARNING,
        scope=Scope.RUN,
        what="Something else ran on the machine.",
        when="The run shared its machine with another job (--share), or the load over one minute was "
        "above 1.5 for each usable core when it began.",
        advice="Run it again on an idle machine.",
        source="MEASURING rule 16; two one-thread trainings side by side were 12 % slower each",
        of_repeat=busy_machine,
    ),
    Rule(
        code="cpu-oversubscribed",
        severity=Severity.WARNING,
        scope=Scope.RUN,
        what="More processes than cores: they took turns, and times say little.",
        when="The record carries the warning cpu-oversubscribed.",
        advice="Use fewer ranks, or a machine with more cores.",
        of_repeat=cpu_oversubscribed,
    ),
    Rule(
        code="environment-differs",
        severity=Severity.WARNING,
        scope=Scope.SWEEP,
        what="Runs that are ranked together ran on unlike machines, with unlike software or settings.",
        when="Device, cores, versions, commit, image or variables of a run's ranks differ from those of "
        "most ranks in its class. Host names may differ.",
        advice="Run them again on one machine with one installation.",
        source="MEASURING rule 14 (pyperf's checked metadata)",
        of_class=environment_differs,
    ),
    Rule(
        code="emulated",
        severity=Severity.WARNING,
        scope=Scope.RUN,
        what="The strategy ran without the devices that it is for: its learning is right, its speed means "
        "nothing.",
        when="The record says emulated, as for model_parallel and dp on a CPU.",
        advice="Run it on as many GPUs as it asks for before its speed is compared.",
        of_repeat=emulated,
    ),
)

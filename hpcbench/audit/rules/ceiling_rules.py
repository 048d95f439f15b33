"""Rules about ceilings: no figure above what the node can do, no time below what it needs."""

from __future__ import annotations

from collections.abc import Iterable

from hpcbench.analysis.run_figures import FinishedRepeat, Observation
from hpcbench.audit.audit_findings import AuditRule, FindingScope, Severity
from hpcbench.ceilings.ceiling_records import LinkCeiling
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.strategies.strategy_registry import find_strategy
from hpcbench.sweep.run_spec import RunSpec

FASTEST_TOLERANCE = 0.10  # beyond the fastest step, or the fastest message, that was seen
LOADER_TOLERANCE = 0.25  # of a rate that was measured once, as a mean
# Lavin and Gray (2016), "Fast Algorithms for Convolutional Neural Networks": F(4x4, 3x3) does with a quarter
# of the multiplications that are counted.
WINOGRAD_SAVING = 4.0


def above_ceiling(repeat: FinishedRepeat, ceilings: Ceilings) -> Observation | None:
    """Find throughputs above what the devices compute alone, or above what the loader delivers alone."""
    speed = _throughput_of(repeat)
    if speed is None:
        return None
    for what, most, tolerance in _ceilings_of(repeat.spec, ceilings):
        if speed > (1 + tolerance) * most:
            return Observation(
                message=f"{speed:,.0f} samples/s are {speed / most:.2f} times the {most:,.0f} samples/s that "
                f"{what}",
                figures={"throughput_samples_s": speed, "ceiling_samples_s": most, "ratio": speed / most},
            )
    return None


def _throughput_of(repeat: FinishedRepeat) -> float | None:
    return repeat.figures.throughput_samples_s if repeat.figures else None


def _ceilings_of(spec: RunSpec, ceilings: Ceilings) -> Iterable[tuple[str, float, float]]:
    """Yield (what it is, samples/s, tolerance) of each ceiling that was measured for exactly this run."""
    devices = spec.ranks * (1 if spec.device == "cpu" else spec.devices)
    compute = ceilings.compute(spec)
    if compute is not None and not compute.assumed:
        most = devices * spec.batch_size / compute.fastest_s
        yield (
            "the devices reached alone in their fastest step, without loader and exchange",
            most,
            FASTEST_TOLERANCE,
        )
    loader = ceilings.input(spec)
    if loader is not None and not loader.assumed:
        most = spec.samples_per_step / loader.seconds
        yield "the loader reached alone", most, LOADER_TOLERANCE


def below_floor(repeat: FinishedRepeat, ceilings: Ceilings) -> Observation | None:
    """Find steps shorter than their multiplications take, and exchanges shorter than their bytes take."""
    return _too_fast_to_multiply(repeat, ceilings) or _too_fast_to_send(repeat, ceilings)


def _too_fast_to_multiply(repeat: FinishedRepeat, ceilings: Ceilings) -> Observation | None:
    speed, spec = _throughput_of(repeat), repeat.spec
    compute, rate = ceilings.compute(spec), ceilings.matrix_flop_per_s(spec)
    if not speed or compute is None or rate is None:
        return None
    devices = spec.ranks * (1 if spec.device == "cpu" else spec.devices)
    measured_s, floor_s = (
        spec.samples_per_step / speed,
        _flop_per_step(spec, compute.flop) / devices / rate / WINOGRAD_SAVING,
    )
    if measured_s * (1 + FASTEST_TOLERANCE) >= floor_s:
        return None
    return Observation(
        message=f"a step takes {measured_s * 1e3:.3g} ms, and its multiplications alone "
        f"{floor_s * 1e3:.3g} ms at the measured matrix rate of {rate / 1e12:.3g} TFLOP/s, even if a fast "
        "algorithm saves three quarters of them",
        figures={"step_s": measured_s, "floor_s": floor_s, "flop_per_s": rate},
    )


def _flop_per_step(spec: RunSpec, of_batch: float) -> float:
    return of_batch * spec.data_shards


def _too_fast_to_send(repeat: FinishedRepeat, ceilings: Ceilings) -> Observation | None:
    spec = repeat.spec
    compute = ceilings.compute(spec)
    # What a rank certainly waits for in its exchange phase.
    what = find_strategy(spec.strategy).waited_transfer(spec, compute.model) if compute else None
    if what is None or not repeat.figures or not repeat.figures.counted_steps:
        return None
    operation, size_bytes = what
    fastest = _fastest_bytes_s(ceilings, spec, operation)
    if fastest is None:
        return None
    measured_s = repeat.figures.phase_s["exchange"] / repeat.figures.counted_steps
    floor_s = size_bytes / fastest
    if measured_s * (1 + FASTEST_TOLERANCE) >= floor_s:
        return None
    return Observation(
        message=f"the exchange of a step takes {measured_s * 1e3:.3g} ms, and {size_bytes / 1e6:.3g} MB "
        f"({operation}) take {floor_s * 1e3:.3g} ms at the highest rate that the link has ever reached "
        f"({fastest / 1e9:.3g} GB/s)",
        figures={"exchange_s": measured_s, "floor_s": floor_s, "bytes": size_bytes, "bytes_per_s": fastest},
    )


def _fastest_bytes_s(ceilings: Ceilings, spec: RunSpec, operation: str) -> float | None:
    """Return the highest algbw of any size and repeat of this link."""
    alike = [
        link for link in ceilings.for_device(spec).each(LinkCeiling)
        if (link.backend, link.operation, link.nodes) == (spec.backend, operation, spec.resources.nodes)
        and (operation == "send" or link.ranks == spec.ranks)
    ]  # fmt: skip
    rates = [
        size / min(seconds)
        for link in alike
        for size, seconds in zip(link.size_bytes, link.seconds, strict=True)
    ]
    return max(rates, default=None)


def broken_copies(ceilings: Ceilings) -> Iterable[Observation]:
    """Find devices between which copies do not arrive as they were."""
    broken = ceilings.broken_copies()
    if broken:
        yield Observation(
            message=f"bytes copied between devices did not arrive as they were: {', '.join(broken)}",
            figures={"pairs": broken},
        )


CEILING_RULES = (
    AuditRule(
        code="above-ceiling",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="A throughput is higher than the node can reach.",
        when="It is more than 10 % above what the devices reached alone in the fastest step that the probe "
        "saw, or more than 25 % above what the loader reached alone. Only ceilings that were measured on "
        "its own node for exactly this model, batch, precision and number of ranks count.",
        advice="Look at how samples are counted and where the clock is read; if both are right, probe again "
        "on an idle machine.",
        source="docs/methodology.md, M8",
        of_ceilings=above_ceiling,
    ),
    AuditRule(
        code="below-floor",
        severity=Severity.ERROR,
        scope=FindingScope.RUN,
        what="A time is shorter than the node needs for the work.",
        when="A step is shorter than a quarter of its counted FLOP take at the measured matrix rate (fast "
        "convolutions save up to three quarters), or the exchange of a strategy that exchanges after "
        "backward is shorter than its bytes take at the highest rate of the link in any repeat; 10 % are "
        "granted.",
        advice="Wait for the device before the clock is read, and see that the exchange really takes place.",
        source="docs/methodology.md, M8; study 1: a pull of three copies took 5.3 ms, its bus needs 9.7 ms",
        of_ceilings=below_floor,
    ),
    AuditRule(
        code="copies-broken",
        severity=Severity.ERROR,
        scope=FindingScope.SWEEP,
        what="Copies between devices arrive changed: whatever was trained on several of them is wrong.",
        when="The probe copied random bytes between each two devices, both ways, and some came back changed.",
        advice="Switch peer-to-peer copies off (NCCL_P2P_DISABLE=1), and look at the driver and the board's "
        "IOMMU settings.",
        source="docs/methodology.md, M8",
        of_nodes=broken_copies,
    ),
)

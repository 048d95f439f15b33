"""The predicted step time of a run from the ceilings of a node, for its own and for other numbers of
ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from hpcbench.ceilings.compute_scaling import ComputeTime
from hpcbench.ceilings.node_ceilings import Ceilings, LinkTime
from hpcbench.strategies.strategy_registry import find_strategy
from hpcbench.sweep.catalog_entries import Traffic, Transfer
from hpcbench.sweep.run_spec import RunSpec


class LimitingResource(StrEnum):
    """What a run would have to have more of to be faster."""

    COMPUTE = "compute"
    INPUT = "input"
    LINK = "link"
    MEMORY = "memory"
    LATENCY = "latency"
    EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True)
class StepPrediction:
    """The predicted step of a run and its parts, in seconds.

    `compute_s` grows with the batch, `fixed_s` is paid for each step, `skew_s` is waiting for the slowest
    rank and `wait_s` the part of the exposed exchange that is latency; `link_s` is the rest of it.
    `exchange_s` is all that is sent, hidden or not.
    `assumed` says what was not measured and carried over: with any of it the figure is an extrapolation.
    `left_out` says what the figure does not hold.
    """

    step_s: float
    compute_s: float
    fixed_s: float
    skew_s: float
    input_s: float
    exchange_s: float
    link_s: float
    wait_s: float
    overlap: float | None
    samples_s: float
    limit: LimitingResource
    assumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def extrapolated(self) -> bool:
        """Whether any ceiling was carried over from another batch, or another number of ranks or nodes."""
        return bool(self.assumed)

    @property
    def busy_s(self) -> float:
        """The step without the loader."""
        return self.compute_s + self.fixed_s + self.skew_s + self.exposed_s

    @property
    def exposed_s(self) -> float:
        """The exchange that is not hidden."""
        return self.link_s + self.wait_s


@dataclass(frozen=True)
class MissingCeiling:
    """Why a run cannot be predicted: the ceiling that was not measured."""

    missing: str


@dataclass(frozen=True)
class _TransferCost:
    """Seconds of messages: what the size costs, and what the number costs."""

    bytes_s: float = 0.0
    latency_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.bytes_s + self.latency_s


@dataclass(frozen=True)
class ObservedCosts:
    """What no probe shows, and records of like runs do; None where there are none.

    `overlap` is the share of the exchange that is hidden, 0 to 1, and `served_s` what a parameter server
    needs to add up the gradients of an update, and to update.
    """

    overlap: float | None = None
    served_s: float | None = None


def predict_step(
    spec: RunSpec, ceilings: Ceilings, seen: ObservedCosts | None = None
) -> StepPrediction | MissingCeiling:
    """Predict the step of a run."""
    make_traffic = find_strategy(spec.strategy).traffic
    if make_traffic is None:
        return MissingCeiling(f"the strategy {spec.strategy} has no formula")
    compute = ceilings.compute(spec, batch=device_batch(spec))
    if compute is None:
        return MissingCeiling(f"no compute ceiling of {spec.model} on {spec.dataset} at {spec.precision}")
    traffic = make_traffic(spec, compute.model)
    links: dict[str, LinkTime] = {}
    for operation in dict.fromkeys(transfer.operation for transfer in traffic.transfers):
        link = ceilings.link(spec, operation, spec.ranks)
        if link is None:
            return MissingCeiling(f"no link ceiling of {operation} over {spec.backend or 'nccl'}")
        links[operation] = link
    return _combine_parts(spec, ceilings, compute, traffic, links, seen or ObservedCosts())


def _combine_parts(
    spec: RunSpec,
    ceilings: Ceilings,
    compute: ComputeTime,
    traffic: Traffic,
    links: dict[str, LinkTime],
    seen: ObservedCosts,
) -> StepPrediction:
    hidden = (seen.overlap or 0.0) if traffic.during else 0.0
    during, beside = _transfer_cost(traffic.during, links), _transfer_cost(traffic.beside, links)
    served_s = 0.0
    if traffic.served_share:
        served_s = traffic.served_share * compute.update_s if seen.served_s is None else seen.served_s
    work_s, fixed_s = _compute_work(spec, compute, traffic)
    work_s += served_s
    link_s = (1 - hidden) * during.bytes_s + beside.bytes_s + _host_copies(spec, ceilings, compute)
    wait_s = (1 - hidden) * during.latency_s + beside.latency_s
    if find_strategy(spec.strategy).is_asynchronous(spec.strategy_options):
        # Servers take one gradient after the other: with many workers they are what is waited for.
        in_turn_s = spec.ranks * (link_s + wait_s + served_s)
        link_s = max(link_s, in_turn_s - work_s - fixed_s - wait_s)
    loader = ceilings.input(spec)
    input_s = loader.seconds if loader else 0.0
    skew_s = compute.skew_s(spec.ranks) if waits_for_slowest_rank(spec) else 0.0
    busy_s = work_s + fixed_s + skew_s + link_s + wait_s
    serial = loader is not None and loader.serial
    step_s = busy_s + input_s if serial else max(busy_s, input_s)
    parts = {
        LimitingResource.COMPUTE: work_s + skew_s, LimitingResource.LATENCY: fixed_s + wait_s,
        LimitingResource.LINK: link_s,
        LimitingResource.INPUT: input_s if serial or input_s > busy_s else 0.0,
    }  # fmt: skip
    limit = (
        LimitingResource.INPUT
        if not serial and input_s > busy_s
        else max(parts, key=lambda each: parts[each])
    )
    assumed = [*compute.assumed, *(loader.assumed if loader else ())]
    assumed += [each for link in links.values() for each in link.assumed]
    left_out = (
        ("the loader, which was not measured", loader is None),
        (traffic.unknown or "", traffic.unknown is not None),
        ("overlap, which was not measured", bool(traffic.during) and seen.overlap is None),
        ("what a server does besides updating", bool(served_s) and seen.served_s is None),
    )
    return StepPrediction(
        step_s=step_s, compute_s=work_s, fixed_s=fixed_s, skew_s=skew_s, input_s=input_s,
        exchange_s=during.seconds + beside.seconds, link_s=link_s, wait_s=wait_s,
        overlap=seen.overlap if traffic.during else None, limit=limit,
        samples_s=spec.samples_per_step / step_s, assumed=tuple(dict.fromkeys(assumed)),
        left_out=tuple(what for what, is_so in left_out if is_so),
    )  # fmt: skip


def waits_for_slowest_rank(spec: RunSpec) -> bool:
    """Say whether every step is as long as that of the slowest rank, each of which does the same work."""
    steps_alone = find_strategy(spec.strategy).steps_per_exchange(spec.strategy_options)
    alone = find_strategy(spec.strategy).is_asynchronous(spec.strategy_options) or steps_alone > 1
    return spec.ranks > 1 and spec.data_shards == spec.ranks and not alone


def _transfer_cost(transfers: tuple[Transfer, ...], links: dict[str, LinkTime]) -> _TransferCost:
    bytes_s = latency_s = 0.0
    for each in transfers:
        link = links[each.operation]
        waits = each.times if each.latencies is None else each.latencies
        bytes_s += each.share * each.times * link.bytes_s(each.size_bytes)
        latency_s += each.share * waits * link.latency_s(each.size_bytes)
    return _TransferCost(bytes_s, latency_s)


def device_batch(spec: RunSpec) -> int:
    """Return the samples of a step that each device has: on GPUs, dp cuts a rank's batch."""
    split = find_strategy(spec.strategy).splits_batch_on_devices and spec.device != "cpu"
    return -(-spec.batch_size // spec.devices) if split else spec.batch_size


def _compute_work(spec: RunSpec, compute: ComputeTime, traffic: Traffic) -> tuple[float, float]:
    """Return (what grows with the batch, what does not) of a step's own work."""
    update_s = traffic.update_share * compute.update_s
    whole_s, fixed_s = compute.forward_backward_s, compute.fixed_s
    growing, launched = find_strategy(spec.strategy).stage_turns(spec)
    return (whole_s - fixed_s) * growing + update_s, fixed_s * launched


def _host_copies(spec: RunSpec, ceilings: Ceilings, compute: ComputeTime) -> float:
    """Return the seconds in which a parameter server's data crosses between device and host, both ways."""
    if not find_strategy(spec.strategy).copies_through_host(spec):
        return 0.0
    copy = ceilings.transfer(spec)
    return 2 * copy.tail * copy.seconds(compute.model.parameter_bytes) if copy else 0.0


LARGEST_RANK_FACTOR = 2  # times the ranks of the run


@dataclass(frozen=True)
class ScaledPrediction:
    """The prediction for a number of ranks, each with the batch that it has in the run (weak scaling)."""

    ranks: int
    prediction: StepPrediction


def predict_other_ranks(
    spec: RunSpec, ceilings: Ceilings, seen: ObservedCosts | None = None
) -> tuple[ScaledPrediction, ...]:
    """Return predictions for two ranks and their doubles, for the run's own number and for twice that.

    Nothing for a run of one process: what it does with more devices is another strategy's matter.
    """
    if spec.ranks < 2 or find_strategy(spec.strategy).traffic is None:
        return ()
    most = LARGEST_RANK_FACTOR * spec.ranks
    doubles = {2**power for power in range(1, most.bit_length()) if 2**power <= most}
    counts = sorted(n for n in doubles | {spec.ranks, most} if _is_possible(spec, n, ceilings))
    found = ((n, predict_step(_with_ranks(spec, n), ceilings, seen)) for n in counts)
    return tuple(ScaledPrediction(n, each) for n, each in found if isinstance(each, StepPrediction))


def _with_ranks(spec: RunSpec, ranks: int) -> RunSpec:
    shards = ranks if spec.data_shards == spec.ranks else spec.data_shards
    updates = shards if spec.updates_per_step == spec.data_shards else spec.updates_per_step
    return replace(spec, ranks=ranks, data_shards=shards, updates_per_step=updates)


def _is_possible(spec: RunSpec, ranks: int, ceilings: Ceilings) -> bool:
    """Say whether a model has enough blocks for so many stages, as far as that is known."""
    parts = find_strategy(spec.strategy).parts
    return parts(_with_ranks(spec, ranks)) <= ceilings.blocks.get(spec.model, parts(spec))

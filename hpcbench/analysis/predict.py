"""What a run should reach on a node, from the node's ceilings: MEASURING rule 8.

    step = max(input, compute + skew + (1 - overlap) x exchange)

compute  what one device needs for its share of the batch and of the update, all ranks at once
skew     how much longer the slowest of the ranks takes, where they wait for each other in every step
exchange every message of the strategy (predict_traffic.py) at the measured alpha and bandwidth of the link
overlap  the share of it that hides behind the backward pass: measured by leaving the exchange out, else none
         (with a parameter server: the time it needs for an update, from its own records, else the ceiling's)
input    what the loader needs for a step of all ranks; one without processes of its own works between the
         steps, so its time is added instead
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hpcbench.analysis.ceilings import Ceilings, Link
from hpcbench.analysis.computing import Compute
from hpcbench.analysis.figures import is_asynchronous
from hpcbench.analysis.predict_traffic import TRAFFIC, Traffic, Transfer
from hpcbench.config.spec import RunSpec
from hpcbench.strategies.whole_batch_entries import PipelineOptions


class Limit(StrEnum):
    """What a run would have to have more of to be faster."""

    COMPUTE = "compute"
    INPUT = "input"
    LINK = "link"
    MEMORY = "memory"
    LATENCY = "latency"
    EVALUATION = "evaluation"


@dataclass(frozen=True, kw_only=True)
class Prediction:
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
    limit: Limit
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
class Unknown:
    """Why a run cannot be predicted: the ceiling that nobody has measured."""

    missing: str


@dataclass(frozen=True)
class _Cost:
    """Seconds of messages: what the size costs, and what the number costs."""

    bytes_s: float = 0.0
    latency_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.bytes_s + self.latency_s


@dataclass(frozen=True)
class Seen:
    """What no probe shows, and records of like runs do; None where there are none.

    `overlap` is the share of the exchange that is hidden, 0 to 1, and `served_s` what a parameter server
    needs to add up the gradients of an update, and to update.
    """

    overlap: float | None = None
    served_s: float | None = None


def predict(spec: RunSpec, ceilings: Ceilings, seen: Seen | None = None) -> Prediction | Unknown:
    """Predict the step of a run."""
    make = TRAFFIC.get(spec.strategy)
    if make is None:
        return Unknown(f"the strategy {spec.strategy} has no formula")
    compute = ceilings.compute(spec, batch=_device_batch(spec))
    if compute is None:
        return Unknown(f"no compute ceiling of {spec.model} on {spec.dataset} at {spec.precision}")
    traffic = make(spec, compute.model)
    links: dict[str, Link] = {}
    for operation in dict.fromkeys(transfer.operation for transfer in traffic.transfers):
        link = ceilings.link(spec, operation, spec.ranks)
        if link is None:
            return Unknown(f"no link ceiling of {operation} over {spec.backend or 'nccl'}")
        links[operation] = link
    return _put_together(spec, ceilings, compute, traffic, links, seen or Seen())


def _put_together(
    spec: RunSpec, ceilings: Ceilings, compute: Compute, traffic: Traffic, links: dict[str, Link], seen: Seen
) -> Prediction:
    hidden = (seen.overlap or 0.0) if traffic.during else 0.0
    during, beside = _cost(traffic.during, links), _cost(traffic.beside, links)
    served_s = 0.0
    if traffic.served_share:
        served_s = traffic.served_share * compute.update_s if seen.served_s is None else seen.served_s
    work_s, fixed_s = _work(spec, compute, traffic)
    work_s += served_s
    link_s = (1 - hidden) * during.bytes_s + beside.bytes_s + _host_copies(spec, ceilings, compute)
    wait_s = (1 - hidden) * during.latency_s + beside.latency_s
    if is_asynchronous(spec):
        # Servers take one gradient after the other: with many workers they are what is waited for.
        in_turn_s = spec.ranks * (link_s + wait_s + served_s)
        link_s = max(link_s, in_turn_s - work_s - fixed_s - wait_s)
    loader = ceilings.input(spec)
    input_s = loader.seconds if loader else 0.0
    skew_s = compute.skew_s(spec.ranks) if _waits_for_all(spec) else 0.0
    busy_s = work_s + fixed_s + skew_s + link_s + wait_s
    serial = loader is not None and loader.serial
    step_s = busy_s + input_s if serial else max(busy_s, input_s)
    parts = {
        Limit.COMPUTE: work_s + skew_s, Limit.LATENCY: fixed_s + wait_s, Limit.LINK: link_s,
        Limit.INPUT: input_s if serial or input_s > busy_s else 0.0,
    }  # fmt: skip
    limit = Limit.INPUT if not serial and input_s > busy_s else max(parts, key=lambda each: parts[each])
    assumed = [*compute.assumed, *(loader.assumed if loader else ())]
    assumed += [each for link in links.values() for each in link.assumed]
    left_out = (
        ("the loader, which was not measured", loader is None),
        (traffic.unknown or "", traffic.unknown is not None),
        ("overlap, which was not measured", bool(traffic.during) and seen.overlap is None),
        ("what a server does besides updating", bool(served_s) and seen.served_s is None),
    )
    return Prediction(
        step_s=step_s, compute_s=work_s, fixed_s=fixed_s, skew_s=skew_s, input_s=input_s,
        exchange_s=during.seconds + beside.seconds, link_s=link_s, wait_s=wait_s,
        overlap=seen.overlap if traffic.during else None, limit=limit,
        samples_s=spec.samples_per_step / step_s, assumed=tuple(dict.fromkeys(assumed)),
        left_out=tuple(what for what, is_so in left_out if is_so),
    )  # fmt: skip


def _waits_for_all(spec: RunSpec) -> bool:
    """Say whether every step is as long as that of the slowest rank, each of which does the same work."""
    alone = is_asynchronous(spec) or spec.strategy_options.get("local_steps", 1) > 1
    return spec.ranks > 1 and spec.data_shards == spec.ranks and not alone


def _cost(transfers: tuple[Transfer, ...], links: dict[str, Link]) -> _Cost:
    bytes_s = latency_s = 0.0
    for each in transfers:
        link = links[each.operation]
        waits = each.times if each.latencies is None else each.latencies
        bytes_s += each.share * each.times * link.bytes_s(each.size_bytes)
        latency_s += each.share * waits * link.latency_s(each.size_bytes)
    return _Cost(bytes_s, latency_s)


def _device_batch(spec: RunSpec) -> int:
    """Return the samples of a step that each device has: on GPUs, dp cuts a rank's batch."""
    split = spec.strategy == "dp" and spec.device != "cpu"
    return -(-spec.batch_size // spec.devices) if split else spec.batch_size


def _work(spec: RunSpec, compute: Compute, traffic: Traffic) -> tuple[float, float]:
    """Return (what grows with the batch, what does not) of a step's own work.

    A pipeline of R stages does 1/R of the work on each, and needs m + R - 1 turns for m micro-batches (Huang
    et al. 2019, GPipe).
    """
    update_s = traffic.update_share * compute.update_s
    whole_s, fixed_s = compute.forward_backward_s, compute.fixed_s
    if spec.strategy == "pipeline":
        parts = PipelineOptions(**spec.strategy_options).micro_batches * spec.accumulation
        turns = (parts + spec.ranks - 1) / parts / spec.ranks
        # Each micro-batch launches every operation of its stage anew.
        growing, launched = (whole_s - fixed_s) * turns, fixed_s * (parts + spec.ranks - 1) / spec.ranks
        return growing + update_s, launched
    return whole_s - fixed_s + update_s, fixed_s


def _host_copies(spec: RunSpec, ceilings: Ceilings, compute: Compute) -> float:
    """Return the seconds in which a parameter server's data crosses between device and host, both ways."""
    if spec.strategy != "ps" or spec.device == "cpu" or spec.backend == "nccl":
        return 0.0
    copy = ceilings.transfer(spec)
    return 2 * copy.tail * copy.seconds(compute.model.parameter_bytes) if copy else 0.0

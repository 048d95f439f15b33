"""What strategies send: the formulas of docs/strategies.md."""

from __future__ import annotations

from typing import Any

import pytest

from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.traffic import MEBIBYTE
from hpcbench.sweep.catalog_entries import ModelSize, Traffic
from hpcbench.sweep.run_spec import RunSpec
from tests.audit.written import run

# ResNet-50: 25,557,032 parameters in 161 tensors (docs/methodology.md); any number of blocks.
RESNET50 = ModelSize(parameter_bytes=102_228_128, parameter_tensors=161, blocks=20)
M = RESNET50.parameter_bytes
RANKS = 4
# What a rank sends in an operation of a ring, as multiples of the message.
FACTORS = {"all_reduce": 2 * (RANKS - 1) / RANKS, "broadcast": (RANKS - 1) / RANKS}


def traffic_of(spec: RunSpec) -> Traffic:
    """Return the messages of a step of ResNet-50."""
    formula = STRATEGIES[spec.strategy].traffic
    assert formula is not None
    return formula(spec, RESNET50)


def sent(strategy: str, **fields: Any) -> float:
    """Return the bytes that a rank sends in a step, as multiples of the model's."""
    transfers = traffic_of(run(strategy=strategy, ranks=RANKS, data_shards=RANKS, **fields)).transfers
    return sum(t.size_bytes * t.times * t.share * FACTORS[t.operation] for t in transfers) / M


@pytest.mark.parametrize(
    ("strategy", "options", "expected"),
    [
        ("ddp", {"broadcast_buffers": False}, 2 * 3 / 4),
        ("ddp", {"broadcast_buffers": False, "compression": "bf16"}, 3 / 4),
        ("collective", {"exchange": "per_parameter"}, 2 * 3 / 4),
        ("collective", {"exchange": "bucketed"}, 2 * 3 / 4),
        ("collective", {"exchange": "overlapped"}, 2 * 3 / 4),
        ("local_sgd", {"local_steps": 8}, 2 * 3 / 4 / 8),
        ("zero1", {"broadcast_buffers": False}, 3 * 3 / 4),
        ("fsdp_grad", {}, 2 * 3 / 4),
        ("fsdp_full", {}, 3 * 3 / 4),
        ("single_gpu", {}, 0.0),
    ],
)
def test_bytes_are_those_of_the_table(strategy: str, options: dict[str, Any], expected: float) -> None:
    """With four ranks, without accumulation."""
    assert sent(strategy, strategy_options=options) == pytest.approx(expected)


def test_accumulation_gathers_again() -> None:
    """fsdp_full gathers twice for each micro-batch; who keeps the parameters, once."""
    assert sent("fsdp_full", accumulation=3) == pytest.approx((2 * 3 + 1) * 3 / 4)
    assert sent("fsdp_grad", accumulation=3) == pytest.approx((3 + 1) * 3 / 4)


def test_messages_are_counted() -> None:
    """161 all-reduces tensor by tensor, one a bucket else; DDP's first bucket holds 1 MiB."""

    def messages(strategy: str, **options: Any) -> float:
        traffic = traffic_of(run(strategy=strategy, strategy_options=options))
        return sum(each.times for each in traffic.transfers if each.operation == "all_reduce")

    assert messages("collective", exchange="per_parameter") == 161
    assert messages("collective", exchange="bucketed", bucket_mb=25.0) == 4
    assert messages("ddp", bucket_mb=25.0) == 1 + 4
    first = traffic_of(run(strategy="ddp")).during[0]
    assert (first.size_bytes, first.times) == (MEBIBYTE, 1)


def test_only_what_leaves_during_backward_can_hide() -> None:
    """DDP, overlapped buckets and shards can; buckets after backward, servers and local steps cannot."""
    with_formula = [name for name, entry in STRATEGIES.items() if entry.traffic]
    hides = {name for name in with_formula if traffic_of(run(strategy=name, ranks=RANKS)).during}
    assert hides == {"ddp", "zero1", "fsdp_grad", "fsdp_full"}
    overlapped = run(strategy="collective", strategy_options={"exchange": "overlapped"})
    assert traffic_of(overlapped).during


def test_a_server_moves_what_all_workers_send() -> None:
    """One server of three workers takes 3 M each way; two servers half of that each, asynchronous ones M."""

    def moved(**options: Any) -> float:
        traffic = traffic_of(run(strategy="ps", ranks=3, strategy_options=options))
        return sum(each.times * each.size_bytes for each in traffic.beside[1:]) / M

    assert moved() == pytest.approx(6)
    assert moved(servers=2) == pytest.approx(3)
    assert moved(mode="async") == pytest.approx(2)


def test_every_strategy_has_a_formula() -> None:
    """But for those that train nothing, or wrongly."""
    without = {name for name, entry in STRATEGIES.items() if entry.traffic is None}
    assert without == {"noop", "faulty"}

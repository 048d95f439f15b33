"""Predictions follow from ceilings by the stated formulas, and say what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from hpcbench.ceilings.ceiling_records import Ceiling, CopyCheck, MeasuredCeiling
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.ceilings.step_prediction import (
    LimitingResource,
    MissingCeiling,
    ObservedCosts,
    StepPrediction,
    predict_other_ranks,
    predict_step,
)
from hpcbench.sweep.run_spec import InputOptions, RunSpec
from tests.audit.written import alone, run
from tests.ceilings.written import PARAMETERS, compute, link, loader, matrix, node

ALPHA, SPEED = 1e-4, 1e9
M = 4 * PARAMETERS


def ceilings(*some: Ceiling, host: str = "n1") -> Ceilings:
    """Return the ceilings of a host."""
    return Ceilings.of([MeasuredCeiling(each, host, 1) for each in some])


def predicted(
    spec: RunSpec, *some: Ceiling, overlap: float | None = None, served_s: float | None = None
) -> StepPrediction:
    """Return a prediction that has to be possible."""
    found = predict_step(spec, ceilings(*(some or node())), ObservedCosts(overlap, served_s))
    assert isinstance(found, StepPrediction)
    return found


def test_one_process_needs_what_it_was_measured_to_need() -> None:
    """Its own step; digits are loaded between the steps, and it sends nothing."""
    found = predicted(alone())
    assert found.step_s == pytest.approx(0.016 + 64 / 60_000)
    assert found.exchange_s == 0 and found.samples_s == pytest.approx(64 / found.step_s)
    assert found.assumed == () and found.limit is LimitingResource.COMPUTE


def test_an_all_reduce_tensor_by_tensor_pays_each_latency() -> None:
    """Ten tensors: ten alphas, and the bytes once."""
    found = predicted(run(strategy="collective", strategy_options={"exchange": "per_parameter"}))
    assert found.exchange_s == pytest.approx(10 * ALPHA + M / SPEED)
    assert found.step_s == pytest.approx(0.010 + found.exchange_s + 64 / 100_000)


def test_overlap_hides_what_runs_beside_backward_and_nothing_else() -> None:
    """The broadcast of buffers is before the forward pass: it stays."""
    none, half, whole = (predicted(run(), overlap=share) for share in (None, 0.5, 1.0))
    buffers_s = 2 * (ALPHA + 64 / SPEED)
    assert whole.exposed_s == pytest.approx(buffers_s)
    assert half.exposed_s == pytest.approx((none.exposed_s + buffers_s) / 2)
    assert any("overlap" in each for each in none.left_out) and half.left_out == ()


def test_ranks_are_as_slow_as_the_slowest_of_them() -> None:
    """Every other step takes 20 ms instead of 10: of two ranks one is slow in three steps of four."""
    uneven = [compute(step_s=[0.010, 0.020] * 20), loader(), link(), link("broadcast"), link("send")]
    together = predicted(run(), *uneven)
    assert together.skew_s == pytest.approx(0.0175 - 0.015)
    assert predicted(run(strategy="local_sgd", strategy_options={"local_steps": 8}), *uneven).skew_s == 0
    assert predicted(run(strategy="ps", strategy_options={"mode": "async"}), *uneven).skew_s == 0
    assert predicted(run(strategy="collective"), *node()).skew_s == pytest.approx(0)


def test_a_server_is_paid_for_by_all_workers() -> None:
    """From each of two workers a command and M, then the update by the server, and M to each."""
    found = predicted(run(strategy="ps", servers=1))
    assert found.exchange_s == pytest.approx(2 * (3 * ALPHA + (2 * M + 64) / SPEED))
    assert found.step_s == pytest.approx(0.010 + found.exchange_s + 64 / 100_000)


def test_what_a_server_was_seen_to_need_counts_instead_of_the_optimizers_time() -> None:
    """Adding up and updating took it 3 ms; the optimizer alone takes 1 ms of a step of 10."""
    told, guessed = (predicted(run(strategy="ps", servers=1), served_s=each) for each in (0.003, None))
    assert told.step_s == pytest.approx(guessed.step_s + 0.002)
    assert told.left_out == () and "what a server does besides updating" in guessed.left_out
    assert predicted(run(), served_s=0.003).step_s == predicted(run()).step_s


def test_workers_that_wait_for_nobody_are_counted_all() -> None:
    """Async: an update rests on one worker's batch, but in a step each of them trains on its own."""
    options = {"mode": "async"}
    spec = run(strategy="ps", servers=1, strategy_options=options, updates_per_step=2)
    assert spec.global_batch == spec.samples_per_step // 2 == 32
    found = predicted(spec)
    assert found.samples_s == pytest.approx(64 / found.step_s)
    four = next(each for each in predict_other_ranks(spec, ceilings(*node())) if each.ranks == 4)
    assert four.prediction.samples_s == pytest.approx(128 / four.prediction.step_s)


def test_a_loader_is_that_of_its_processes_and_batch() -> None:
    """What was measured with other processes, or batches, stands in and is said to be assumed."""
    both = ceilings(loader(images_per_s=1_000.0), loader(workers=2, images_per_s=64_000.0))
    found = both.input(run(input=InputOptions(workers=2)))
    assert found is not None and (found.seconds, found.serial) == (pytest.approx(0.001), False)
    assert not found.assumed
    for spec, why in (
        (run(input=InputOptions(workers=1)), "loader processes"),
        (run(), "loader processes"),  # it does not say how many, and both were measured
        (run(input=InputOptions(workers=2), batch_size=8), "batches of 32"),
    ):
        found = both.input(spec)
        assert found is not None and why in "".join(found.assumed)


def test_a_loader_with_processes_works_beside_the_model() -> None:
    """The step is the longer of both: max(input, compute + exchange)."""
    fast = predicted(run(), compute(), loader(workers=2), link(), link("broadcast"))
    assert fast.step_s == pytest.approx(0.010 + fast.exposed_s)
    slow = predicted(run(), compute(), loader(workers=2, images_per_s=1000.0), link(), link("broadcast"))
    assert slow.step_s == pytest.approx(0.064) and slow.limit is LimitingResource.INPUT


def test_the_binding_limit_is_the_largest_part() -> None:
    """Slow links bind by their bytes, long waits by their latency, and else the device computes."""

    def limit(**fields: Any) -> LimitingResource:
        spec = run(strategy="collective", strategy_options={"exchange": "per_parameter"})
        return predicted(spec, compute(), loader(), link(**fields)).limit

    assert limit() is LimitingResource.COMPUTE
    assert limit(bandwidth=1e6) is LimitingResource.LINK
    assert limit(alpha_s=0.01) is LimitingResource.LATENCY


def test_a_step_that_costs_as_much_without_images_is_bound_by_latency() -> None:
    """Twice the batch in hardly more time: launching operations is what takes it."""
    flat = [
        compute(ranks=1, batch=64),
        compute(ranks=1, batch=128, seconds=0.0101),
        loader(ranks=1, batch=64),
    ]
    found = predicted(alone(), *flat)
    assert found.limit is LimitingResource.LATENCY and found.fixed_s > 0.008
    steep = [compute(ranks=1, batch=64), compute(ranks=1, batch=128, seconds=0.02), loader(ranks=1, batch=64)]
    assert predicted(alone(), *steep).limit is LimitingResource.COMPUTE


def test_what_was_not_measured_is_said() -> None:
    """Another batch, more ranks: the figure is carried over, and marked."""
    batch = predicted(alone(batch_size=96), compute(ranks=1, batch=64, seconds=0.016), loader(ranks=1))
    assert batch.compute_s == pytest.approx(0.9 * 0.016 * 96 / 64 + 0.1 * 0.016)
    assert "compute carried over from batches of 64" in batch.assumed
    four = predicted(run(ranks=4, data_shards=4))
    assert four.compute_s + four.fixed_s == pytest.approx(2 * 0.010)  # cores are shared
    assert {"compute as of 2 ranks at once", "all_reduce as of 2 ranks"} <= set(four.assumed)


def test_a_gpu_does_not_care_for_the_others() -> None:
    """More GPUs: the same compute, and the ring formula for the link."""
    here = [compute(device="H200"), loader(device="H200"), link(device="H200", backend="nccl"),
            link("broadcast", device="H200", backend="nccl")]  # fmt: skip
    spec = run(device="cuda", backend="nccl", ranks=4, data_shards=4)
    found = predicted(spec, *here)
    assert found.compute_s == pytest.approx(0.010)
    buffers_s = 2 * 2 * (ALPHA + 64 / SPEED)
    ring_s = 3 * ALPHA + M / SPEED * (3 / 4) / (1 / 2)
    assert found.exchange_s == pytest.approx(ring_s + buffers_s)


@pytest.mark.parametrize(
    ("spec", "left_out", "why"),
    [
        (run(precision="fp64"), None, "no compute ceiling of smallconv on digits at fp64"),
        (run(model="resnet18"), None, "no compute ceiling of resnet18"),
        (run(dataset_options={"samples": 8}), None, "no compute ceiling"),
        (run(), "all_reduce", "no link ceiling of all_reduce over gloo"),
        (run(strategy="noop"), None, "the strategy noop has no formula"),
    ],
)
def test_what_cannot_be_predicted_says_what_is_missing(spec: RunSpec, left_out: str | None, why: str) -> None:
    """Nothing is guessed."""
    there = [each for each in node() if getattr(each, "operation", None) != left_out or left_out is None]
    found = predict_step(spec, ceilings(*there))
    assert isinstance(found, MissingCeiling) and why in found.missing


def test_ceilings_of_the_host_come_first() -> None:
    """Another host's stand in only where the device is the same and the host has none."""
    both = Ceilings.of([MeasuredCeiling(compute(), "n1", 1), MeasuredCeiling(compute(seconds=0.02), "n2", 1)])
    found = predict_step(run(strategy="single_gpu", backend=None), both.at("n2", "cpu"))
    assert isinstance(found, StepPrediction) and found.compute_s == pytest.approx(0.02)
    assert both.at("n3", "cpu").records == both.records
    assert not both.at("n1", "H200")


def test_lookups_of_what_is_no_time() -> None:
    """The matrix rate of the precision, and the copies that arrived broken."""
    found = ceilings(matrix(), matrix(precision="tf32", flop_per_s=2e10), CopyCheck(
        device="H200", pairs=["0 1"], broken=["1 0"]
    ))  # fmt: skip
    assert found.matrix_flop_per_s(run(precision="tf32")) == 2e10
    assert found.matrix_flop_per_s(run(precision="fp64")) is None
    assert found.broken_copies() == ["1 0"]

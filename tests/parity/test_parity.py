"""Parity: every synchronous strategy learns exactly what a single process learns."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpcbench.strategies.strategy_registry import STRATEGIES
from tests.parity.cases import (
    VARIANTS,
    Case,
    Shape,
    all_cases,
    inexact_cases,
    overflowing_cases,
    resumed_cases,
)
from tests.parity.rank import copied
from tests.parity.reference import Expected, train_reference

ROOT = Path(__file__).parents[2]
EXEMPT = {"noop", "faulty"}  # trains nothing; wrong on purpose

Results = dict[str, list[dict[str, Any]]]  # by task and case, one of each rank


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Train all cases on real gloo ranks; one start of processes for each number of them."""
    folder = tmp_path_factory.mktemp("parity")
    found: Results = {}
    for count in sorted({case.processes for case in all_cases()}):
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.parity.rank"]
        processes = [
            subprocess.Popen([*command, str(rank), str(count), str(folder)], cwd=ROOT, env=environment)
            for rank in range(count)
        ]
        assert [process.wait(timeout=240) for process in processes] == [0] * count
        for rank in range(count):
            own = torch.load(folder / f"processes{count}.rank{rank}.pt", weights_only=True)
            for name, result in own.items():
                found.setdefault(name, []).append(result)
    return found


@cache
def _reference(shape: Shape) -> Expected:
    torch.set_num_threads(1)  # the nets are small: a second thread costs more than it brings
    return train_reference(shape)


def _relative_difference(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """Return the largest difference of any tensor, relative to its largest element, and where it is."""
    assert set(weights) == set(expected)
    return max(
        (((weights[name] - value).abs().max() / value.abs().max().clamp(min=1e-30)).item(), name)
        for name, value in expected.items()
    )


def _assert_ranks_agree(replicas: list[dict[str, Tensor]]) -> None:
    for replica in replicas:
        for name, value in replica.items():
            assert torch.equal(value, replicas[0][name]), f"ranks differ in {name}"


def test_every_strategy_is_proved_or_exempt() -> None:
    """A strategy that is added to the name table has to appear here."""
    assert set(VARIANTS) | EXEMPT == set(STRATEGIES)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_strategy_reaches_the_weights_of_one_process(case: Case, results: Results) -> None:
    """Weights and buffers equal the single-process reference, on every rank alike."""
    expected = copied(_reference(case.shape).weights)
    replicas = [result["weights"] for result in results[f"train:{case.name}"]]
    assert len(replicas) == case.ranks
    _assert_ranks_agree(replicas)
    difference, where = _relative_difference(replicas[0], expected)
    assert difference <= case.tolerance, f"{where}: off by {difference:.1e}"


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_evaluation_counts_every_sample_once(case: Case, results: Results) -> None:
    """Loss, right answers and samples of all ranks add up to those of a single process half-way."""
    total = torch.stack([result["evaluation"] for result in results[f"train:{case.name}"]]).sum(dim=0)
    torch.testing.assert_close(total, _reference(case.shape).evaluation, rtol=case.tolerance, atol=0.0)


@pytest.mark.parametrize("case", inexact_cases(), ids=lambda case: case.name)
def test_inexact_strategies_agree_with_themselves_and_not_with_the_reference(
    case: Case, results: Results
) -> None:
    """Compression and several local steps change what is learnt, a little, and alike on all ranks."""
    replicas = [result["weights"] for result in results[f"inexact:{case.name}"]]
    _assert_ranks_agree(replicas)
    expected = copied(_reference(case.shape).weights)
    difference, _ = _relative_difference(replicas[0], expected)
    assert difference > 10 * case.tolerance
    changed = sum((replicas[0][name] - value).double().square().sum() for name, value in expected.items())
    whole = sum(value.double().square().sum() for value in expected.values())
    assert changed < 0.05 * whole


@pytest.mark.parametrize("case", resumed_cases(), ids=lambda case: case.name)
def test_resumed_training_equals_training_that_never_stopped(case: Case, results: Results) -> None:
    """From the saved state on, every bit is as if nothing had happened."""
    for result in results[f"resume:{case.name}"]:
        assert set(result["weights"]) == set(result["resumed"])
        for name, value in result["weights"].items():
            assert torch.equal(value, result["resumed"][name]), f"differs in {name}"


@pytest.mark.parametrize("case", overflowing_cases(), ids=lambda case: case.name)
def test_all_ranks_skip_an_update_together(case: Case, results: Results) -> None:
    """Where one rank's gradient overflows, no rank takes it, and the weights stay finite and equal."""
    ranks = results[f"overflow:{case.name}"]
    _assert_ranks_agree([result["weights"] for result in ranks])
    assert {result["skipped"] for result in ranks} == {ranks[0]["skipped"]}
    assert 1 <= ranks[0]["skipped"] < case.steps
    assert all(value.isfinite().all() for value in ranks[0]["weights"].values())


@pytest.mark.parametrize("options", [each for each in VARIANTS["ps"] if each["mode"] != "sync"], ids=str)
def test_a_server_with_one_worker_does_the_same_in_every_mode(
    options: dict[str, Any], results: Results
) -> None:
    """Without peers there is nothing to be stale against: bit by bit the synchronous mode's weights."""
    compared = 0
    for case in all_cases():
        if case.strategy != "ps" or case.options != options:
            continue
        synchronous = dataclasses.replace(case, options={"mode": "sync"})
        expected = results[f"train:{synchronous.name}"][0]["weights"]
        for name, value in results[f"train:{case.name}"][0]["weights"].items():
            assert torch.equal(value, expected[name]), f"{case.name}: differs in {name}"
            compared += 1
    assert compared > 0

"""Parity: every synchronous strategy learns exactly what a single process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpcbench.strategies import STRATEGIES
from tests.parity.cases import VARIANTS, Case, all_cases
from tests.parity.reference import reference_weights

ROOT = Path(__file__).parents[2]
EXEMPT = {"noop"}  # trains nothing


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    """Train all cases on real gloo ranks; one start of processes for each number of ranks."""
    folder = tmp_path_factory.mktemp("parity")
    weights: dict[str, list[dict[str, Tensor]]] = {}
    for ranks in sorted({case.ranks for case in all_cases()}):
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.parity.rank"]
        processes = [
            subprocess.Popen([*command, str(rank), str(ranks), str(folder)], cwd=ROOT, env=environment)
            for rank in range(ranks)
        ]
        assert [process.wait(timeout=240) for process in processes] == [0] * ranks
        for rank in range(ranks):
            for name, result in torch.load(folder / f"ranks{ranks}.rank{rank}.pt", weights_only=True).items():
                weights.setdefault(name, []).append(result)
    return weights


@cache
def _reference(
    ranks: int, model: str, precision: str, steps: int, batch: int, accumulation: int
) -> dict[str, Tensor]:
    return reference_weights(Case("reference", {}, ranks, model, precision, steps, batch, accumulation))


def test_every_strategy_is_proved_or_exempt() -> None:
    """A strategy that is added to the name table has to appear here."""
    assert set(VARIANTS) | EXEMPT == set(STRATEGIES)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_strategy_reaches_the_weights_of_one_process(
    case: Case, trained: dict[str, list[dict[str, Tensor]]]
) -> None:
    """Weights and buffers equal the single-process reference, on every rank alike."""
    expected = _reference(case.ranks, case.model, case.precision, case.steps, case.batch, case.accumulation)
    replicas = trained[case.name]
    assert len(replicas) == case.ranks
    for replica in replicas:
        assert set(replica) == set(expected)
        for name, value in expected.items():
            assert torch.equal(replica[name], replicas[0][name]), f"ranks differ in {name}"
            scale = value.abs().max().clamp(min=1e-30)
            difference = ((replica[name] - value).abs().max() / scale).item()
            assert difference <= case.tolerance, f"{name}: off by {difference:.1e}"

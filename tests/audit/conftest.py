"""Real runs, done once for all tests of the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.sweep.sweep_loading import load_sweep
from tests.audit.really import ROOT, train_sweep

# Every strategy that runs on a CPU, learning the same thing.
HONEST = """
version: 1
name: honest
defaults: {dataset: digits, model: smallconv, global_batch: 48, epochs: 2, repeats: 1}
resources: {nodes: 1, gpus_per_node: 0, time: "00:10:00"}
runs:
  - strategy: single_gpu
  - {strategy: ddp, ranks: 2}
  - {name: ddp3, strategy: ddp, ranks: 3}
  - {strategy: collective, ranks: 2, grid: {strategy_options.exchange: [per_parameter, bucketed, overlapped]}}
  - {strategy: fsdp_grad, ranks: 2}
  - {strategy: fsdp_full, ranks: 2}
  - {strategy: zero1, ranks: 2}
  - {strategy: local_sgd, ranks: 2}
  - {strategy: pipeline, ranks: 2}
  - {strategy: model_parallel, devices: 2}
  - {strategy: dp, devices: 2}
  - {strategy: ps, ranks: 2, grid: {strategy_options.mode: [sync, async]}}
groups:
  - {id: All, title: "All strategies", factor: strategy}
"""


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of every strategy, really run."""
    folder = tmp_path_factory.mktemp("honest")
    file = folder / "honest.yaml"
    file.write_text(HONEST)
    return train_sweep(load_sweep([file], CATALOG), folder / "results")


@pytest.fixture(scope="session")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of sweeps/mistakes.yaml, really run."""
    sweep = load_sweep([ROOT / "sweeps" / "mistakes.yaml"], CATALOG)
    return train_sweep(sweep, tmp_path_factory.mktemp("mistakes") / "results")

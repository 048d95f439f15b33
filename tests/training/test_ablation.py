"""What the exchange costs, measured on copies: the training itself must not notice."""

from __future__ import annotations

import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcbench.runs.events import ExchangeAblation, RunFinished, Steps
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import RunFolder
from tests.cluster.helpers import HPCBENCH, injected

PAUSE_S = 0.003  # before each all-reduce
TENSORS = 11  # of smallconv
SLOW_ALL_REDUCE = f"""
if place:
    import time
    import torch.distributed as dist
    fast = dist.all_reduce
    def slow(*arguments, **named):
        time.sleep({PAUSE_S})
        return fast(*arguments, **named)
    dist.all_reduce = slow
"""


def run(
    folder: Path, strategy: str, *, measured: bool, environment: dict[str, str] | None = None, **fields: Any
) -> RunFolder:
    """Do a short run of two ranks, and return its folder."""
    said = {
        "measure_exchange": str(measured).lower(), "global_batch": 48, "epochs": 1, "evaluate": "false",
        "save_weights": "true", **fields,
    }  # fmt: skip
    settings = [part for key, value in said.items() for part in ("--set", f"{key}={value}")]
    command = [*HPCBENCH, "run", "--strategy", strategy, "--ranks", "2", *settings, "--out", str(folder)]
    seen = os.environ | (environment or {})
    done = subprocess.run(command, env=seen, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder)


def ablations(folder: RunFolder) -> list[ExchangeAblation]:
    """Return what the ranks have recorded."""
    events = (record.event for rank in range(2) for record in read_events(folder.events(1, rank)).records)
    return [event for event in events if isinstance(event, ExchangeAblation)]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Return the trained model."""
    loaded: dict[str, torch.Tensor] = torch.load(folder.weights, weights_only=True)
    return loaded


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("ddp", {}), ("collective", {"strategy_options": "{exchange: overlapped, bucket_mb: 0.1}"})],
)
def test_run_learns_the_same_bits(tmp_path: Path, strategy: str, options: dict[str, str]) -> None:
    """With and without the paired section, weights are equal in every bit, and so are steps and samples."""
    measured = run(tmp_path / "with", strategy, measured=True, **options)
    plain = run(tmp_path / "without", strategy, measured=False, **options)
    first, second = weights(measured), weights(plain)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not ablations(plain)
    for rank, event in enumerate(ablations(measured)):
        assert len(event.with_exchange_s) == len(event.without_exchange_s) >= 12
        assert min(event.with_exchange_s + event.without_exchange_s) > 0
        events = [record.event for record in read_events(measured.events(1, rank)).records]
        (finished,) = (each for each in events if isinstance(each, RunFinished))
        windows = [each for each in events if isinstance(each, Steps)]
        assert sum(window.samples for window in windows) == finished.samples
        assert finished.check_s >= event.wall_s
        assert finished.train_s < finished.wall_s - event.wall_s


def test_copies_begin_as_the_run_does(tmp_path: Path) -> None:
    """A static graph wants a backward pass that exchanges first, before one of several micro-batches."""
    options = {"strategy_options": "{static_graph: true}", "accumulation": "2"}
    assert len(ablations(run(tmp_path / "run", "ddp", measured=True, **options))) == 2


def test_difference_is_the_exchange(tmp_path: Path) -> None:
    """Where each all-reduce is slower by a known time, steps with the exchange are longer by all of it."""
    environment = injected(tmp_path / "site", SLOW_ALL_REDUCE)
    options = {"strategy_options": "{exchange: per_parameter}"}
    folder = run(tmp_path / "run", "collective", measured=True, environment=environment, **options)
    for event in ablations(folder):
        longer_s = statistics.median(event.with_exchange_s) - statistics.median(event.without_exchange_s)
        assert longer_s > 0.9 * TENSORS * PAUSE_S


@pytest.mark.parametrize("local_steps", [3, 8])
def test_exchange_of_every_few_steps_is_spread_over_them(tmp_path: Path, local_steps: int) -> None:
    """Ranks that average every k steps pay one exchange in k steps, and not none or one in a median step."""
    environment = injected(tmp_path / "site", SLOW_ALL_REDUCE.replace("0.003", "0.06"))
    options = {"strategy_options": f"{{local_steps: {local_steps}}}"}
    folder = run(tmp_path / "run", "local_sgd", measured=True, environment=environment, **options)
    told = ablations(folder)
    assert len(told) == 2
    for event in told:
        longer_s = statistics.median(event.with_exchange_s) - statistics.median(event.without_exchange_s)
        assert 0.9 < longer_s * local_steps / 0.06 < 2


def test_exchange_that_comes_too_seldom_is_not_left_out(tmp_path: Path) -> None:
    """A few steps say nothing of what happens once in a hundred."""
    options = {"strategy_options": "{local_steps: 100}"}
    assert not ablations(run(tmp_path / "run", "local_sgd", measured=True, **options))


def test_exchange_that_is_a_part_of_the_computation_is_not_left_out(tmp_path: Path) -> None:
    """Sharded parameters have to be gathered to compute at all: nothing is claimed there."""
    assert not ablations(run(tmp_path / "run", "fsdp_full", measured=True, save_weights="false"))

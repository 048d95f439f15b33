"""What the record says of runs that do without the devices that they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.world import World
from hpcbench.training.precision import RunPrecision

CPU = torch.device("cpu")
GPUS = (torch.device("cuda", 0), torch.device("cuda", 1))


@pytest.mark.parametrize(
    ("name", "devices", "emulated"),
    [
        ("dp", (CPU, CPU), True),
        ("model_parallel", (CPU, CPU), True),
        ("dp", GPUS, False),
        ("model_parallel", GPUS, False),
        ("model_parallel", (GPUS[0], GPUS[0]), True),
        ("single_gpu", (CPU,), False),
    ],
)
def test_strategy_says_whether_it_has_its_devices(
    name: str, devices: tuple[torch.device, ...], emulated: bool
) -> None:
    """Several GPUs are real, a CPU or one GPU in place of two is not."""
    world = World(0, 1, 1, devices[0], more_devices=devices[1:])
    entry = STRATEGIES[name]
    strategy: Strategy = entry.load()(world, RunPrecision("fp32", CPU), entry.options())
    assert strategy.emulated is emulated


def test_record_of_data_parallel_on_a_cpu_is_marked_as_emulated(tmp_path: Path) -> None:
    """Whoever reads the record learns that no two devices were at work."""
    command = [sys.executable, "-m", "hpcbench", "run", "--strategy", "dp", "--out", str(tmp_path / "run")]
    settings = ["--set", "devices=2", "--set", "steps=2", "--set", "evaluate=false"]
    subprocess.run([*command, *settings], check=True, capture_output=True, timeout=120)
    (events,) = (tmp_path / "run").glob("events.*.rank0.jsonl")
    assert json.loads(events.read_text().splitlines()[0])["emulated"] is True

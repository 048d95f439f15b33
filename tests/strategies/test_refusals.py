"""What a strategy cannot do is refused before anything is submitted, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.sweep_loading import load_sweep

GPUS = {"nodes": 2, "gpus_per_node": 4}
CPUS = {"nodes": 1, "gpus_per_node": 0}


def load(folder: Path, run: dict[str, object], *, smoke: bool = False) -> RunSpec:
    """Return a sweep's only run."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "s", "runs": [{"resources": CPUS, **run}]}))
    return load_sweep([path], CATALOG, smoke=smoke).runs[0]


PIPELINE = {"strategy": "pipeline", "ranks": 4, "batch_size": 32}

# What is wrong, the run, and words of the message.
IMPOSSIBLE = [
    ("dp over nodes", {"strategy": "dp", "resources": GPUS, "devices": 4}, ["2 nodes", "one process"]),
    (
        "model_parallel over nodes",
        {"strategy": "model_parallel", "resources": GPUS, "devices": 4},
        ["2 nodes", "one process"],
    ),
    ("idle devices", {"strategy": "dp", "devices": 4, "batch_size": 3}, ["3 samples", "4 devices"]),
    ("more stages than blocks", {**PIPELINE, "ranks": 5}, ["smallconv", "5 parts", "up to 4"]),
    (
        "more parts than blocks",
        {"strategy": "model_parallel", "devices": 5},
        ["smallconv", "5 parts", "up to 4"],
    ),
    (
        "batch smaller than micro-batches",
        {**PIPELINE, "batch_size": 3},
        ["a batch of 3", "smaller", "4 micro-batches"],
    ),
    (
        "unequal micro-batches",
        {**PIPELINE, "batch_size": 10},
        ["a batch of 10", "4 equal", "nearest number is 5"],
    ),
    (
        "too small after accumulation",
        {**PIPELINE, "batch_size": 12, "accumulation": 6},
        ["a batch of 12 in 6 parts", "4 micro-batches"],
    ),
    (
        "1f1b with too few micro-batches",
        {**PIPELINE, "strategy_options": {"schedule": "1f1b", "micro_batches": 2}},
        ["1f1b", "2 are fewer than 4", "gpipe"],
    ),
    (
        "pipeline over gloo on GPUs",
        {**PIPELINE, "resources": GPUS, "backend": "gloo"},
        ["gloo", "nccl"],
    ),
    (
        "sharded channels_last",
        {"strategy": "fsdp_full", "ranks": 2, "channels_last": True},
        ["channels_last: false"],
    ),
    ("compiled pipeline", {**PIPELINE, "compile": True}, ["cannot be compiled"]),
    ("nccl on a CPU", {**PIPELINE, "backend": "nccl"}, ["nccl needs GPUs"]),
    (
        "no local steps",
        {"strategy": "local_sgd", "ranks": 2, "strategy_options": {"local_steps": 0}},
        ["local_steps"],
    ),
    (
        "unknown compression",
        {"strategy": "ddp", "ranks": 2, "strategy_options": {"compression": "fp8"}},
        ["bf16"],
    ),
]


@pytest.mark.parametrize(
    ("run", "words"), [each[1:] for each in IMPOSSIBLE], ids=[each[0] for each in IMPOSSIBLE]
)
def test_impossible_runs_are_refused_with_the_reason(
    run: dict[str, object], words: list[str], tmp_path: Path
) -> None:
    """The message says what does not go together."""
    with pytest.raises(InputError) as refusal:
        load(tmp_path, run)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


@pytest.mark.parametrize(
    "run",
    [
        {"strategy": "dp", "devices": 2},
        {"strategy": "dp", "resources": {"nodes": 1, "gpus_per_node": 4}},
        {"strategy": "model_parallel", "devices": 4},
        {**PIPELINE, "strategy_options": {"schedule": "1f1b", "micro_batches": 4}},
        {
            **PIPELINE,
            "ranks": 10,
            "resources": {**GPUS, "nodes": 3},
            "model": "resnet18",
            "dataset": "synthetic",
        },
        {"strategy": "fsdp_full", "ranks": 2},
        {"strategy": "zero1", "ranks": 2, "strategy_options": {"compression": "bf16"}},
        {"strategy": "local_sgd", "ranks": 2},
    ],
    ids=lambda run: run["strategy"],
)
def test_possible_runs_are_not_refused(run: dict[str, object], tmp_path: Path) -> None:
    """What is refused above is not refused for another reason."""
    assert load(tmp_path, run).strategy == run["strategy"]


@pytest.mark.parametrize("batch_size", [64, 128, 512])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_smoke_runs_of_a_pipeline_are_possible(batch_size: int, schedule: str, tmp_path: Path) -> None:
    """Scaled down, a pipeline has micro-batches that its batch still fills and its schedule allows."""
    options = {"schedule": schedule, "micro_batches": 8}
    run = {**PIPELINE, "batch_size": batch_size, "strategy_options": options}
    small = load(tmp_path, run, smoke=True)
    assert CATALOG.strategies["pipeline"].check(small) is None
    assert small.batch_size // small.strategy_options["micro_batches"] >= 2

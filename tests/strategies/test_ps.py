"""Parameter servers with several workers, and the parts that they are made of. Parity has its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hpcbench.strategies.ps_entry import refuse_ps, scale_down_ps
from hpcbench.strategies.server_channel import CommandKind, FlatModel, ServerCommand, cut_vector
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import Resources, RunSpec
from hpcbench.training.precision import RunPrecision
from tests.strategies.ps_rank import CPU, EPOCHS, MODES, STEPS, WORKERS, train_alike

ROOT = Path(__file__).parents[2]
UPDATES = WORKERS * EPOCHS * STEPS

Results = list[dict[str, Any]]  # of each rank: by mode


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Let real gloo ranks train in every mode."""
    folder = tmp_path_factory.mktemp("ps")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.strategies.ps_rank"]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, env=environment)
        for rank in range(WORKERS + 1)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0] * (WORKERS + 1)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORKERS + 1)]


@pytest.mark.parametrize("mode", list(MODES))
def test_workers_agree_after_settle(mode: str, results: Results) -> None:
    """However stale a worker was, after settle all have the newest parameters and the buffers of shard 0."""
    first = results[0][mode]["weights"]
    for worker in range(1, WORKERS):
        assert all(torch.equal(results[worker][mode]["weights"][name], first[name]) for name in first)


@pytest.mark.parametrize("mode", list(MODES))
def test_stale_gradients_still_train(mode: str, results: Results) -> None:
    """The loss of every worker falls."""
    for worker in range(WORKERS):
        losses = results[worker][mode]["losses"]
        assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("mode", list(MODES))
def test_every_update_is_in_the_figures(mode: str, results: Results) -> None:
    """Each gradient is applied once, with its worker, samples and staleness; later ones are stale."""
    figures = results[WORKERS][mode]
    assert figures["updates"] == UPDATES
    assert figures["samples"] == 4 * UPDATES
    assert figures["dropped"] == 0
    assert all(figures["workers"].count(worker) == EPOCHS * STEPS for worker in range(WORKERS))
    assert len(figures["staleness"]) == len(figures["lead"]) == UPDATES
    assert max(figures["staleness"]) >= 1
    assert min(figures["staleness"]) >= 0


def test_nobody_waits_for_the_slowest_in_asynchronous_mode(results: Results) -> None:
    """Fast workers run ahead of a slow one, which is what the bound is there to limit."""
    assert max(results[WORKERS]["async"]["lead"]) > 3


@pytest.mark.parametrize("bound", [0, 2])
def test_bounded_mode_keeps_its_bound(bound: int, results: Results) -> None:
    """No worker begins a step more than `max_staleness` ahead of the slowest, and the bound is used."""
    figures = results[WORKERS][f"bounded {bound}"]
    assert max(figures["lead"]) == bound
    # Between a pull and a push each other worker does at most the steps from `bound` behind to `bound` ahead.
    assert max(figures["staleness"]) <= (WORKERS - 1) * (2 * bound + 1)


def test_server_decays_what_a_single_process_decays(results: Results) -> None:
    """An optimizer that spares biases and normalisation spares them in the flat vector too."""
    alone = train_alike(Strategy(World(0, 1, 1, CPU), RunPrecision("fp64", CPU), None), rank=0)
    for worker in range(WORKERS):
        for name, value in results[worker]["alike"].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-10, atol=1e-12)


@given(
    elements=st.integers(1, 5000),
    shards=st.integers(1, 7),
    bucket=st.integers(1, 3000),
    width=st.sampled_from([4, 8]),
)
def test_cutting_leaves_nothing_out(elements: int, shards: int, bucket: int, width: int) -> None:
    """Pieces cover the vector once and in order, shards are even, and no piece is longer than a bucket."""
    shares = cut_vector(elements, width, shards, bucket)
    pieces = [piece for share in shares for piece in share]
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(elements))
    sizes = [sum(piece.stop - piece.start for piece in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all((piece.stop - piece.start) * width <= max(bucket, width) for piece in pieces)
    assert all([piece.number for piece in share] == list(range(len(share))) for share in shares)


def test_flat_model_is_the_model() -> None:
    """Values, gradients and memory layout of every parameter are those of the model, in one vector."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    images = torch.randn(2, 3, 6, 6)
    model(images)
    model.to(memory_format=torch.channels_last)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    flat = FlatModel(model)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    model(images).sum().backward()
    assert flat.gradient.norm() == pytest.approx(
        torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]).norm().item()
    )
    flat.values.zero_()
    assert all(not parameter.any() for parameter in model.parameters())
    assert flat.matrices == model[0].weight.numel() + model[3].weight.numel()


@given(lr=st.floats(0, 1e6), samples=st.integers(0, 2**40), kind=st.sampled_from(CommandKind))
def test_commands_arrive_as_they_were_sent(lr: float, samples: int, kind: CommandKind) -> None:
    """The message holds every field exactly."""
    command = ServerCommand(
        kind=kind, worker=3, lr=lr, samples=samples, elements=2**40 + 1, matrices=7, width=4
    )
    assert ServerCommand.from_message(command.to_message()) == command


def _spec(device: str = "cpu", backend: str | None = "gloo", **options: Any) -> RunSpec:
    return RunSpec(
        name="n",
        strategy="ps",
        strategy_options=options,
        device=device,
        backend=backend,
        ranks=2,
        servers=options.get("servers", 1),
        resources=Resources(gpus_per_node=3 if device == "cuda" else 0),
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (_spec(mode="bounded"), "needs max_staleness"),
        (_spec(mode="async", max_staleness=2), "mode bounded only"),
        (_spec(server="gpu", backend="nccl"), "needs GPUs"),
        (_spec(device="cuda", server="gpu", backend="gloo"), "over nccl, not over gloo"),
        (_spec(device="cuda", server="cpu", backend="nccl"), "over gloo, not over nccl"),
        (_spec(device="cuda", server="gpu", backend="nccl", servers=2), "need 4 GPUs, and resources have 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_servers_are_refused(spec: RunSpec, reason: str) -> None:
    """The reason says what is missing or does not go together."""
    refusal = refuse_ps(spec)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    "spec",
    [
        _spec(),
        _spec(mode="bounded", max_staleness=0),
        _spec(device="cuda", server="gpu", backend="nccl"),
        _spec(device="cuda", server="cpu", backend="gloo", servers=3),
    ],
)
def test_possible_servers_are_not_refused(spec: RunSpec) -> None:
    """What can run is let through."""
    assert refuse_ps(spec) is None


def test_smoke_brings_a_gpu_server_into_memory() -> None:
    """On a machine without GPUs a scaled-down run keeps its mode and can run."""
    small = scale_down_ps(_spec(server="gpu", servers=5, mode="async"))
    assert small.strategy_options["mode"] == "async"
    assert small.servers == small.strategy_options["servers"] == 2
    assert refuse_ps(small) is None

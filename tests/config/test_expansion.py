"""Layers, grids, names and repeats: which runs a sweep file becomes."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcbench.errors import InputError
from hpcbench.sweep.run_spec import RunSpec
from tests.config.files import HEAD, KINDS, ON_TWO_GPUS, RUN, as_yaml, load, names


def _only(folder: Path, text: str, **arguments: Any) -> RunSpec:
    """Return the first repeat of a sweep of one run."""
    return load(folder, text, **arguments).runs[0]


def test_more_specific_layer_wins(tmp_path: Path) -> None:
    """Built-in values, defaults, run, grid, command line: each layer overrides the one before."""
    layers: dict[str, tuple[str, tuple[str, ...], int]] = {
        "built-in": (f"{HEAD}{RUN}", (), 5),
        "defaults": (f"{HEAD}defaults: {{warmup_steps: 1}}\n{RUN}", (), 1),
        "run": (f"{HEAD}defaults: {{warmup_steps: 1}}\n{RUN[:-2]}, warmup_steps: 2}}\n", (), 2),
    }
    grid = (
        f"{HEAD}defaults: {{warmup_steps: 1}}\n{RUN[:-2]}, warmup_steps: 2, grid: {{warmup_steps: [3]}}}}\n"
    )
    layers |= {"grid": (grid, (), 3), "command line": (grid, ("warmup_steps=4",), 4)}
    for name, (text, overrides, expected) in layers.items():
        assert _only(tmp_path, text, settings=overrides).warmup_steps == expected, name


def test_maps_merge_and_begin_anew_with_another_name(tmp_path: Path) -> None:
    """A run's optimizer keeps what defaults say; a schedule of another name does not."""
    text = HEAD + yaml.safe_dump(
        {
            "defaults": {
                "optimizer": {"lr": 0.5, "momentum": 0.8},
                "schedule": {"name": "step", "step_epochs": 7, "gamma": 0.5},
            },
            "runs": [{"strategy": "ddp", "ranks": 2, "optimizer": {"lr": 0.25}, "schedule": "cosine"}],
        }
    )
    run = _only(tmp_path, text)
    assert (run.optimizer.lr, run.optimizer.momentum) == (0.25, 0.8)
    assert (run.schedule.name, run.schedule.step_epochs, run.schedule.gamma) == ("cosine", 30, 0.1)


@pytest.mark.parametrize(
    ("in_defaults", "in_run", "expected"),
    [
        ("batch_size: 8", "global_batch: 64", 32), ("global_batch: 64", "batch_size: 8", 8),
        ("global_batch: 64", "seed: 1", 32), ("batch_size: 8", "global_batch: null", 8),
    ],
)  # fmt: skip
def test_batch_of_the_more_specific_level_counts(
    in_defaults: str, in_run: str, expected: int, tmp_path: Path
) -> None:
    """`batch_size` and `global_batch` replace each other between levels."""
    text = f"{HEAD}defaults: {{{in_defaults}}}\nruns:\n  - {{strategy: ddp, ranks: 2, {in_run}}}\n"
    assert _only(tmp_path, text).batch_size == expected


def test_steps_replace_epochs_of_a_wider_level(tmp_path: Path) -> None:
    """A run that counts steps has no epochs, and the other way round."""
    run = _only(tmp_path, f"{HEAD}defaults: {{epochs: 9}}\n{RUN[:-2]}, steps: 100}}\n")
    assert (run.epochs, run.steps) == (None, 100)
    run = _only(tmp_path, f"{HEAD}defaults: {{steps: 9}}\n{RUN[:-2]}, epochs: 2}}\n")
    assert (run.epochs, run.steps) == (2, None)


PROCESS_COUNTS: dict[str, tuple[dict[str, int], int, tuple[int, int, int, int, str | None]]] = {
    # strategy: fields, GPUs of a node -> ranks, devices, shards, global batch of 64 a rank, backend
    "single_gpu": ({}, 2, (1, 1, 1, 64, None)),
    "dp": ({}, 4, (1, 4, 1, 64, None)),
    "ddp": ({}, 2, (2, 1, 2, 128, "nccl")),
    "pipeline": ({}, 4, (4, 1, 1, 64, "nccl")),
    "ps": ({"ranks": 3}, 4, (3, 1, 3, 192, "nccl")),
}


@pytest.mark.parametrize("strategy", PROCESS_COUNTS)
def test_seats_follow_from_the_strategy(strategy: str, tmp_path: Path) -> None:
    """Ranks, devices, shards and global batch are those of the table in docs/sweeps.md."""
    fields, gpus, expected = PROCESS_COUNTS[strategy]
    text = f"version: 1\nname: s\nresources: {{gpus_per_node: {gpus}}}\n" + yaml.safe_dump(
        {"runs": [{"strategy": strategy, **fields}]}
    )
    run = _only(tmp_path, text, catalog=KINDS)
    assert (run.ranks, run.devices, run.data_shards, run.global_batch, run.backend) == expected
    assert run.device == "cuda"
    assert run.servers == (strategy == "ps")
    assert run.processes == run.ranks + run.servers


def test_nodes_multiply_ranks_and_cpus_talk_over_gloo(tmp_path: Path) -> None:
    """R is nodes x gpus_per_node; without GPUs the backend is gloo."""
    two_nodes = ON_TWO_GPUS.replace("gpus_per_node: 2", "gpus_per_node: 2, nodes: 3")
    assert _only(tmp_path, f"{two_nodes}runs: [{{strategy: ddp}}]\n").ranks == 6
    run = _only(tmp_path, f"{HEAD}{RUN}")
    assert (run.device, run.backend) == ("cpu", "gloo")


def test_strategy_that_cannot_use_nccl_takes_gloo_unless_told_otherwise(tmp_path: Path) -> None:
    """A backend that the sweep does not set is a default."""
    text = f"{ON_TWO_GPUS}runs: [{{strategy: gloo_only}}]\n"
    assert _only(tmp_path, text, catalog=KINDS).backend == "gloo"
    with pytest.raises(InputError, match="no nccl"):
        load(tmp_path, text, KINDS, settings=["backend=nccl"])


def test_machine_fills_in_gpus_that_the_sweep_does_not_say(tmp_path: Path) -> None:
    """`default_gpus_per_node` applies where gpus_per_node is not set, and only there."""
    run = _only(tmp_path, "version: 1\nname: s\nruns: [{strategy: ddp}]\n", default_gpus_per_node=3)
    assert (run.ranks, run.resources.gpus_per_node, run.device) == (3, 3, "cuda")
    assert _only(tmp_path, f"{HEAD}{RUN}", default_gpus_per_node=3).device == "cpu"


def test_defaults_hold_where_a_strategy_has_a_choice(tmp_path: Path) -> None:
    """One `ranks` and `backend` in defaults serve a sweep that also has a single process."""
    defaults = "defaults: {ranks: 2, backend: gloo, stem: cifar}\n"
    text = f"{HEAD}{defaults}runs: [{{strategy: single_gpu}}, {{strategy: ddp}}]\n"
    single, ddp = load(tmp_path, text).runs[:2]
    assert (single.ranks, single.backend, single.stem) == (1, None, None)
    assert (ddp.ranks, ddp.backend) == (2, "gloo")


def test_repeats_are_interleaved_and_have_their_own_seeds(tmp_path: Path) -> None:
    """A B C, A B C; a run with fewer repeats is left out of the later rounds."""
    text = (
        f"{HEAD}defaults: {{seed: 5, repeats: 3}}\nruns:\n"
        "  - {name: a, strategy: noop, ranks: 1}\n  - {name: b, strategy: noop, ranks: 2, repeats: 1}\n"
        "  - {name: c, strategy: noop, ranks: 3}\n"
    )
    runs = load(tmp_path, text).runs
    assert [run.name for run in runs] == ["a", "b", "c", "a", "c", "a", "c"]
    assert [(run.repeat, run.seed) for run in runs if run.name == "a"] == [(0, 5), (1, 6), (2, 7)]
    assert len({run.run_id for run in runs}) == 7


def test_exclude_sees_what_follows(tmp_path: Path) -> None:
    """A pattern matches derived fields, a list in it any of its values, all of its fields together."""
    text = (
        f"{HEAD}runs:\n  - strategy: ddp\n    grid: {{ranks: [1, 2, 4], batch_size: [8, 16]}}\n    exclude: "
    )
    assert names(load(tmp_path, f"{text}[{{global_batch: [16, 64]}}]\n")) == [
        "ddp_bs8x1", "ddp_bs16x2", "ddp_bs8x4",
    ]  # fmt: skip
    assert len(names(load(tmp_path, f"{text}[{{ranks: 1, batch_size: 8}}, {{ranks: 4}}]\n"))) == 3
    assert len(names(load(tmp_path, f"{text}[{{ranks: 1, global_batch: 16, batch_size: 8}}]\n"))) == 6


def test_number_of_runs_is_the_product_of_the_axes() -> None:
    """Every combination exists once, for any axes."""
    values: dict[str, list[Any]] = {
        "batch_size": [1, 2, 3], "seed": [10, 20, 30], "cache": ["none", "memory", "device"],
        "optimizer.lr": [0.1, 0.2, 0.3], "strategy_options.step_s": [1, 2.0, 0.5], "evaluate": [True, False],
    }  # fmt: skip

    @given(
        st.fixed_dictionaries(
            {}, optional={key: st.integers(1, len(options)) for key, options in values.items()}
        )
    )
    @settings(max_examples=30, deadline=None)
    def check(sizes: dict[str, int]) -> None:
        grid = {key: values[key][:size] for key, size in sizes.items()}
        with TemporaryDirectory() as folder:
            runs = load(Path(folder), as_yaml(strategy="noop", ranks=1, repeats=1, grid=grid)).runs
        assert len(runs) == math.prod(sizes.values())
        assert len({run.name for run in runs}) == len({run.run_id for run in runs}) == len(runs)

    check()


def test_run_id_knows_no_order_and_no_name() -> None:
    """The id is that of the content: not of the order of keys, the name, or what changes nothing."""
    fields: dict[str, Any] = {
        "strategy": "ddp", "ranks": 2, "batch_size": 8, "optimizer": {"lr": 0.5, "momentum": 0.0},
        "precision": "amp_bf16", "strategy_options": {"bucket_mb": 1, "static_graph": True},
    }  # fmt: skip
    ignored = {"name": "x", "save_weights": True, "timeout_s": 9.0, "resources": {"time": "00:01:00"}}

    def run_id(run: dict[str, Any]) -> str:
        with TemporaryDirectory() as folder:
            return load(Path(folder), as_yaml(**run)).runs[0].run_id

    expected = run_id(fields)

    @given(st.permutations(list(fields)), st.sets(st.sampled_from(sorted(ignored))))
    @settings(max_examples=25, deadline=None)
    def check(order: list[str], more: set[str]) -> None:
        assert run_id({key: fields[key] for key in order} | {key: ignored[key] for key in more}) == expected

    check()
    changes: list[dict[str, Any]] = [
        {"batch_size": 9}, {"ranks": 4}, {"seed": 1}, {"cache": "memory"},
        {"optimizer": {"lr": 0.6, "momentum": 0.0}},
    ]  # fmt: skip
    assert expected not in {run_id({**fields, **change}) for change in changes}


def test_whole_number_for_a_number_is_the_same_run(tmp_path: Path) -> None:
    """`lr: 1` and `lr: 1.0` are one value."""
    one, other = (_only(tmp_path, as_yaml(strategy="single_gpu", optimizer={"lr": lr})) for lr in (1, 1.0))
    assert one.run_id == other.run_id


@pytest.mark.parametrize(
    ("options", "batch_size", "samples_per_step"),
    [
        ("{mode: sync}", 16, 32),
        ("{mode: async}", 32, 64),
        ("{mode: bounded, max_staleness: 1}", 32, 64),
    ],
)  # fmt: skip
def test_one_global_batch_is_one_update_whatever_the_server_does(
    tmp_path: Path, options: str, batch_size: int, samples_per_step: int
) -> None:
    """An asynchronous server updates by each worker's gradient alone, so the whole batch is each worker's."""
    run = _only(
        tmp_path,
        f"{HEAD}runs:\n  - {{strategy: ps, ranks: 2, global_batch: 32, strategy_options: {options}}}\n",
    )
    assert (run.global_batch, run.batch_size, run.samples_per_step) == (32, batch_size, samples_per_step)

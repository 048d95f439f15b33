"""Names of runs that a sweep does not name, or names by a pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config.files import HEAD, KINDS, ON_TWO_GPUS, as_yaml, load, names

NAMES: dict[str, tuple[dict[str, list[Any]], list[str]]] = {
    "grid of nothing": ({}, ["ddp"]),
    "batch": ({"batch_size": [64, 128]}, ["ddp_bs64x2", "ddp_bs128x2"]),
    "global batch": ({"global_batch": [64, 128]}, ["ddp_bs32x2", "ddp_bs64x2"]),
    "one value": ({"batch_size": [64], "seed": [0, 10]}, ["ddp_seed0", "ddp_seed10"]),
    "cache": ({"cache": ["none", "memory"]}, ["ddp_cacheFalse", "ddp_cacheTrue"]),
    "cache of three": ({"cache": ["none", "memory", "device"]}, ["ddp_none", "ddp_memory", "ddp_device"]),
    "precision": ({"precision": ["fp32", "amp_fp16"]}, ["ddp_ampFalse", "ddp_ampTrue"]),
    "three precisions": (
        {"precision": ["fp32", "tf32", "amp_bf16"]},
        ["ddp_fp32", "ddp_tf32", "ddp_amp_bf16"],
    ),
    "number": ({"optimizer.lr": [0.1, 1.0e-5]}, ["ddp_lr0.1", "ddp_lr1e-05"]),
    "truth": ({"optimizer.nesterov": [True, False]}, ["ddp_nesterovTrue", "ddp_nesterovFalse"]),
    "word": ({"schedule": ["cosine", "constant"]}, ["ddp_cosine", "ddp_constant"]),
    "map": (
        {"optimizer": [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.2, "momentum": 0.9}]},
        ["ddp_lr0.1", "ddp_lr0.2"],
    ),
    "strategy": ({"strategy": ["single_gpu", "ddp"]}, ["single_gpu", "ddp"]),
    "kinds": (
        {"strategy": ["single_gpu", "dp", "ddp", "ps"], "batch_size": [8, 16]},
        [
            "single_gpu_bs8", "single_gpu_bs16", "dp_bs8_ngpu2", "dp_bs16_ngpu2",
            "ddp_bs8x2", "ddp_bs16x2", "ps_bs8_workers2", "ps_bs16_workers2",
        ],
    ),
    "order": (
        {
            "precision": ["amp_fp16"], "seed": [1], "cache": ["memory", "none"], "batch_size": [128, 8],
            "backend": ["nccl", "gloo"],
        },
        [
            f"ddp_{backend}_bs{batch}x2_cache{cache}"
            for cache in (True, False) for batch in (128, 8) for backend in ("nccl", "gloo")
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_made_name_is_the_strategy_and_what_its_grid_varies(case: str, tmp_path: Path) -> None:
    """Names follow the pattern of the published studies."""
    grid, expected = NAMES[case]
    general = {"ranks": 2} if "strategy" in grid else {}
    run = {"strategy": "ddp", "grid": grid} if "strategy" not in grid else {"grid": grid}
    text = ON_TWO_GPUS + yaml.safe_dump({"defaults": general, "runs": [run]}, sort_keys=False)
    assert names(load(tmp_path, text, KINDS)) == expected


def test_option_names_a_run_by_its_bare_value(tmp_path: Path) -> None:
    """An enumerated option stands right after the strategy."""
    grid = {"batch_size": [8, 16], "strategy_options.exchange": ["per_parameter", "overlapped"]}
    sweep = load(tmp_path, as_yaml(strategy="collective", ranks=2, grid=grid))
    assert names(sweep) == [
        f"collective_{exchange}_bs{batch}x2"
        for batch in (8, 16)
        for exchange in ("per_parameter", "overlapped")
    ]


def test_made_names_that_meet_are_told_apart(tmp_path: Path) -> None:
    """Entries of one strategy get what differs between them; what is like in all stays out."""
    runs = [{"strategy": "ddp", "ranks": 2, "batch_size": size} for size in (8, 16)]
    text = HEAD + yaml.safe_dump({"runs": [*runs, {"strategy": "single_gpu"}]})
    assert names(load(tmp_path, text)) == ["ddp_bs8x2", "ddp_bs16x2", "single_gpu"]


def test_name_may_hold_fields(tmp_path: Path) -> None:
    """`{field}` is replaced by what the run has, also by what follows and what is dotted."""
    text = as_yaml(
        name="{strategy}-{global_batch}-{optimizer.lr}-{evaluate}", strategy="ddp", grid={"ranks": [1, 2]}
    )
    assert names(load(tmp_path, text)) == ["ddp-64-0.1-True", "ddp-128-0.1-True"]

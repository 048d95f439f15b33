"""The columns of the result tables, their types, and which of them can rank. Imports no pandas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcbench.runs.events import PHASES

TEXT, NUMBER, WHOLE, FLAG = "string", "Float64", "Int64", "boolean"  # pandas' nullable types

# The columns of ranking.csv, in this order (docs/report.md).
RANKING_COLUMNS = {
    "rank": WHOLE, "rank_high": WHOLE, "experiment": TEXT, "strategy": TEXT, "backend": TEXT, "model": TEXT,
    "dataset": TEXT, "class": TEXT, "batch_per_rank": WHOLE, "ranks": WHOLE, "devices": WHOLE, "nodes": WHOLE,
    "global_batch": WHOLE, "precision": TEXT, "cache": TEXT, "repeats": WHOLE, "throughput_samples_s": NUMBER,
    "throughput_ci_low": NUMBER, "throughput_ci_high": NUMBER, "throughput_per_device": NUMBER,
    "best_acc_pct": NUMBER, "final_acc_pct": NUMBER, "epoch_time_s": NUMBER, "total_time_s": NUMBER,
    "peak_mem_mb": NUMBER, "data_wait_pct": NUMBER, "exposed_comm_pct": NUMBER, "steps_per_epoch": WHOLE,
    "limit": TEXT, "findings": TEXT, "trusted": TEXT,
}  # fmt: skip


Row = dict[str, Any]

KEY_COLUMNS = {"experiment": TEXT, "repeat": WHOLE, "run_id": TEXT}

SPEC_COLUMNS = {
    "strategy": TEXT, "backend": TEXT, "model": TEXT, "dataset": TEXT, "class": TEXT, "recipe": TEXT,
    "batch_per_rank": WHOLE, "ranks": WHOLE, "devices": WHOLE, "nodes": WHOLE, "global_batch": WHOLE,
    "precision": TEXT, "cache": TEXT, "seed": WHOLE, "device": TEXT, "rankable": FLAG, "spec": TEXT,
}  # fmt: skip

FIGURE_COLUMNS = {
    "throughput_samples_s": NUMBER, "throughput_per_device": NUMBER, "best_acc_pct": NUMBER,
    "final_acc_pct": NUMBER, "epoch_time_s": NUMBER, "total_time_s": NUMBER, "peak_mem_mb": NUMBER,
    "data_wait_pct": NUMBER, "exposed_comm_pct": NUMBER, "steps_per_epoch": WHOLE, "warmup_steps": WHOLE,
    "counted_samples": WHOLE,
    "counted_steps": WHOLE, "counted_wall_s": NUMBER, "push_s": NUMBER, "pull_s": NUMBER,
    "step_p50_s": NUMBER, "step_p90_s": NUMBER, "step_p99_s": NUMBER, "slowest_rank_ratio": NUMBER,
    "joules_per_sample": NUMBER, "staleness": TEXT, **{f"{phase}_s": NUMBER for phase in PHASES},
}  # fmt: skip

# What the time of the slowest rank's process went into, from its start to its end.
LIFETIME_PARTS = ("startup", "train", "evaluation", "check", "checkpoint", "other")

RUN_COLUMNS = {
    **KEY_COLUMNS, "sweep": TEXT, "block": TEXT, "folder": TEXT, "state": TEXT, "reason": TEXT, "limit": TEXT,
    "attempts": WHOLE, "torn_lines": WHOLE, "emulated": FLAG, **SPEC_COLUMNS, **FIGURE_COLUMNS,
    **{f"life_{part}_s": NUMBER for part in LIFETIME_PARTS}, "environment": TEXT,
}  # fmt: skip

EPOCH_COLUMNS = {
    **KEY_COLUMNS, "epoch": WHOLE, "steps": WHOLE, "samples": WHOLE, "throughput_samples_s": NUMBER,
    "train_loss": NUMBER, "first_loss": NUMBER, "last_loss": NUMBER, "train_acc_pct": NUMBER,
    "evaluation_loss": NUMBER, "acc_pct": NUMBER,
    "train_s": NUMBER, "evaluation_s": NUMBER, "epoch_time_s": NUMBER, "peak_mem_mb": NUMBER,
}  # fmt: skip

STEP_COLUMNS = {**KEY_COLUMNS, "epoch": WHOLE, "step": WHOLE, "loss": NUMBER, "acc_pct": NUMBER}


@dataclass(frozen=True)
class RankingMeasure:
    """A column that can rank; logarithms where strategies differ by factors rather than by points."""

    higher_is_better: bool
    logarithmic: bool


CONSTANT_COLUMNS = (
    "strategy", "backend", "model", "dataset", "class", "batch_per_rank", "ranks", "devices", "nodes",
    "global_batch", "precision", "cache",
)  # fmt: skip
AVERAGED_COLUMNS = (
    "throughput_per_device", "best_acc_pct", "final_acc_pct", "epoch_time_s", "total_time_s", "data_wait_pct",
    "exposed_comm_pct",
)  # fmt: skip

SUMMARY_INPUT_COLUMNS = (
    "experiment", "state", "rankable", "limit", "steps_per_epoch", "peak_mem_mb", "throughput_samples_s",
    *CONSTANT_COLUMNS, *AVERAGED_COLUMNS,
)  # fmt: skip

RANKING_MEASURES = {
    "throughput_samples_s": RankingMeasure(True, True),
    "throughput_per_device": RankingMeasure(True, True),
    "best_acc_pct": RankingMeasure(True, False),
    "final_acc_pct": RankingMeasure(True, False),
    "epoch_time_s": RankingMeasure(False, True),
    "total_time_s": RankingMeasure(False, True),
    "peak_mem_mb": RankingMeasure(False, True),
    "data_wait_pct": RankingMeasure(False, False),
    "exposed_comm_pct": RankingMeasure(False, False),
}


ReportRow = dict[str, Any]

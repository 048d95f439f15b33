"""Kinds of columns, and the columns of `ranking.csv`. Needs no pandas: a table is to be printed soon."""

from __future__ import annotations

TEXT, NUMBER, WHOLE, FLAG = "string", "Float64", "Int64", "boolean"  # pandas' nullable types

# DESIGN section 4: exactly these columns, in this order.
RANKING = {
    "rank": WHOLE, "rank_high": WHOLE, "experiment": TEXT, "strategy": TEXT, "backend": TEXT, "model": TEXT,
    "dataset": TEXT, "class": TEXT, "batch_per_rank": WHOLE, "ranks": WHOLE, "devices": WHOLE, "nodes": WHOLE,
    "global_batch": WHOLE, "precision": TEXT, "cache": TEXT, "repeats": WHOLE, "throughput_samples_s": NUMBER,
    "throughput_ci_low": NUMBER, "throughput_ci_high": NUMBER, "throughput_per_device": NUMBER,
    "best_acc_pct": NUMBER, "final_acc_pct": NUMBER, "epoch_time_s": NUMBER, "total_time_s": NUMBER,
    "peak_mem_mb": NUMBER, "data_wait_pct": NUMBER, "exposed_comm_pct": NUMBER, "steps_per_epoch": WHOLE,
    "limit": TEXT, "findings": TEXT, "trusted": TEXT,
}  # fmt: skip

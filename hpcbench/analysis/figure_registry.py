"""The registry of the figures that reports show, and the columns of all result tables. Imports no pandas.

A new figure needs the code that computes it, one entry in `FIGURES` and its title in each language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hpcbench.runs.events import PHASES

TEXT, NUMBER, WHOLE, FLAG = "string", "Float64", "Int64", "boolean"  # pandas' nullable types
# The parts of the lifetime of the slowest rank's process, from its start to its end.
LIFETIME_PARTS = ("startup", "train", "evaluation", "check", "checkpoint", "other")

Row = dict[str, Any]
ReportRow = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One column of the ranking and everything that tables, charts and the documentation need of it.

    `digits`: "sig3" for three significant digits, "fix1" and "fix2" for decimals, "text" for the value as
    it is, or one of the special cells. `over` tells how repeats become one row; None: computed for the row.
    A narrow table omits the columns of the highest `priority` first; None: only the page has the column.
    """

    key: str  # of the column, and of its title in each language
    kind: str = NUMBER
    digits: Literal["sig3", "fix1", "fix2", "text", "rank", "throughput", "findings"] = "text"
    better: Literal["high", "low"] | None = None  # None: cannot rank
    scale: Literal["ratio", "points"] = "ratio"  # of differences; ratios are compared as logarithms
    over: Literal["mean", "max", "constant"] | None = None
    priority: int | None = None
    page: Literal["always", "shown", "extra"] | None = "extra"  # "extra": on demand; None: not on the page
    left: bool = False  # aligned to the left
    unit: str = ""  # of a value in a sentence; {unit} is what a sample is called
    compared: bool = False  # by `hpcbench compare`
    statistics: bool = False  # further column of `statistics.csv`
    by_epoch: bool = False  # has a panel and a chart over epochs
    zero_based: bool = False  # the axis begins at 0
    meaning: str = ""  # for docs/report.md; neighbours of one meaning share a line there

    @property
    def higher_is_better(self) -> bool:
        """Whether the largest value ranks first."""
        return self.better == "high"

    @property
    def logarithmic(self) -> bool:
        """Whether differences are ratios: strategies differ by factors rather than by points."""
        return self.scale == "ratio"


_RANK = "the places that the run may have in its class, see below; empty: not ranked"
_SWEEP = "as in the sweep file"
_BATCH = "samples of one step on one training rank, and of one update"
_PROCESSES = "training processes, nodes"
_INTERVAL = (
    "its 95 % confidence interval; empty for one repeat. Two noisy repeats can have one that reaches below 0"
)
_ACCURACY = (
    "highest and last validation accuracy: correct predictions, summed over ranks, divided by the samples, "
    "summed over ranks"
)
_PERCENTILES = "median, 90th and 99th percentile of the step time over the steps of all ranks together"

# In the order of the columns in Markdown, on a terminal and on the page.
FIGURES: dict[str, Figure] = {
    figure.key: figure
    for figure in (
        Figure(key="rank", kind=WHOLE, digits="rank", priority=0, page="always", meaning=_RANK),
        Figure(key="rank_high", kind=WHOLE, page=None, meaning=_RANK),  # part of the cell of `rank`
        Figure(key="experiment", kind=TEXT, priority=0, page="always", left=True, meaning="the run's name"),
        Figure(key="class", kind=TEXT, over="constant", page="shown", left=True,
               meaning="the class, see above"),
        Figure(key="train_loss", page=None, by_epoch=True),
        Figure(key="acc_pct", page=None, by_epoch=True),
        Figure(key="throughput_samples_s", digits="throughput", better="high", over="mean", priority=0,
               page="always", unit="{unit}/s", compared=True, by_epoch=True, zero_based=True,
               meaning="samples consumed, summed over windows and training ranks, divided by the sum over "
               "windows of the slowest rank's wall time ([M1](methodology.md#m1), [M2](methodology.md#m2))"),
        Figure(key="throughput_ci_low", page=None, meaning=_INTERVAL),  # part of the cell of throughput
        Figure(key="throughput_ci_high", page=None, meaning=_INTERVAL),
        Figure(key="repeats", kind=WHOLE, priority=2, page="always",
               meaning="finished repeats, the n of every mean"),
        Figure(key="throughput_per_device", digits="sig3", better="high", over="mean", priority=7,
               unit="{unit}/s per device",
               meaning="throughput divided by `devices`"),
        Figure(key="speed_up", digits="sig3", page="shown", statistics=True,
               meaning="throughput over that of one device, see below"),
        Figure(key="efficiency_pct", digits="fix1", unit="%", statistics=True,
               meaning="speed-up over devices"),
        Figure(key="scaling", kind=TEXT, left=True, statistics=True,
               meaning="`strong` or `weak`: the kind of reference of the speed-up"),
        Figure(key="best_acc_pct", digits="fix2", better="high", scale="points", over="mean", priority=3,
               page="shown", unit="%", meaning=_ACCURACY),
        Figure(key="final_acc_pct", digits="fix2", better="high", scale="points", over="mean", priority=9,
               unit="%", compared=True, meaning=_ACCURACY),
        Figure(key="epoch_time_s", digits="sig3", better="low", over="mean", priority=4, page="shown",
               unit="s",
               meaning="training and evaluation of an epoch on the slowest rank, mean over epochs, warm-up "
               "included, checks and checkpoints excluded"),
        Figure(key="total_time_s", digits="sig3", better="low", over="mean", priority=8, unit="s",
               meaning="process start to the end of the slowest rank; after a resume also the time of the "
               "earlier attempts whose steps count, without the time in between"),
        Figure(key="time_to_acc_s", digits="sig3", page="shown", unit="s", statistics=True,
               meaning="training and evaluation until the target accuracy, see below"),
        Figure(key="cost_per_epoch", digits="sig3", page="shown", statistics=True,
               meaning="with `--cost-per-gpu-hour`, see below"),
        Figure(key="peak_mem_mb", digits="sig3", better="low", over="max", priority=5, page="shown",
               unit="MB", compared=True, by_epoch=True, zero_based=True,
               meaning="largest peak of any rank in any repeat, 1 MB = 10^6 bytes: device memory, or "
               "resident set on a CPU"),
        Figure(key="data_wait_pct", digits="fix1", better="low", scale="points", over="mean", priority=6,
               page="shown", unit="%",
               meaning="share of waiting for data in the counted time, mean over ranks "
               "([M5](methodology.md#m5))"),
        Figure(key="exposed_comm_pct", digits="fix1", better="low", scale="points", over="mean", priority=10,
               page="shown", unit="%",
               meaning="share of a step that is exposed exchange: by ablation where the run did one "
               "(`measure_exchange: true`), else the share of the exchange in the counted time where all "
               "communication stands after the backward pass, else empty"),
        Figure(key="predicted_samples_s", digits="sig3", unit="{unit}/s",
               meaning="predicted throughput ([Ceilings](ceilings.md))"),
        Figure(key="of_predicted_pct", digits="fix1", priority=14, page="shown", unit="%",
               meaning="measured over predicted throughput"),
        Figure(key="mfu_pct", digits="fix1", priority=15, page="shown", unit="%",
               meaning="model FLOPs utilisation ([Ceilings](ceilings.md))"),
        Figure(key="step_p50_s", digits="sig3", over="mean", unit="s", meaning=_PERCENTILES),
        Figure(key="step_p90_s", digits="sig3", over="mean", unit="s", meaning=_PERCENTILES),
        Figure(key="step_p99_s", digits="sig3", over="mean", unit="s", meaning=_PERCENTILES),
        Figure(key="slowest_rank_ratio", digits="sig3", over="mean",
               meaning="data wait and forward+backward of the slowest over the median rank "
               "([M10](methodology.md#m10))"),
        Figure(key="joules_per_sample", digits="sig3", over="mean", unit="J/{unit}",
               meaning="power of all devices, mean over telemetry readings in which one was at work, over "
               "throughput"),
        Figure(key="ranks", kind=WHOLE, over="constant", priority=11, meaning=_PROCESSES),
        Figure(key="batch_per_rank", kind=WHOLE, over="constant", priority=12, meaning=_BATCH),
        Figure(key="limit", kind=TEXT, priority=1, page="shown", left=True,
               meaning="where no repeat finished, the reason: `memory`, or its state (`failed`, "
               "`interrupted`, `unfinished`, `not started`, `unreadable`). Of a finished run what limits "
               "its speed, where the node's [ceilings](ceilings.md) are known: `compute`, `input`, `link`, "
               "`latency`, `evaluation`"),
        Figure(key="findings", kind=TEXT, digits="findings", priority=1, page="shown", left=True,
               meaning="codes of what the [audit](audit.md) found about this row, worst first; "
               "`findings.csv` has the sentences"),
        Figure(key="trusted", kind=TEXT, priority=13, page="always", left=True,
               meaning="`no` with an error of run scope: the row keeps its number and is not ranked (✗); "
               "`yes` without; `unaudited` where no repeat has finished"),
        Figure(key="strategy", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="backend", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="model", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="dataset", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="devices", kind=WHOLE, over="constant",
               meaning="devices of the whole run: ranks x devices per rank, and one for each server on a "
               "GPU"),
        Figure(key="nodes", kind=WHOLE, over="constant", meaning=_PROCESSES),
        Figure(key="global_batch", kind=WHOLE, over="constant", meaning=_BATCH),
        Figure(key="precision", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="cache", kind=TEXT, over="constant", left=True, meaning=_SWEEP),
        Figure(key="steps_per_epoch", kind=WHOLE, over="max", meaning="updates in an epoch"),
        Figure(key="folder", kind=TEXT, page="shown", left=True,
               meaning="which results the row is from, where several are merged"),
    )
}  # fmt: skip

# `ranking.csv` has exactly these columns, in this order (docs/report.md). The order is a contract.
RANKING_CSV = (
    "rank", "rank_high", "experiment", "strategy", "backend", "model", "dataset", "class", "batch_per_rank",
    "ranks", "devices", "nodes", "global_batch", "precision", "cache", "repeats", "throughput_samples_s",
    "throughput_ci_low", "throughput_ci_high", "throughput_per_device", "best_acc_pct", "final_acc_pct",
    "epoch_time_s", "total_time_s", "peak_mem_mb", "data_wait_pct", "exposed_comm_pct", "steps_per_epoch",
    "limit", "findings", "trusted",
)  # fmt: skip
RANKING_COLUMNS = {key: FIGURES[key].kind for key in RANKING_CSV}


def figures_over(*ways: str) -> list[Figure]:
    """Return the figures whose repeats become one row in one of these ways."""
    return [figure for figure in FIGURES.values() if figure.over in ways]


def ranking_measures() -> dict[str, Figure]:
    """Return the figures that can rank, in the order of `ranking.csv`."""
    return {key: FIGURES[key] for key in RANKING_CSV if FIGURES[key].better is not None}


KEY_COLUMNS = {"experiment": TEXT, "repeat": WHOLE, "run_id": TEXT}

SPEC_COLUMNS = {
    "strategy": TEXT, "backend": TEXT, "model": TEXT, "dataset": TEXT, "class": TEXT, "recipe": TEXT,
    "batch_per_rank": WHOLE, "ranks": WHOLE, "devices": WHOLE, "nodes": WHOLE, "global_batch": WHOLE,
    "precision": TEXT, "cache": TEXT, "seed": WHOLE, "device": TEXT, "rankable": FLAG, "spec": TEXT,
}  # fmt: skip

_OF_REPEATS = {figure.key: figure.kind for figure in figures_over("mean", "max")}
RUN_COLUMNS = {
    **KEY_COLUMNS, "sweep": TEXT, "block": TEXT, "folder": TEXT, "state": TEXT, "reason": TEXT, "limit": TEXT,
    "attempts": WHOLE, "torn_lines": WHOLE, "emulated": FLAG, **SPEC_COLUMNS,
    **{key: kind for key, kind in _OF_REPEATS.items() if key in RANKING_CSV},
    "warmup_steps": WHOLE, "counted_samples": WHOLE, "counted_steps": WHOLE, "counted_wall_s": NUMBER,
    "push_s": NUMBER, "pull_s": NUMBER, **_OF_REPEATS,
    "staleness": TEXT, **{f"{phase}_s": NUMBER for phase in PHASES},
    **{f"life_{part}_s": NUMBER for part in LIFETIME_PARTS}, "environment": TEXT,
}  # fmt: skip

EPOCH_COLUMNS = {
    **KEY_COLUMNS, "epoch": WHOLE, "steps": WHOLE, "samples": WHOLE, "throughput_samples_s": NUMBER,
    "train_loss": NUMBER, "first_loss": NUMBER, "last_loss": NUMBER, "train_acc_pct": NUMBER,
    "evaluation_loss": NUMBER, "acc_pct": NUMBER,
    "train_s": NUMBER, "evaluation_s": NUMBER, "epoch_time_s": NUMBER, "peak_mem_mb": NUMBER,
}  # fmt: skip

STEP_COLUMNS = {**KEY_COLUMNS, "epoch": WHOLE, "step": WHOLE, "loss": NUMBER, "acc_pct": NUMBER}

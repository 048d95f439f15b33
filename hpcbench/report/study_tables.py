"""The measured rows in the formats of the two published studies, with the published figures beside rows of
the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.reference import CIFAR100, IMAGENET, published_rows, run_name_key
from hpcbench.report.table_cells import EMPTY_CELL, format_number, sample_unit
from hpcbench.report.words import Words


@dataclass(frozen=True)
class ReportTable:
    """A table for people: titles of its columns, and its rows as texts; the first column is text."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class _StudyColumn:
    """A measured column, and the one of a study's table that stands beside it."""

    head: str
    cell: Callable[[ReportRow], str]
    column: str | None = None


def study_tables(rows: Sequence[ReportRow], loaded: LoadedResults, words: Words) -> list[ReportTable]:
    """Return study 2's table, study 1's table and its table of losses, of all rows that have finished."""
    done = [row for row in rows if row["throughput_samples_s"] is not None]
    if not done:
        return []
    # One list over everything, as the studies have it; our own ranks hold inside a class only.
    done.sort(key=lambda row: -row["throughput_samples_s"])
    said, unit = words.tables, sample_unit(done)
    first = _first_epoch(loaded)
    last = _last_epoch(loaded)
    tables = [
        _table(f"{said['study2']}", done, _cifar_study_columns(unit, said), CIFAR100, said),
        _table(f"{said['study1']}", done, _imagenet_study_columns(unit, said, first, last), IMAGENET, said),
    ]
    if any(row["experiment"] in first.index for row in done):
        tables.append(_table(f"{said['study1_loss']}", done, _loss_columns(said, first), IMAGENET, said))
    return tables


def _table(
    title: str, rows: Sequence[ReportRow], columns: Sequence[_StudyColumn], file: str, said: dict[str, str]
) -> ReportTable:
    known = published_rows(file)
    matched = [known.get(run_name_key(row["experiment"])) for row in rows]
    beside = [column for column in columns if column.column and any(matched)]
    heads = (
        said["experiment"], *(column.head for column in columns),
        *(f"{column.head} ({said['published']})" for column in beside),
    )  # fmt: skip
    body = [
        (
            row["experiment"], *(column.cell(row) for column in columns),
            *(EMPTY_CELL if match is None else match[str(column.column)] for column in beside),
        )
        for row, match in zip(rows, matched, strict=True)
    ]  # fmt: skip
    return ReportTable(title, heads, body)


def _fixed_text(column: str, decimals: int) -> Callable[[ReportRow], str]:
    return lambda row: EMPTY_CELL if row[column] is None else f"{row[column]:.{decimals}f}"


def _looked_up_text(frame: pd.DataFrame, column: str, decimals: int) -> Callable[[ReportRow], str]:
    known = frame[column].dropna().to_dict()

    def cell(row: ReportRow) -> str:
        value = known.get(row["experiment"])
        return EMPTY_CELL if value is None else f"{float(value):.{decimals}f}"

    return cell


def _cifar_study_columns(unit: str, said: dict[str, str]) -> list[_StudyColumn]:
    """Return the columns of study 2 beside the name; its batch is the global one, except for its servers."""
    return [
        _StudyColumn(said["model"], lambda row: str(row["model"])),
        _StudyColumn(said["batch"], lambda row: str(row["global_batch"]), "batch_size"),
        _StudyColumn(said["best_acc"], _fixed_text("best_acc_pct", 2), "best_acc_pct"),
        _StudyColumn(said["throughput"].format(unit=unit),
                     lambda row: format_number(row["throughput_samples_s"]),
                "avg_throughput_img_s"),
        _StudyColumn(said["memory"], _fixed_text("peak_mem_mb", 0), "max_gpu_mem_mb"),
        _StudyColumn(said["total"], _fixed_text("total_time_s", 1), "total_time_s"),
    ]  # fmt: skip


def _imagenet_study_columns(
    unit: str, said: dict[str, str], first: pd.DataFrame, last: pd.DataFrame
) -> list[_StudyColumn]:
    return [
        _StudyColumn(said["throughput"].format(unit=unit),
                     lambda row: format_number(row["throughput_samples_s"]),
                "throughput_img_s"),
        _StudyColumn(said["epoch"], _fixed_text("epoch_time_s", 2), "epoch_time_s"),
        _StudyColumn(said["first_acc"], _looked_up_text(first, "train_acc_pct", 2), "epoch1_train_acc_pct"),
        _StudyColumn(said["last_acc"], _looked_up_text(last, "train_acc_pct", 2), "epoch3_train_acc_pct"),
        _StudyColumn(said["val_acc"], _fixed_text("final_acc_pct", 2), "val_acc_pct"),
    ]  # fmt: skip


def _loss_columns(said: dict[str, str], first: pd.DataFrame) -> list[_StudyColumn]:
    return [
        _StudyColumn(said["first_step"], _looked_up_text(first, "first_loss", 3), "epoch1_loss_first"),
        _StudyColumn(said["last_step"], _looked_up_text(first, "last_loss", 3), "epoch1_loss_last"),
    ]


def _first_epoch(loaded: LoadedResults) -> pd.DataFrame:
    """Return training accuracy, first and last loss of the first epoch, means over finished repeats."""
    finished = loaded.runs.loc[loaded.runs["state"] == RecordedState.FINISHED.value, "run_id"]
    epochs = loaded.epochs[loaded.epochs["run_id"].isin(finished) & (loaded.epochs["epoch"] == 1)]
    return epochs.groupby("experiment")[["train_acc_pct", "first_loss", "last_loss"]].mean()


def _last_epoch(loaded: LoadedResults) -> pd.DataFrame:
    finished = loaded.runs.loc[loaded.runs["state"] == RecordedState.FINISHED.value, "run_id"]
    epochs = loaded.epochs[loaded.epochs["run_id"].isin(finished)].sort_values("epoch", kind="stable")
    return epochs.groupby(["experiment", "run_id"])[["train_acc_pct"]].last().groupby("experiment").mean()

"""The measured rows in the formats of the two studies, with what they published beside their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.reference import CIFAR100, IMAGENET, published_rows, run_name_key
from hpcbench.report.cells import NOTHING, Row, number, unit_of
from hpcbench.report.words import Words


@dataclass(frozen=True)
class StudyTable:
    """A table for people: titles of its columns, and its rows as texts; the first column is text."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class _Column:
    """A measured column, and the one of a study's table that stands beside it."""

    head: str
    cell: Callable[[Row], str]
    column: str | None = None


def study_tables(rows: Sequence[Row], loaded: LoadedResults, words: Words) -> list[StudyTable]:
    """Return study 2's table, study 1's table and its table of losses, of all rows that have finished."""
    done = [row for row in rows if row["throughput_samples_s"] is not None]
    if not done:
        return []
    # One list over everything, as the studies have it; our own ranks hold inside a class only.
    done.sort(key=lambda row: -row["throughput_samples_s"])
    said, unit = words.tables, unit_of(done)
    first = _first_epoch(loaded)
    last = _last_epoch(loaded)
    tables = [
        _table(f"{said['study2']}", done, _study2(unit, said), CIFAR100, said),
        _table(f"{said['study1']}", done, _study1(unit, said, first, last), IMAGENET, said),
    ]
    if any(row["experiment"] in first.index for row in done):
        tables.append(_table(f"{said['study1_loss']}", done, _losses(said, first), IMAGENET, said))
    return tables


def _table(
    title: str, rows: Sequence[Row], columns: Sequence[_Column], file: str, said: dict[str, str]
) -> StudyTable:
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
            *(NOTHING if match is None else match[str(column.column)] for column in beside),
        )
        for row, match in zip(rows, matched, strict=True)
    ]  # fmt: skip
    return StudyTable(title, heads, body)


def _fixed(column: str, decimals: int) -> Callable[[Row], str]:
    return lambda row: NOTHING if row[column] is None else f"{row[column]:.{decimals}f}"


def _looked_up(frame: pd.DataFrame, column: str, decimals: int) -> Callable[[Row], str]:
    known = frame[column].dropna().to_dict()

    def cell(row: Row) -> str:
        value = known.get(row["experiment"])
        return NOTHING if value is None else f"{float(value):.{decimals}f}"

    return cell


def _study2(unit: str, said: dict[str, str]) -> list[_Column]:
    """Return the columns of study 2 beside the name; its batch is the global one, except for its servers."""
    return [
        _Column(said["model"], lambda row: str(row["model"])),
        _Column(said["batch"], lambda row: str(row["global_batch"]), "batch_size"),
        _Column(said["best_acc"], _fixed("best_acc_pct", 2), "best_acc_pct"),
        _Column(said["throughput"].format(unit=unit), lambda row: number(row["throughput_samples_s"]),
                "avg_throughput_img_s"),
        _Column(said["memory"], _fixed("peak_mem_mb", 0), "max_gpu_mem_mb"),
        _Column(said["total"], _fixed("total_time_s", 1), "total_time_s"),
    ]  # fmt: skip


def _study1(unit: str, said: dict[str, str], first: pd.DataFrame, last: pd.DataFrame) -> list[_Column]:
    return [
        _Column(said["throughput"].format(unit=unit), lambda row: number(row["throughput_samples_s"]),
                "throughput_img_s"),
        _Column(said["epoch"], _fixed("epoch_time_s", 2), "epoch_time_s"),
        _Column(said["first_acc"], _looked_up(first, "train_acc_pct", 2), "epoch1_train_acc_pct"),
        _Column(said["last_acc"], _looked_up(last, "train_acc_pct", 2), "epoch3_train_acc_pct"),
        _Column(said["val_acc"], _fixed("final_acc_pct", 2), "val_acc_pct"),
    ]  # fmt: skip


def _losses(said: dict[str, str], first: pd.DataFrame) -> list[_Column]:
    return [
        _Column(said["first_step"], _looked_up(first, "first_loss", 3), "epoch1_loss_first"),
        _Column(said["last_step"], _looked_up(first, "last_loss", 3), "epoch1_loss_last"),
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

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
from hpcbench.report.translations import N_, Language

PUBLISHED_NOTE = N_(
    "Figures of rows that bear a name of a study stand beside what that study published; other hardware, "
    "and recipes that the study did not state, so they are no target."
)


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


def study_tables(rows: Sequence[ReportRow], loaded: LoadedResults, language: Language) -> list[ReportTable]:
    """Return study 2's table, study 1's table and its table of losses, of all rows that have finished."""
    done = [row for row in rows if row["throughput_samples_s"] is not None]
    if not done:
        return []
    # One list over everything, as the studies have it; our own ranks hold inside a class only.
    done.sort(key=lambda row: -row["throughput_samples_s"])
    unit = sample_unit(done)
    first = _first_epoch(loaded)
    last = _last_epoch(loaded)
    tables = [
        _table(
            language.text("In the format of the CIFAR-100 study"),
            done,
            _cifar_study_columns(unit, language),
            CIFAR100,
            language,
        ),
        _table(
            language.text("In the format of the ImageNet study"),
            done,
            _imagenet_study_columns(unit, language, first, last),
            IMAGENET,
            language,
        ),
    ]
    if any(row["experiment"] in first.index for row in done):
        tables.append(
            _table(
                language.text("Training loss of the first epoch"),
                done,
                _loss_columns(language, first),
                IMAGENET,
                language,
            )
        )
    return tables


def _table(
    title: str, rows: Sequence[ReportRow], columns: Sequence[_StudyColumn], file: str, language: Language
) -> ReportTable:
    known = published_rows(file)
    matched = [known.get(run_name_key(row["experiment"])) for row in rows]
    beside = [column for column in columns if column.column and any(matched)]
    heads = (
        language.text("Experiment"), *(column.head for column in columns),
        *(f"{column.head} ({language.text('published')})" for column in beside),
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


def _cifar_study_columns(unit: str, language: Language) -> list[_StudyColumn]:
    """Return the columns of study 2 beside the name; its batch is the global one, except for its servers."""
    return [
        _StudyColumn(language.text("Model"), lambda row: str(row["model"])),
        _StudyColumn(language.text("Batch Size"), lambda row: str(row["global_batch"]), "batch_size"),
        _StudyColumn(language.text("Best Acc (%)"), _fixed_text("best_acc_pct", 2), "best_acc_pct"),
        _StudyColumn(language.text("Avg Throughput ({unit}/s)", unit=unit),
                     lambda row: format_number(row["throughput_samples_s"]),
                "avg_throughput_img_s"),
        _StudyColumn(language.text("Max GPU Mem (MB)"), _fixed_text("peak_mem_mb", 0), "max_gpu_mem_mb"),
        _StudyColumn(language.text("Total Time (s)"), _fixed_text("total_time_s", 1), "total_time_s"),
    ]  # fmt: skip


def _imagenet_study_columns(
    unit: str, language: Language, first: pd.DataFrame, last: pd.DataFrame
) -> list[_StudyColumn]:
    return [
        _StudyColumn(language.text("Avg Throughput ({unit}/s)", unit=unit),
                     lambda row: format_number(row["throughput_samples_s"]),
                "throughput_img_s"),
        _StudyColumn(language.text("s/epoch"), _fixed_text("epoch_time_s", 2), "epoch_time_s"),
        _StudyColumn(language.text("epoch 1 acc (%)"),
                     _looked_up_text(first, "train_acc_pct", 2), "epoch1_train_acc_pct"),
        _StudyColumn(language.text("last epoch acc (%)"),
                     _looked_up_text(last, "train_acc_pct", 2), "epoch3_train_acc_pct"),
        _StudyColumn(language.text("val acc (%)"), _fixed_text("final_acc_pct", 2), "val_acc_pct"),
    ]  # fmt: skip


def _loss_columns(language: Language, first: pd.DataFrame) -> list[_StudyColumn]:
    return [
        _StudyColumn(
            language.text("first step"), _looked_up_text(first, "first_loss", 3), "epoch1_loss_first"
        ),
        _StudyColumn(language.text("last step"), _looked_up_text(first, "last_loss", 3), "epoch1_loss_last"),
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

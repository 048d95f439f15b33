"""The ranked table of the page: every column of `ranking.csv`, the most important ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcbench.analysis.derived_columns import RUN_MEAN_COLUMNS
from hpcbench.analysis.result_columns import ReportRow
from hpcbench.report import table_cells
from hpcbench.report.table_cells import COLUMN_TITLES, EMPTY_CELL, sample_unit
from hpcbench.report.translations import Language


@dataclass(frozen=True, kw_only=True)
class PageColumn:
    """A column of the page; `extra` ones are shown on demand."""

    key: str
    text: Callable[[ReportRow], str]
    numeric: bool = True
    extra: bool = False


def _fixed(key: str, decimals: int, *, extra: bool = False) -> PageColumn:
    return PageColumn(key=key, text=table_cells.fixed_cell(key, decimals), extra=extra)


def _number(key: str, *, extra: bool = False) -> PageColumn:
    return PageColumn(key=key, text=table_cells.significant_cell(key), extra=extra)


def _text(key: str, *, numeric: bool = False, extra: bool = True) -> PageColumn:
    return PageColumn(key=key, text=table_cells.text_cell(key), numeric=numeric, extra=extra)


CLASS_COLUMN = _text("class", extra=False)
PAGE_COLUMNS = (
    PageColumn(key="rank", text=table_cells.rank_cell),
    _text("experiment", extra=False),
    PageColumn(key="throughput_samples_s", text=table_cells.throughput_cell),
    _text("repeats", numeric=True, extra=False),
    _number("speed_up"),
    _fixed("efficiency_pct", 1, extra=True),
    _text("scaling"),
    _fixed("best_acc_pct", 2),
    _number("epoch_time_s"),
    _number("time_to_acc_s"),
    _number("cost_per_epoch"),
    _number("peak_mem_mb"),
    _fixed("data_wait_pct", 1),
    _fixed("exposed_comm_pct", 1),
    _text("limit", extra=False),
    _fixed("of_predicted_pct", 1),
    _fixed("mfu_pct", 1),
    _number("predicted_samples_s", extra=True),
    _text("findings", extra=False),
    _text("trusted", extra=False),
    _number("throughput_per_device", extra=True),
    _fixed("final_acc_pct", 2, extra=True),
    _number("total_time_s", extra=True),
    *(_number(key, extra=True) for key in RUN_MEAN_COLUMNS),
    _text("strategy"),
    _text("backend"),
    _text("model"),
    _text("dataset"),
    _text("ranks", numeric=True),
    _text("devices", numeric=True),
    _text("nodes", numeric=True),
    _text("batch_per_rank", numeric=True),
    _text("global_batch", numeric=True),
    _text("precision"),
    _text("cache"),
    _text("steps_per_epoch", numeric=True),
    _text("folder", extra=False),
)
ALWAYS_SHOWN = ("rank", "experiment", "throughput_samples_s", "repeats", "trusted")


def used_page_columns(rows: list[ReportRow], *, several_classes: bool) -> list[PageColumn]:
    """Return the columns in which any row has something to say; the class early where there are several."""
    return [
        column
        for column in (
            (*PAGE_COLUMNS[:2], CLASS_COLUMN, *PAGE_COLUMNS[2:]) if several_classes else PAGE_COLUMNS
        )
        if column.key in ALWAYS_SHOWN or any(row.get(column.key) not in (None, "") for row in rows)
    ]


def page_table_heads(
    columns: list[PageColumn], rows: list[ReportRow], language: Language
) -> list[dict[str, Any]]:
    """Return what the template needs of each column."""
    unit = sample_unit(rows)
    return [
        {
            "key": column.key,
            "title": language.text(COLUMN_TITLES[column.key], unit=unit),
            "numeric": column.numeric,
            "css": _css_classes(column) + (" name" if column.key == "experiment" else ""),
        }
        for column in columns
    ]


def page_table_rows(
    columns: list[PageColumn], rows: list[ReportRow], anchors: Mapping[str, str], rules: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what the template needs of each row; `anchors` are of experiments, `rules` of findings."""
    return [
        {
            "anchor": f"row-{anchors[row['experiment']]}",
            "details": f"run-{anchors[row['experiment']]}",
            "trusted": row["trusted"],
            "css": _row_css_class(row),
            "cells": [_cell(column, row, rules) for column in columns],
        }
        for row in rows
    ]


def _css_classes(column: PageColumn) -> str:
    marks = (("num", column.numeric), ("extra", column.extra), ("label", column.key == "class"))
    return " ".join(name for name, is_so in marks if is_so)


def _row_css_class(row: ReportRow) -> str:
    if row["trusted"] == "no":
        return "untrusted"
    return "first" if row["rank"] == 1 == row["rank_high"] else ""


def _cell(column: PageColumn, row: ReportRow, rules: Mapping[str, str]) -> dict[str, Any]:
    if column.key == "experiment":
        return {"kind": "name", "text": row["experiment"]}
    value = row.get(column.key)
    if column.key == "findings":
        links = [{"name": code, "anchor": rules.get(code, "findings")} for code in str(value or "").split()]
        return {"kind": "codes", "links": links}
    text = column.text({**row, column.key: value})
    flag = " untrusted-flag" if column.key == "trusted" and value == "no" else ""
    plain = "" if value is None else value
    return {
        "kind": "text",
        "css": _css_classes(column) + flag,
        "text": "" if text == EMPTY_CELL else text,
        "value": plain if str(plain) != text and text != EMPTY_CELL else None,
    }

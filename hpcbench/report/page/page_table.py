"""The ranked table of the page: every figure of the registry that any row has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcbench.analysis.figure_registry import FIGURES, Figure, ReportRow
from hpcbench.report.table_cells import EMPTY_CELL, cell_text, figure_title, sample_unit
from hpcbench.report.translations import Language


def used_page_columns(rows: list[ReportRow], *, several_classes: bool) -> list[Figure]:
    """Return the figures that any row has; the class only where there are several."""
    return [
        figure
        for figure in FIGURES.values()
        if figure.page is not None
        and (several_classes or figure.key != "class")
        and (figure.page == "always" or any(row.get(figure.key) not in (None, "") for row in rows))
    ]


def page_table_heads(
    columns: list[Figure], rows: list[ReportRow], language: Language
) -> list[dict[str, Any]]:
    """Return what the template needs of each column."""
    unit = sample_unit(rows)
    return [
        {
            "key": column.key,
            "title": figure_title(column, language, unit),
            "numeric": not column.left,
            "css": _css_classes(column) + (" name" if column.key == "experiment" else ""),
        }
        for column in columns
    ]


def page_table_rows(
    columns: list[Figure], rows: list[ReportRow], anchors: Mapping[str, str], rules: Mapping[str, str]
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


def _css_classes(column: Figure) -> str:
    marks = (("num", not column.left), ("extra", column.page == "extra"), ("label", column.key == "class"))
    return " ".join(name for name, is_so in marks if is_so)


def _row_css_class(row: ReportRow) -> str:
    if row["trusted"] == "no":
        return "untrusted"
    return "first" if row["rank"] == 1 == row["rank_high"] else ""


def _cell(column: Figure, row: ReportRow, rules: Mapping[str, str]) -> dict[str, Any]:
    if column.key == "experiment":
        return {"kind": "name", "text": row["experiment"]}
    value = row.get(column.key)
    if column.key == "findings":
        links = [{"name": code, "anchor": rules.get(code, "findings")} for code in str(value or "").split()]
        return {"kind": "codes", "links": links}
    text = cell_text(column, row)
    flag = " untrusted-flag" if column.key == "trusted" and value == "no" else ""
    plain = "" if value is None else value
    return {
        "kind": "text",
        "css": _css_classes(column) + flag,
        "text": "" if text == EMPTY_CELL else text,
        "value": plain if str(plain) != text and text != EMPTY_CELL else None,
    }

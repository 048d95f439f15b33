"""The tables of docs/report.md that are written from the registries of figures and pictures.

`python -m hpcbench.report.report_document docs/report.md` writes them again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from hpcbench.analysis.figure_registry import FIGURES, RANKING_CSV, ranking_measures
from hpcbench.report.plots.pictures import PICTURES, SUMMARY_MEANING, SUMMARY_PICTURE


def generated_tables() -> dict[str, str]:
    """Return each generated part of docs/report.md by the name in its markers."""
    further = [key for key, figure in FIGURES.items() if figure.page and key not in RANKING_CSV]
    measures = ranking_measures().values()
    descending, ascending = (
        ", ".join(f"`{figure.key}`" for figure in measures if figure.better == better)
        for better in ("high", "low")
    )
    pictures = [(f"*.{name}", picture.meaning) for name, picture in PICTURES.items()]
    return {
        "columns": _figure_table(RANKING_CSV),
        "further columns": _figure_table(further),
        "rank-by": f"From the largest value: {descending}.\nFrom the smallest: {ascending}.",
        "pictures": _table(
            ("picture", "what it shows"),
            [(f"`{name}`", meaning) for name, meaning in ((SUMMARY_PICTURE, SUMMARY_MEANING), *pictures)],
        ),
    }


def with_generated_tables(text: str) -> str:
    """Return docs/report.md with the text between each pair of markers replaced."""
    for name, table in generated_tables().items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{table}\n\n{end}{after}"
    return text


def _figure_table(keys: Iterable[str]) -> str:
    """Return the meanings of figures; those of one meaning share a line."""
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(FIGURES[key].meaning, []).append(f"`{key}`")
    return _table(("column", "meaning"), [(", ".join(group), meaning) for meaning, group in names.items()])


def _table(head: tuple[str, str], lines: Iterable[tuple[str, str]]) -> str:
    rows = [f"| {first} | {second} |" for first, second in (head, *lines)]
    return "\n".join([rows[0], "|---|---|", *rows[1:]])


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_generated_tables(document.read_text(encoding="utf-8")), encoding="utf-8")

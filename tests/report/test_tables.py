from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from hpcbench.analysis.ranking import rank_runs
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import load_results
from hpcbench.cli.ranking_output import print_ranking, read_ranking
from hpcbench.report.markdown_report import ranking_csv
from hpcbench.report.report_files import distinct_slugs
from hpcbench.report.table_cells import format_number
from tests.report.records import Story, Sweep, single, spec

LONG = "collective_gloo_resnet50_bs128x2_cacheTrue_ampTrue"  # 50 characters, as the studies' longest


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return a ranking with a tie, a long name and a run that ran out of memory."""
    sweep = Sweep(tmp_path_factory.mktemp("results") / "sweep")
    sweep.repeats(single(), Story(step_s=0.01, rng=random.Random(1)))
    sweep.repeats(spec(LONG), Story(step_s=0.02, rng=random.Random(2)), count=2)
    sweep.run(spec("oom", cache="memory")).fail(limit="memory")
    return rank_runs(load_results([sweep.folder.path]).runs).frame


def printed(frame: pd.DataFrame, width: int, *, encoding: str = "utf-8", terminal: bool = False) -> str:
    """Return what a console of a width shows."""
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding)
    colour = {"force_terminal": True, "color_system": "standard"} if terminal else {}
    print_ranking(plain_rows(frame), Console(file=file, width=width, **colour))
    file.flush()
    return buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 100, 160, 220])
def test_lines_fit_and_names_and_figures_stay_whole(frame: pd.DataFrame, width: int) -> None:
    """No line is wider than the terminal, every run is one line, and nothing of it is cut."""
    lines = printed(frame, width).splitlines()
    assert max(map(len, lines)) <= width
    throughput = format_number(float(frame.set_index("experiment").loc[LONG, "throughput_samples_s"]))
    (row,) = [line for line in lines if LONG in line]
    assert throughput in row and "1–2" in row


def test_wide_terminals_show_more_columns(frame: pd.DataFrame) -> None:
    """Columns are added as there is room, the most telling first."""
    headers = {width: printed(frame, width).splitlines()[1] for width in (80, 120, 220)}
    assert "best acc %" not in headers[80] and "best acc %" in headers[120]
    for title in ("img/s ±95 %", "img/s/device", "peak MB", "trusted", "limit"):
        assert title in headers[220]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_columns_that_do_not_fit_are_named_below(frame: pd.DataFrame, width: int) -> None:
    """Every column of the widest table is in the table or in the sentence about the others, once."""
    wide = printed(frame, 300)
    assert "More columns" not in wide
    table, _, rest = printed(frame, width).partition("More columns in ranking.csv: ")
    titles, shown = (re.split(r" {2,}", each.splitlines()[1].strip()) for each in (wide, table))
    named = " ".join(rest.split()).partition(". ")[0].split(", ")
    assert sorted([*shown, *named]) == sorted(titles)


def test_a_name_that_never_fits_loses_its_end_and_no_figure(frame: pd.DataFrame) -> None:
    """In a very narrow terminal names are shortened, numbers never."""
    lines = printed(frame, 40).splitlines()
    assert max(map(len, lines)) <= 40
    throughput = format_number(float(frame["throughput_samples_s"].iloc[0]))
    assert any(throughput in line for line in lines)


def test_files_get_plain_text_and_terminals_colour(frame: pd.DataFrame) -> None:
    """Escape codes are written to terminals only."""
    assert "\x1b" not in printed(frame, 100)
    assert "\x1b[" in printed(frame, 100, terminal=True)


def test_a_console_without_unicode_gets_ascii(frame: pd.DataFrame) -> None:
    """Where the encoding has no ± and no dash, plain signs stand for them."""
    text = printed(frame, 100, encoding="ascii")
    assert "+-" in text and "1-2" in text


def test_a_stored_ranking_prints_the_same(frame: pd.DataFrame, tmp_path: Path) -> None:
    """What is read back from ranking.csv, without pandas, is what was ranked."""
    path = tmp_path / "ranking.csv"
    path.write_text(ranking_csv(frame))
    assert read_ranking(path) == [
        {key: value or None if isinstance(value, str) else value for key, value in row.items()}
        for row in plain_rows(frame)
    ]


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    """Square brackets in a name are no markup of the terminal library."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.repeats(spec("[red]x[/red]".replace("/", "")), count=1)
    assert "[red]x[red]" in printed(rank_runs(load_results([sweep.folder.path]).runs).frame, 100)


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    """An empty ranking prints a sentence."""
    assert "No run" in printed(
        rank_runs(load_results([Sweep(tmp_path / "sweep").folder.path]).runs).frame, 80
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.000"), (0.0123, "0.012"), (1.2345, "1.23"), (98.76, "98.8"), (12345.6, "12,346")],
)
def test_numbers_keep_three_digits_and_no_more(value: float | None, text: str) -> None:
    """Three significant digits before and behind the point, whole numbers never cut."""
    assert format_number(value) == text


def test_slugs_differ_even_where_only_case_or_signs_do() -> None:
    """File names of different texts differ, on file systems that ignore case too."""
    assert distinct_slugs(["a/b", "a b", "A-B", "../..", "ok.x=1"]) == [
        "a-b",
        "a-b-2",
        "A-B-3",
        "unnamed",
        "ok.x=1",
    ]


def test_a_finished_report_is_printed_without_pandas_and_scipy() -> None:
    """`submit` of what is done prints stored tables; to import what makes them would double its time."""
    heavy = ("pandas", "scipy", "pyarrow", "matplotlib")
    code = "import sys, hpcbench.cli.ranking_output, hpcbench.report.findings_report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(heavy) & set(loaded.split())

"""Tables that cannot be used, or only in part: one clear message, and nothing in them is ever evaluated."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcbench.audit.tables.foreign_table import StatedFacts
from hpcbench.cli.audit_output import findings_json
from hpcbench.errors import InputError
from hpcbench.report.results_audit import audit_file, column_choices

HEADER = "name,throughput (img/s),epoch time (s)\n"


def message(tmp_path: Path, data: bytes | str, name: str = "t.csv", **columns: str) -> str:
    """Return what is said about a table that is refused."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(InputError) as caught:
        audit_file(path, StatedFacts(samples_per_epoch=50_000, columns=columns))
    return str(caught.value)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("=1+1", "a formula, which is not evaluated"),
        ("=cmd|' /C calc'!A0", "a formula, which is not evaluated"),
        ("@SUM(A1:A9)", "a formula, which is not evaluated"),
        ("<b>1000</b>", "HTML, which is not interpreted"),
        ("<script>alert(1)</script>", "HTML, which is not interpreted"),
        ("&nbsp;", "HTML, which is not interpreted"),
        ("1000 batches/s", "the unit 'batches/s' is not known here"),
        ("-5", "is not a positive number"),
        ("1e999", "is not a positive number"),
        ("fast", "'fast' is not a number"),
        ("1.2.3", "'1.2.3' is not a number"),
        ("x" * 100_000, "100,000 characters are no number"),
    ],
)
def test_a_bad_cell_is_told_with_row_and_column(tmp_path: Path, cell: str, why: str) -> None:
    """It is a warning about that row; where no other row can be used, the table is refused."""
    row = f'a,"{cell}",50\n'
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "b,1000,50\n" + row)
    found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000))
    told = [each.message for each in found if each.code == "unreadable-cell"]
    assert len(told) == 1 and why in told[0] and "row 3, column 'throughput (img/s)'" in told[0]
    assert len(told[0]) < 300
    refused = message(tmp_path, HEADER + row)
    assert "no usable row" in refused and "row 2, column 'throughput (img/s)'" in refused and why in refused


def test_mixed_units_are_told_with_row_and_column(tmp_path: Path) -> None:
    """A cell in another unit than its column is left out, and said so."""
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "a,1000,50\nb,1000,0.83 min\n")
    found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000))
    told = next(each.message for each in found if each.code == "unreadable-cell")
    assert "row 3, column 'epoch time (s)': units are mixed: 'min' in a column of 's'" in told


def test_a_decimal_comma_is_not_guessed(tmp_path: Path) -> None:
    """In a table with semicolons 1,234 could be either, so it is neither."""
    text = "name;throughput (img/s);epoch time (s)\na;1,234;50\n"
    assert "a comma could stand for thousands or for decimals" in message(tmp_path, text)


def test_a_table_without_a_usable_column_is_refused(tmp_path: Path) -> None:
    """The message names what is there and what would be understood."""
    told = message(tmp_path, "name,colour,loss\na,red,1\n")
    assert (
        "t.csv:1" in told
        and "name, colour, loss" in told
        and "throughput (img/s)" in told
        and "吞吐量" in told
    )


def test_an_ambiguous_column_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    """Two throughputs: the user is asked, and the answer counts."""
    text = "name,train throughput (img/s),eval throughput (img/s),epoch time (s)\na,1000,9,50\n"
    told = message(tmp_path, text)
    assert "which column is throughput?" in told and "--column throughput='train throughput (img/s)'" in told
    path = tmp_path / "t.csv"
    for answer in ("train throughput (img/s)", "TRAIN_throughput (img/s)", "2"):
        found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000, columns={"throughput": answer}))
        assert "samples-not-conserved" not in {each.code for each in found}


def test_a_time_of_no_known_span_is_asked_for(tmp_path: Path) -> None:
    """`Training time` may be that of an epoch or of the run."""
    told = message(tmp_path, "name,throughput (img/s),Training time (s)\na,1000,50\n")
    assert (
        "--column epoch_time='Training time (s)'" in told
        and "--column total_time='Training time (s)'" in told
    )


def test_a_chosen_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the nearest one."""
    told = message(tmp_path, HEADER + "a,1000,50\n", throughput="throughputs (img/s)")
    assert "no such column" in told and "Did you mean throughput (img/s)?" in told
    assert "Did you mean throughput?" in message(tmp_path, HEADER + "a,1,5\n", throughputs="x")


@pytest.mark.parametrize("setting", ["throughput", "throughput=", "=x"])
def test_a_choice_that_is_none_is_refused(setting: str) -> None:
    """`--column` takes FIELD=NAME."""
    with pytest.raises(InputError, match="--column"):
        column_choices([setting])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PK\x03\x04rest", "a spreadsheet or archive"),
        (
            (HEADER + "\u00e9t\u00e9,1,2\n").encode("latin-1"),
            "row 2, column 1: it is neither UTF-8 nor GB18030",
        ),
        (HEADER.encode("utf-16-le"), "as UTF-16 without its mark does"),
        (b"name,throughput\x00,x\n", "row 1, column 2: it holds zero bytes"),
        (b"", "the table is empty"),
        (b"\n\n  \n", "the table is empty"),
        (HEADER.encode(), "there are no rows with numbers"),
        (HEADER.encode() + b"a,1000,50\n" * 110_000, "larger than 1,000,000 bytes: row"),
        (b",".join([b"throughput"] * 501) + b"\n", "too many columns"),
    ],
)
def test_what_is_no_usable_text_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    """Other encodings, other files, empty or huge ones: the message says which and where."""
    assert why in message(tmp_path, data)


def test_a_megabyte_of_rows_is_judged_in_seconds(tmp_path: Path) -> None:
    """Just below the limit everything works, with one finding a row."""
    rows = "".join(f"row{number},1000,66.67\n" for number in range(47_000))
    path = tmp_path / "t.csv"
    path.write_text(HEADER + rows)
    assert 900_000 < path.stat().st_size < 1_000_000
    found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000))
    assert sum(each.code == "samples-not-conserved" for each in found) == 47_000


def test_a_markdown_file_without_a_table_is_refused(tmp_path: Path) -> None:
    """And so is a file that is not there."""
    assert "there is no table in this file" in message(tmp_path, "# Only text\n", "t.md")
    with pytest.raises(InputError, match="no such table"):
        audit_file(tmp_path / "none.csv", StatedFacts())


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """Control characters of a name are not passed on."""
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "a\x1b[2Jb\x07,1000,80\n")
    found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000))
    assert found[0].rows == ("a [2Jb",)


def test_a_row_with_too_few_cells_is_no_crash(tmp_path: Path) -> None:
    """What is missing is missing; unbalanced quotes swallow rows and are told by what is left."""
    path = tmp_path / "t.csv"
    path.write_text(HEADER + 'a,1000\nb\n"c,1000,50\n')
    found, _ = audit_file(path, StatedFacts(samples_per_epoch=50_000))
    assert {each.code for each in found} == {"too-few-repeats"}


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["1", "-1", "1e400", "nan", "=A1", "<p>", "1,5", "1:2:3", "50 %", "3 min", '"', "|", "\n", "\x00"]
    ),
)
HEADERS = st.sampled_from(
    [
        "name",
        "throughput (img/s)",
        "吞吐量",
        "epoch time",
        "训练时间(s)",
        "time",
        "acc",
        "batch size",
        "GPUs",
        "x",
        "",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(HEADERS, max_size=6), st.lists(st.lists(CELLS, max_size=7), max_size=5), st.sampled_from(",;\t|")
)
def test_any_table_is_judged_or_refused(header: list[str], rows: list[list[str]], separator: str) -> None:
    """Whatever stands in it: findings or one message, never another exception."""
    text = "\n".join(separator.join(cells) for cells in [header, *rows])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("t.csv", "t.md"):
            path = Path(folder) / name
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                findings, _ = audit_file(path, StatedFacts(samples_per_epoch=100, epochs=2, eval_samples=10))
            except InputError as error:
                assert str(error).startswith(str(path))
            else:
                assert findings_json(findings)

"""YAML is read with its lines, and what a sweep has no need for is refused before it is built."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.errors import InputError
from hpcbench.sweep.yaml_document import MAX_BYTES, parse_document, plain_value, read_document
from tests.config.files import write

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

CASES = {
    "empty file": (b"", "s.yaml", None),
    "binary file": (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "s.yaml:1: this is not a text file", None),
    "zero byte": (b"version: 1\nname: \x00\n", "s.yaml:2: this is not a text file", None),
    "Latin-1": ("a: 1\nb: ü\n".encode("latin-1"), "s.yaml:2: this is not a text file in UTF-8", None),
    "UTF-16": ("version: 1\n".encode("utf-16"), "s.yaml:1: this is not a text file in UTF-8", None),
    "tabs": (b"runs:\n\t- strategy: ddp\n", "s.yaml:2: a tab in the indentation", "allowed: spaces"),
    "object": (
        b"a: 1\nb: !!python/object:os.system x\n",
        "s.yaml:2: b: tags are",
        "!!python/object:os.system",
    ),
    "harmless tag": (b"a: !!str 1\n", "s.yaml:1: a: tags are not allowed", "!!str"),
    "alias bomb": (BOMB.encode(), "s.yaml:1: a: anchors are not allowed", "&a"),
    "alias": (b"a: *b\n", "s.yaml:1: a: aliases are not allowed", "*b"),
    "duplicate key": (b"a: 1\nb: 2\na: 3\n", "s.yaml:3: a: duplicate key, first given in line 1", None),
    "duplicate inner key": (
        b"a:\n - {b: 1,\n    b: 2}\n",
        "s.yaml:3: a[0].b: duplicate key",
        "line 2",
    ),
    "5,000 levels": (b"a: " + b"[" * 5000, "s.yaml:1: a", "deeper than 50 levels"),
    "200,000 levels": (b"[" * 200_000, "s.yaml:1", "deeper than 50 levels"),
    "deep maps": (b"".join(b" " * n + b"a:\n" for n in range(60)), "s.yaml:51", "deeper than 50 levels"),
    "two documents": (b"a: 1\n---\nb: 2\n", "s.yaml:2: a file holds one document", None),
    "map as key": (b"? {a: 1}\n: 2\n", "s.yaml:1: a key must be one word", None),
    "broken": (b"a: 1\nb: c: d\n", "s.yaml:2: this is not YAML", "mapping values are not allowed"),
    "open": (b"a: [1, 2\n", "s.yaml:2: this is not YAML", None),
}


@pytest.mark.parametrize("case", [name for name in CASES if name != "empty file"])
def test_unsound_text_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    """The message names the line and the problem."""
    text, start, part = CASES[case]
    with pytest.raises(InputError) as caught:
        read_document(write(tmp_path, text))
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert message.startswith(start), message
    assert part is None or part in message, message
    assert len(message) < 500


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "---\n"])
def test_empty_file_has_no_value(text: str, tmp_path: Path) -> None:
    """An empty file differs from one with an empty map."""
    assert read_document(write(tmp_path, text)).value is None


def test_file_over_the_limit_is_refused_and_one_at_it_is_read(tmp_path: Path) -> None:
    """One megabyte is allowed, one byte more is not."""
    text = b"a: 1\n#".ljust(MAX_BYTES, b"x")
    assert read_document(write(tmp_path, text)).value == {"a": 1}
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        read_document(write(tmp_path, text + b"x"))


def test_fifty_levels_are_read() -> None:
    """The depth that is allowed is really allowed."""
    assert parse_document("[" * 50 + "]" * 50, "s.yaml").value is not None


def test_bomb_costs_no_time(tmp_path: Path) -> None:
    """A file that would grow to 9^9 values is refused in less than the time of reading an honest one."""
    honest = "".join(f"a{n}: {{b: [1, 2, 3]}}\n" for n in range(5000))
    began = time.process_time()
    parse_document(honest, "s.yaml")
    honest_s = time.process_time() - began
    began = time.process_time()
    with pytest.raises(InputError):
        parse_document(BOMB, "s.yaml")
    assert time.process_time() - began < honest_s


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4), ("5.0e-4", 5e-4), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-3", -3), ("010", 10),
        ("no", "no"), ("on", "on"), ("02:00:00", "02:00:00"), ("true", True), ("~", None), ("", None),
        ("1_000", "1_000"), ("0x10", "0x10"), ("2026-01-01", "2026-01-01"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_they_look_like(text: str, value: object) -> None:
    """Numbers with exponents are numbers; times, dates and no are text."""
    assert repr(plain_value(text)) == repr(value)


def test_quoted_words_are_text() -> None:
    """Quotes make text of anything."""
    assert parse_document("[\"1\", 'true', '']", "s.yaml").value == ["1", "true", ""]


_WORDS = st.text("abcdefgh", min_size=1, max_size=4)
_VALUES = st.recursive(
    st.integers() | st.booleans() | st.none() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=12,
)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in items for inner in _paths(item, (*path, key)))]


@given(_VALUES, st.integers(0, 5))
def test_values_come_back_with_a_line_for_every_path(value: Any, comments: int) -> None:
    """Reading is the inverse of writing; lines move with the text above."""
    text = yaml.safe_dump({"top": value}, default_flow_style=False)
    plain, moved = (parse_document("# x\n" * n + text, "s.yaml") for n in (0, comments))
    assert plain.value == moved.value == {"top": value}
    assert set(plain.lines) == set(_paths({"top": value}))
    rows = text.split("\n")
    for path, line in plain.lines.items():
        assert moved.lines[path] == line + comments
        if path and isinstance(path[-1], str):
            assert f"{path[-1]}:" in rows[line - 1] or f"{path[-1]}'" in rows[line - 1]

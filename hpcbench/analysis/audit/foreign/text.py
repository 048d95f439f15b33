"""The bytes of a table as text. Nothing in them is ever evaluated."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from hpcbench.errors import InputError, Place, input_error

MAX_BYTES = 1_000_000
BINARY = {
    b"PK\x03\x04": "a spreadsheet or archive",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")
# What reads as GB18030 by accident (Western letters with accents) gives signs that no table has.
_LIKELY_CHINESE = re.compile(
    r"[\x09\x0a\x0d\x20-\x7e\u00b0-\u00d7\u2010-\u2103\u3000-\u303f\u4e00-\u9fa5\uff00-\uffef]*"
)
_COMMON = re.compile(r"[吞吐量时间训练准确率批大小模型方法实验策略每轮总测试验证显存缓存精度]")


def read_text(path: Path) -> str:
    """Return a table's text: UTF-8, UTF-16 with its mark, or GB18030. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise input_error("there is no such table", key=str(path)) from None
    except OSError as error:
        raise input_error(f"the table cannot be read: {error.strerror}", key=str(path)) from None
    if len(data) > MAX_BYTES:
        line = data.count(b"\n") + 1
        raise input_error(
            f"the table is larger than {MAX_BYTES:,} bytes: row {line:,} crosses the limit",
            place=Place(str(path), line),
            hint="Keep the rows and columns that are to be audited",
        )
    for magic, what in BINARY.items():
        if data.startswith(magic):
            raise input_error(
                f"this is {what}, not a table in text", place=Place(str(path)), hint="Export it as CSV"
            )
    return _decode(data, str(path))


def _decode(data: bytes, file: str) -> str:
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise input_error("this begins as UTF-16 and does not go on so", place=Place(file)) from None
    if b"\x00" in data:
        raise _not_text(
            data, data.index(b"\x00"), file, "it holds zero bytes, as UTF-16 without its mark does"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        chinese = _gb18030(data)
        if chinese is None:
            raise _not_text(data, error.start, file, "it is neither UTF-8 nor GB18030") from None
        return chinese


def _gb18030(data: bytes) -> str | None:
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None
    return text if _LIKELY_CHINESE.fullmatch(text) and _COMMON.search(text) else None


def _not_text(data: bytes, at: int, file: str, problem: str) -> InputError:
    line = data.count(b"\n", 0, at) + 1
    before = data[data.rfind(b"\n", 0, at) + 1 : at]
    column = before.count(b",") + before.count(b";") + before.count(b"\t") + 1
    return input_error(
        f"the table's encoding is not understood in row {line}, column {column}: {problem}",
        place=Place(file, line),
        allowed="UTF-8, UTF-16 with a byte order mark, GB18030",
        hint="Save it as UTF-8",
    )

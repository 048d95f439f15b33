"""YAML text to plain values with the line of each.

Refuses the YAML features that a sweep file does not need.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import yaml

from hpcbench.errors import InputError, SourcePlace, input_error

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
# What `dump_sweep` writes spells every run out, so a legal sweep of many runs may need more than MAX_BYTES.
RESOLVED_HEADER = "# The sweep as resolved and submitted, written by hpcbench."
MAX_RESOLVED_BYTES = 64_000_000

KeyPath = tuple[str | int, ...]

NULL = re.compile(r"~|null|Null|NULL|")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_MAX_DIGITS = 40  # no field holds more, and int() of very many digits is slow

# Only events are taken from it: they come from a loop, in C as in Python.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class KeyLocation(TypedDict):
    """The location of a value, as arguments of `input_error`."""

    place: SourcePlace | None
    key: str | None


def dotted_path(path: KeyPath) -> str:
    """Format a path for a message: `runs[0].optimizer.lr`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class YamlDocument:
    """Values of one file; `lines` has the line of every path in it (none for a value of a command line)."""

    file: str
    value: Any
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    folder: Path = Path()
    resolved: bool = False

    def at(self, path: KeyPath) -> KeyLocation:
        """Return the location of a path; for one that does not exist, that of its nearest parent."""
        around = next((path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        line = None if around is None else self.lines[around]
        return {"place": SourcePlace(self.file, line), "key": dotted_path(path) or None}

    def error(self, path: KeyPath, problem: str, **details: Any) -> InputError:
        """Return the message about a path; `details` are those of `input_error`."""
        return input_error(problem, **self.at(path), **details)


def read_document(path: Path, *, requested_by: KeyLocation | None = None) -> YamlDocument:
    """Read a file; raises InputError for one that is missing, too large, not text, or not valid YAML.

    `requested_by` is the location of the include, if the file is not from the command line.
    """
    location = requested_by or KeyLocation(place=SourcePlace(str(path)), key=None)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RESOLVED_BYTES + 1)
    except FileNotFoundError:
        hint = f"There is no file {path}" if requested_by else None
        raise input_error("the file does not exist", **location, hint=hint) from None
    except OSError as error:
        raise input_error(f"cannot read {path}: {error.strerror}", **location) from None
    resolved = data.startswith(RESOLVED_HEADER.encode())
    limit = MAX_RESOLVED_BYTES if resolved else MAX_BYTES
    if len(data) > limit:
        raise input_error(f"the file is larger than {limit:,} bytes", place=SourcePlace(str(path)))
    return parse_document(_text(data, str(path)), str(path), folder=path.parent, resolved=resolved)


def _text(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise input_error("this is not a text file in UTF-8", place=SourcePlace(file, line)) from None
    control = _CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise input_error(
            "this is not a text file: it holds a control character",
            place=SourcePlace(file, line),
            found=control[0],
        )
    return text


def parse_document(
    text: str, file: str, *, folder: Path = Path(), resolved: bool = False, numbered: bool = True
) -> YamlDocument:
    """Parse YAML; `numbered` False is for a value without a line."""
    builder = _Builder(file, numbered)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise _yaml_error(error, text, file, numbered) from None
    lines = builder.lines if numbered else {}
    return YamlDocument(file, builder.root, lines, folder=folder, resolved=resolved)


def plain_value(text: str) -> Any:
    """Return the value of unquoted text; raises ValueError for a number that cannot be used."""
    if NULL.fullmatch(text):
        return None
    if BOOLEAN.fullmatch(text):
        return text[0] in "tT"
    if NOT_FINITE.fullmatch(text):
        raise ValueError("NaN and infinity are not values that can be set")
    if INTEGER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError("this number is too large")
        return int(text)
    if FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError("this number is too large")
        return number
    return text


@dataclass
class _OpenNode:
    """A map or list that is not complete; `key` is the one that has no value yet."""

    value: Any
    path: KeyPath
    key: str | None = None


class _Builder:
    """Builds values from parser events with an explicit stack."""

    def __init__(self, file: str, numbered: bool) -> None:
        self.file, self.numbered = file, numbered
        self.root: Any = None
        self.lines: dict[KeyPath, int] = {}
        self.stack: list[_OpenNode] = []
        self.documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_extras(event)
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._refuse_extras(event)
            self._open(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases are not allowed", found=f"*{event.anchor}", hint="Write it out")
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._error(event, "a file holds one document, and a second begins here", found="---")

    def _refuse_extras(self, event: Any) -> None:
        if event.anchor is not None:
            raise self._error(
                event, "anchors are not allowed", found=f"&{event.anchor}", hint="Use defaults instead"
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._error(event, "tags are not allowed", found=tag, hint="Write the plain value")

    def _open(self, event: yaml.Event, value: Any) -> None:
        if len(self.stack) == MAX_DEPTH:
            raise self._error(event, f"values are nested deeper than {MAX_DEPTH} levels")
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            raise self._error(event, "a key must be one word, not a map or a list")
        self.stack.append(_OpenNode(value, self._attach(event, value)))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            path = (*top.path, event.value)
            if event.value in top.value:
                raise self._error(
                    event, f"duplicate key, first given in line {self.lines[path]}", path, hint="Remove one"
                )
            top.key = event.value
            self.lines[path] = self._line(event)
            return
        value: Any = event.value
        if event.implicit[0]:  # without quotes
            try:
                value = plain_value(event.value)
            except ValueError as error:
                raise self._error(event, str(error), self._next_path(), found=event.value) from None
        self._attach(event, value)

    def _next_path(self) -> KeyPath:
        if not self.stack:
            return ()
        top = self.stack[-1]
        return (*top.path, len(top.value) if isinstance(top.value, list) else top.key or "")

    def _attach(self, event: yaml.Event, value: Any) -> KeyPath:
        path = self._next_path()
        if not self.stack:
            self.root = value
        elif isinstance(self.stack[-1].value, list):
            self.stack[-1].value.append(value)
        else:
            self.stack[-1].value[self.stack[-1].key] = value
            self.stack[-1].key = None
        self.lines.setdefault(path, self._line(event))
        return path

    def _line(self, event: Any) -> int:
        return int(event.start_mark.line) + 1

    def _error(
        self,
        event: yaml.Event,
        problem: str,
        path: KeyPath | None = None,
        *,
        found: object = None,
        hint: str | None = None,
    ) -> InputError:
        place = SourcePlace(self.file, self._line(event) if self.numbered else None)
        key = dotted_path(self._next_path() if path is None else path).rstrip(".")
        shown = key if len(key) <= 60 else f"{key[:60]}..."
        return input_error(problem, place=place, key=shown or None, found=found, hint=hint)


def _yaml_error(error: yaml.YAMLError, text: str, file: str, numbered: bool) -> InputError:
    mark: Any = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    if mark is None:
        return input_error(f"this is not YAML: {problem}", place=SourcePlace(file))
    rows = text.split("\n")
    row = rows[mark.line] if mark.line < len(rows) else ""
    place = SourcePlace(file, mark.line + 1 if numbered else None)
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return input_error("a tab in the indentation", place=place, found=row, allowed="spaces")
    context = getattr(error, "context", None)
    return input_error(
        f"this is not YAML: {f'{context}, ' if context else ''}{problem}",
        place=place,
        found=row.strip() or None,
    )

"""Writing record files, and replacing small files atomically.

Used by ranks in any image: pure Python imports only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import jsonlines

from hpcbench.runs.events import SCHEMA, Event


class EventWriter:
    """Append-only writer of one process's record file.

    `write` only fills a buffer, so that it costs timed code nothing; `flush` hands the lines to the
    operating system (they then survive the process), `sync` to the disk (they survive the machine).
    The file is opened exclusively: a second writer for the same attempt fails with FileExistsError. With
    `go_on` a process adds to what it has written itself before; a last line that was cut off is dropped.
    A full disk raises OSError from `flush`; lines written before stay readable.
    """

    def __init__(
        self, path: Path, *, run_id: str, attempt: int, rank: int | None, go_on: bool = False
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if go_on:
            drop_torn_line(path)
        self._file: IO[str] = path.open("a" if go_on else "x", encoding="utf-8", buffering=1 << 16)
        self._lines = jsonlines.Writer(self._file, dumps=_dumps)
        self._header = {"schema": SCHEMA, "run_id": run_id, "attempt": attempt, "rank": rank}

    def write(self, event: Event) -> None:
        """Take an event into the buffer."""
        fields = {f.name: _null_if_not_finite(getattr(event, f.name)) for f in dataclasses.fields(event)}
        self._lines.write({"event": event.kind, **self._header, "time_ns": time.time_ns(), **fields})

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        self._file.flush()

    def sync(self) -> None:
        """Flush, and wait until it is on disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            self._lines.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _null_if_not_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_if_not_finite(item) for item in value]
    return value


RECORD_BEGINS = b'{"'  # whatever else a file that a user has named may end with is left alone


def drop_torn_line(path: Path) -> None:
    """Cut a file off behind its last whole line, if what follows was to be a record; no file is fine."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        text = file.read()
        whole, newline, torn = text.rpartition(b"\n")
        if torn.startswith(RECORD_BEGINS):
            file.truncate(len(whole) + len(newline))


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file, completely or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a draft that replaces `path` when it is complete and on disk; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

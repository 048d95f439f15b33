"""Writing a report so that a reader never sees half of it, and two writers never mix theirs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hpcbench.errors import HpcbenchError, InputError, input_error

LOCK_WAIT_S = 600  # a report of hundreds of pictures takes minutes


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Make a report folder and hold it alone; what can't be written there is told as the user's problem."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".collect.lock", timeout=LOCK_WAIT_S):
            yield folder
    except Timeout as error:
        raise HpcbenchError(f"{folder}: another collect has been writing here for {LOCK_WAIT_S} s") from error
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(folder: Path, error: OSError) -> InputError:
    """Say that the report can't be written, and why."""
    return input_error(
        f"the report cannot be written: {error.strerror or error}",
        key=str(error.filename or folder),
        hint="Make the folder writable, or move what stands there",
    )


def replace_file(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Replace a file whole or not at all; `write` gets the path of a temporary one with the same ending.

    Without `sync` nobody waits for the disk: for files that a crash of the machine may cost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def slug(text: str) -> str:
    """Return a text as part of a file name that is safe on any file system and in any URL."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:100] or "unnamed"


def slugs(texts: Iterable[str]) -> list[str]:
    """Return a slug for each text, no two alike, whatever their case."""
    taken: set[str] = set()
    chosen: list[str] = []
    for text in texts:
        base, number = slug(text), 1
        found = base
        while found.lower() in taken:
            number += 1
            found = f"{base}-{number}"
        taken.add(found.lower())
        chosen.append(found)
    return chosen

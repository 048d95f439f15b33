"""What hpcbench says to its user when something is wrong. None of these reaches a user as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class HpcbenchError(Exception):
    """A message for the user. The command line prints it on stderr and exits with `exit_code`."""

    exit_code = 2


class InputError(HpcbenchError):
    """A sweep, profile, option or table that cannot be used as it is; nothing was started or written."""


class RecordError(HpcbenchError):
    """Records that cannot be read: broken in the middle, or written by a newer hpcbench."""


class RunFailedError(HpcbenchError):
    """The command worked and a run did not."""

    exit_code = 1


@dataclass(frozen=True)
class SourcePlace:
    """Where something stands in a file; `line` counts from 1, `None` where there is no line to name."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `word` most likely meant, or None where nothing is near."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return found[0] if found else None


def input_error(
    problem: str,
    *,
    place: SourcePlace | None = None,
    key: str | None = None,
    found: object = None,
    allowed: str | None = None,
    hint: str | None = None,
) -> InputError:
    """Build the one form that all messages about input have: `place: key: problem (found; allowed). hint`."""
    head = "".join(f"{part}: " for part in (str(place) if place else None, key) if part)
    shown = None if found is None else f"found {_shorten(found)}"
    details = "; ".join(part for part in (shown, f"allowed: {allowed}" if allowed else None) if part)
    return InputError(f"{head}{problem}{f' ({details})' if details else ''}{f'. {hint}' if hint else ''}")


def _shorten(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."

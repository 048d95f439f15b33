"""Errors and messages for the user. None of these errors reaches a user as a traceback."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

COMMAND_LOG = "hpcbench: %(message)s"
JOB_LOG = "%(asctime)s %(message)s"
INTERRUPTED = 130  # exit status of a command that Ctrl-C has ended, as shells have it: 128 + SIGINT


def log_to_stderr(layout: str, level: int = logging.INFO) -> None:
    """Print the messages of the logger `hpcbench` on standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(layout, datefmt="%H:%M:%S"))
    logger = logging.getLogger("hpcbench")
    logger.handlers[:] = [handler]
    logger.setLevel(level)


class HpcbenchError(Exception):
    """A message for the user. The command line prints it on stderr and exits with `exit_code`."""

    exit_code = 2


class InputError(HpcbenchError):
    """A sweep, profile, option or table that cannot be used as it is; nothing was started or written."""


class RecordError(HpcbenchError):
    """Records that cannot be read: broken in the middle, or written by a newer hpcbench."""


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

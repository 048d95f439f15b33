"""Running out of memory is a result of a run, not a failure of the sweep: how it is recognised. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

# torch's own type has this name; on a CPU it raises a RuntimeError with these words.
TYPE_NAME = "OutOfMemoryError"
WORDS = (
    "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
_ASKED = re.compile(
    r"(?:[Tt]ried to allocate|Unable to allocate|images of) ([0-9][0-9.,]*) ?([KMGTPE]i?B|bytes|B)\b"
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


@dataclass(frozen=True)
class OutOfMemory:
    """What was asked for when memory ran out; None where the message does not say."""

    asked_bytes: int | None


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Return what was asked for if an error means that memory has run out."""
    text = str(error)
    by_type = isinstance(error, MemoryError) or type(error).__name__ == TYPE_NAME
    by_words = isinstance(error, RuntimeError) and any(words in text for words in WORDS)
    return OutOfMemory(_asked(text)) if by_type or by_words else None


def _asked(text: str) -> int | None:
    """Read the size out of the messages of torch, numpy and hpcbench (1 GiB and 1 GB are 2**30 there)."""
    found = _ASKED.search(text)
    if found is None:
        return None
    number, unit = float(found[1].replace(",", "").rstrip(".")), found[2]
    return round(number * 1024.0 ** _UNITS[unit[0] if unit[0] in "KMGTPE" else ""])

"""Reads the CIFAR files, which are Python pickles, without doing what a pickle may ask for. No torch.

Unpickling calls whatever a file names: one that names `os.system` runs a command. This reader knows the few
names that an array of numbers needs and refuses every other.
"""

from __future__ import annotations

import _codecs
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.errors import InputError, Place, input_error

_reconstruct: Any = np.zeros(0).__reduce__()[0]  # numpy's own, wherever this version of it keeps it

ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,  # how Python 3 writes bytes in the protocol of Python 2
}
MAX_BYTES = 1 << 30
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    MemoryError, OverflowError, UnicodeDecodeError,
)  # fmt: skip


class _RefusedError(Exception):
    """The pickle names something that no array needs."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_pickle(path: Path) -> dict[bytes, Any]:
    """Return the map in a file, keys as bytes; raises InputError naming the file, or OSError."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _error(path, f"far too large for a CIFAR file ({size:,} bytes)")
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except _RefusedError as name:
        raise _error(path, f"this pickle would run {name}: a CIFAR file holds numbers only") from None
    except _BROKEN as error:
        raise _error(path, f"broken or cut off ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise _error(path, "no map of images and labels", found=type(content).__name__)
    return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in content.items()}


def _error(path: Path, problem: str, found: object = None) -> InputError:
    return input_error(
        problem, place=Place(str(path)), found=found, hint="Get it anew: `hpcbench data check` says how"
    )

"""The index of an image data set: class and position of every image, stored as an Arrow file in the cache
folder. Imports no torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.runs.record_writer import atomic_file

CACHE_VARIABLE = "HPCBENCH_CACHE"
INDEX_FORMAT = 1
# A folder that has changed just before it was read may change again without its time showing it.
SETTLED_NS = 2_000_000_000


def cache_folder() -> Path:
    """Return where indexes and decoded images are kept: $HPCBENCH_CACHE, else the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpcbench"


@dataclass(frozen=True)
class ImageListing:
    """What a scan has found: image i is `size` bytes from `offset` in `files[file[i]]`; size -1: all of it.

    `watched` are the files and folders, with their times of change, that would tell of a change.
    """

    files: Sequence[str]
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    watched: dict[str, int]


class ImageIndex:
    """A listing as an Arrow table, which may be mapped from a file."""

    def __init__(self, table: Any, root: Path) -> None:
        self._table = table
        self.root = root
        facts = json.loads(table.schema.metadata[b"hpcbench"])
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        self.digest: str = facts["digest"]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, a place in `classes`."""
        labels: NDArray[np.int64] = self._table.column("label").to_numpy()
        return labels

    def path(self, sample: int) -> Path:
        """Return the file that an image is in."""
        return self.root / str(self._table.column("file")[sample].as_py())

    def describe(self, sample: int) -> str:
        """Return where an image is, for messages."""
        offset = self._table.column("offset")[sample].as_py()
        return f"{self.path(sample)}" + (f" at byte {offset:,}" if self._is_part(sample) else "")

    def _is_part(self, sample: int) -> bool:
        return bool(self._table.column("size")[sample].as_py() >= 0)

    def read(self, sample: int) -> bytes:
        """Return an image as it is stored; raises InputError where its file can't be read."""
        path = self.path(sample)
        try:
            if not self._is_part(sample):
                return path.read_bytes()
            size, offset = (self._table.column(name)[sample].as_py() for name in ("size", "offset"))
            return _read_part(path, size, offset)
        except OSError as error:
            raise input_error(
                f"this image can't be read ({error.strerror})",
                place=SourcePlace(str(path)),
                hint=f"If the data has changed, delete the index in {cache_folder()}",
            ) from error


def _read_part(path: Path, size: int, offset: int) -> bytes:
    return os.pread(_open_descriptor(path), size, offset)


@functools.cache
def _open_descriptor(path: Path) -> int:
    """Open a tar once; `pread` moves nothing, so forked processes may share it."""
    return os.open(path, os.O_RDONLY)


def load_index(root: Path, part: str, variant: str, scan: Callable[[], ImageListing]) -> ImageIndex:
    """Return the index of a part of a data set, from the cache folder where it still holds.

    `variant` names the ways of scanning that differ. A cache folder that can't be written costs time only.
    """
    import pyarrow

    path = cache_folder() / "index" / f"{_short_digest(str(root.absolute()), part, variant)}.arrow"
    index = _load_cached(path, root)
    if index is not None:
        return index
    began = time.time_ns()
    listing = scan()
    settled = all(changed < began - SETTLED_NS for changed in listing.watched.values())
    table = _arrow_table(listing, root, settled=settled)
    try:
        with atomic_file(path) as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    except OSError:
        return ImageIndex(table, root)
    return _load_cached(path, root) or ImageIndex(table, root)


def _load_cached(path: Path, root: Path) -> ImageIndex | None:
    import pyarrow

    try:
        table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
        facts = json.loads(table.schema.metadata[b"hpcbench"])
        holds = (
            facts["format"] == INDEX_FORMAT
            and facts["root"] == str(root.absolute())
            and facts["settled"]
            and all((root / name).stat().st_mtime_ns == at for name, at in facts["watched"].items())
        )
    except (OSError, pyarrow.ArrowInvalid, ValueError, KeyError, TypeError):
        return None  # not there, or cut off, or of a folder that is gone: it is made anew
    return ImageIndex(table, root) if holds else None


def _arrow_table(listing: ImageListing, root: Path, *, settled: bool) -> Any:
    import pyarrow

    names = pyarrow.array(listing.files, pyarrow.string())
    columns = {
        "file": names.take(pyarrow.array(listing.file)),
        "offset": listing.offset,
        "size": listing.size,
        "label": listing.labels,
    }
    if len(listing.files) < len(listing.file):
        columns["file"] = columns["file"].dictionary_encode()
    digest = hashlib.sha256("\n".join(listing.files).encode())
    for values in (listing.file, listing.offset, listing.size, listing.labels):
        digest.update(np.ascontiguousarray(values).tobytes())
    digest.update(json.dumps(sorted(listing.watched.items())).encode())
    facts = {
        "format": INDEX_FORMAT,
        "root": str(root.absolute()),
        "classes": listing.classes,
        "watched": listing.watched,
        "settled": settled,
        "digest": digest.hexdigest(),
    }
    return pyarrow.table(columns).replace_schema_metadata({"hpcbench": json.dumps(facts)})


def _short_digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def unreadable_error(path: Path, error: OSError) -> InputError:
    """Return the message for a folder or file that can't be read."""
    denied = isinstance(error, PermissionError)
    return input_error(
        "no permission to read the data" if denied else f"can't be read ({error.strerror})",
        place=SourcePlace(str(error.filename or path)),
        hint="Make it readable for the account that runs the jobs" if denied else None,
    )

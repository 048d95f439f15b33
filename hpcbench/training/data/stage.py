"""Copies a data set to a node's own disk before a run and takes it away after the last one. No torch.

Whoever holds it keeps it: the ranks of a run, and a job that wants it to stay for all of its runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from hpcbench.errors import InputError, Place, input_error
from hpcbench.training.data.node import Shared, share, sweep

PREFIX = "hpcbench-stage-"
PACKED = (".tar.gz", ".tgz")
# A packed archive is unpacked; its contents are known only then. Pictures hardly compress: twice is plenty.
UNPACKED_FACTOR = 2


def stage(source: Path, target: Path) -> Shared:
    """Return the data set's copy under `target`, made once per node; `release` it at the end.

    Archives are unpacked, but for ImageNet's tars, which are read as they are. Raises InputError naming the
    folder where there is no data, no room or no permission.
    """
    if not source.is_dir():
        raise input_error("there is no such folder of data", place=Place(str(source)))
    try:
        target.mkdir(parents=True, exist_ok=True)
        sweep(target, PREFIX)
        digest = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:16]
        return share(target / f"{PREFIX}{source.name}-{digest}", lambda path: _copy(source, path))
    except PermissionError as error:
        raise input_error(
            "no permission to stage data here",
            place=Place(str(error.filename or target)),
            hint="Say another folder in input: {stage: DIR}, on each node's own disk",
        ) from error


def _copy(source: Path, path: Path) -> None:
    files = list(_files(source))
    needed = sum(size * (UNPACKED_FACTOR if _is_packed(name) else 1) for name, size in files)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise _no_room(path.parent, needed, free)
    try:
        for name, _ in files:
            copied = path / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            if _is_packed(name):
                with tarfile.open(source / name) as archive:
                    archive.extractall(copied.parent, filter="data")
            else:
                shutil.copyfile(source / name, copied)
    except tarfile.TarError as error:
        raise input_error(
            f"this archive can't be unpacked ({error})", place=Place(str(source / name)), hint="Get it anew"
        ) from error


def _files(source: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(source, onerror=_refuse):
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                yield str(path.relative_to(source)), path.stat().st_size


def _refuse(error: OSError) -> None:
    raise error


def _is_packed(name: str) -> bool:
    return name.endswith(PACKED) and "devkit" not in name


def _no_room(folder: Path, needed: int, free: int) -> InputError:
    return input_error(
        f"the data set needs {needed:,} bytes and {free:,} are free",
        place=Place(str(folder)),
        hint="Say another folder in input: {stage: DIR}, or read it where it is",
    )

"""Files and folders that the processes of a node share: created once under a lock, removed after the last
user; copies staged on the node's local disk; and the file that marks a folder of generated data.
Imports no torch.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import InputError, SourcePlace, input_error

LOCK_ENDING = ".lock"
NO_LOCK_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network file systems


@dataclass
class SharedPath:
    """A file or folder that this process uses together with others; `release` it at the end."""

    path: Path
    _lock: Path
    _descriptor: int
    _keep: bool

    def unlink_shared(self) -> None:
        """Remove the name. Processes that have it mapped keep it, and nothing is left when they end."""
        if not self._keep:
            remove_path(self.path)
        self._lock.unlink(missing_ok=True)

    def release(self) -> None:
        """Stop using it; the last one removes it."""
        if self._descriptor < 0:
            return
        if _lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_same_file(
            self._descriptor, self._lock
        ):
            self.unlink_shared()
        os.close(self._descriptor)
        self._descriptor = -1


def share_path(path: Path, make: Callable[[Path], None], *, keep: bool = False) -> SharedPath:
    """Return `path`, made by the first process that asks; the others wait for it.

    `make` gets a temporary path beside it, which takes its name when it is complete. `keep` leaves it there
    for later runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + LOCK_ENDING)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                if _is_same_file(descriptor, lock):
                    _create_if_missing(path, make)
            else:  # another process creates it or uses it: wait until it may be shared
                _lock(descriptor, fcntl.LOCK_SH)
            if _is_same_file(descriptor, lock) and path.exists():
                _lock(descriptor, fcntl.LOCK_SH)
                return SharedPath(path, lock, descriptor, keep)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed meanwhile, or who made it has died: begin again


def _create_if_missing(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        remove_path(temporary)


def remove_stale(folder: Path, prefix: str) -> list[Path]:
    """Remove what killed processes have left: names with this prefix whose lock no process holds."""
    removed = []
    for lock in folder.glob(f"{prefix}*{LOCK_ENDING}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue  # another user's, or removed meanwhile
        if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_same_file(descriptor, lock):
            path = lock.with_name(lock.name.removesuffix(LOCK_ENDING))
            for leftover in (path, *folder.glob(f"{path.name}.*.part")):
                remove_path(leftover)
            lock.unlink(missing_ok=True)
            removed.append(path)
        os.close(descriptor)
    return removed


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock; False where another process has it. A file system without locks grants every lock."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCK_ERRNOS:
            raise
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        named, opened = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


STAGE_PREFIX = "hpcbench-stage-"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
# A packed archive is unpacked; its contents are known only then. Pictures hardly compress: twice is plenty.
UNPACKED_FACTOR = 2


def stage_data(source: Path, target: Path) -> SharedPath:
    """Return the data set's copy under `target`, made once per node; `release` it at the end.

    Archives are unpacked, but for ImageNet's tars, which are read as they are. Raises InputError naming the
    folder where there is no data, no room or no permission.
    """
    if not source.is_dir():
        raise input_error("there is no such folder of data", place=SourcePlace(str(source)))
    try:
        target.mkdir(parents=True, exist_ok=True)
        remove_stale(target, STAGE_PREFIX)
        digest = hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:16]
        return share_path(
            target / f"{STAGE_PREFIX}{source.name}-{digest}", lambda path: _copy_data(source, path)
        )
    except PermissionError as error:
        raise input_error(
            "no permission to stage data here",
            place=SourcePlace(str(error.filename or target)),
            hint="Say another folder in input: {stage: DIR}, on each node's own disk",
        ) from error


def _copy_data(source: Path, path: Path) -> None:
    files = list(_source_files(source))
    needed = sum(size * (UNPACKED_FACTOR if _is_packed(name) else 1) for name, size in files)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise _no_space_error(path.parent, needed, free)
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
            f"this archive can't be unpacked ({error})",
            place=SourcePlace(str(source / name)),
            hint="Get it anew",
        ) from error


def _source_files(source: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(source, onerror=_stage_error):
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                yield str(path.relative_to(source)), path.stat().st_size


def _stage_error(error: OSError) -> None:
    raise error


def _is_packed(name: str) -> bool:
    return name.endswith(ARCHIVE_SUFFIXES) and "devkit" not in name


def _no_space_error(folder: Path, needed: int, free: int) -> InputError:
    return input_error(
        f"the data set needs {needed:,} bytes and {free:,} are free",
        place=SourcePlace(str(folder)),
        hint="Say another folder in input: {stage: DIR}, or read it where it is",
    )


GENERATED_MARKER = "hpcbench-generated.json"


def mark_generated(folder: Path, samples: dict[str, int]) -> None:
    """Note that the data here is generated; `samples` by part."""
    (folder / GENERATED_MARKER).write_text(json.dumps({"samples": samples}))


def generated_samples(folder: Path, part: str) -> int | None:
    """Return how many samples a part of generated data has; None where the data is real."""
    path = folder / GENERATED_MARKER
    return int(json.loads(path.read_text())["samples"][part]) if path.exists() else None

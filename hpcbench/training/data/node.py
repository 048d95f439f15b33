"""What the ranks of a node have together: made by one of them, removed when the last one has gone. No torch.

A lock of the kernel (flock) says who is at work and who still uses it; it ends with the process, however that
ends. So a killed run leaves no lock, and the next run removes what it has left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOCK_ENDING = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network file systems


@dataclass
class Shared:
    """A file or folder that this process uses together with others; `release` it at the end."""

    path: Path
    _lock: Path
    _descriptor: int
    _keep: bool

    def forget(self) -> None:
        """Take the name away. Who has it mapped keeps it; nothing is left when they end, even if killed."""
        if not self._keep:
            remove(self.path)
        self._lock.unlink(missing_ok=True)

    def release(self) -> None:
        """Stop using it; the last one removes it."""
        if self._descriptor < 0:
            return
        if _lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_same(self._descriptor, self._lock):
            self.forget()
        os.close(self._descriptor)
        self._descriptor = -1


def share(path: Path, make: Callable[[Path], None], *, keep: bool = False) -> Shared:
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
                if _is_same(descriptor, lock):
                    _make_missing(path, make)
            else:  # somebody makes it, or has made it and uses it: wait until it may be shared
                _lock(descriptor, fcntl.LOCK_SH)
            if _is_same(descriptor, lock) and path.exists():
                _lock(descriptor, fcntl.LOCK_SH)
                return Shared(path, lock, descriptor, keep)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed meanwhile, or who made it has died: begin again


def _make_missing(path: Path, make: Callable[[Path], None]) -> None:
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        remove(temporary)


def sweep(folder: Path, prefix: str) -> list[Path]:
    """Remove what killed processes have left: names with this prefix whose lock nobody holds."""
    removed = []
    for lock in folder.glob(f"{prefix}*{LOCK_ENDING}"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue  # somebody else's, or gone by now
        if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_same(descriptor, lock):
            path = lock.with_name(lock.name.removesuffix(LOCK_ENDING))
            for each in (path, *folder.glob(f"{path.name}.*.part")):
                remove(each)
            lock.unlink(missing_ok=True)
            removed.append(path)
        os.close(descriptor)
    return removed


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock; False where somebody else has it. A file system without locks says yes to everybody."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

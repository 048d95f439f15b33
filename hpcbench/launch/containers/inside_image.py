"""Reports what is inside an image.

The text of this file is executed by the image's own Python (`python3 -c TEXT`): standard library only, old
Pythons included.
"""

import importlib.util
import json
import os
import sys
import tempfile


def version_of_hpcbench() -> object:
    """Return the version, None where it is not installed."""
    try:
        import hpcbench
    except ImportError:
        return None
    except SyntaxError:  # this Python is too old for the one that was brought along
        return None
    return hpcbench.__version__


def source_of_hpcbench() -> object:
    """Return what stands for its source, None where it can't say."""
    try:
        from hpcbench.runs.run_environment import source_digest

        return source_digest()
    except (ImportError, SyntaxError, OSError):  # an old Python, or folders of another version
        return None


def problem_of(place: str) -> object:
    """Return what is wrong with a folder, or None."""
    path = place[2:]
    if not os.path.exists(path):  # noqa: PTH110  an old pathlib raises where this answers
        return "is not there"
    if place[:1] == "w":
        try:
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            return f"can't be written to: {error.strerror}"
    return None


def free_shared_memory() -> object:
    """Return the bytes that are free in /dev/shm, None where there is no such thing."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


print(
    sys.argv[1]
    + json.dumps(
        {
            "python": list(sys.version_info[:3]),
            "hpcbench": version_of_hpcbench(),
            "source": source_of_hpcbench(),
            "torch": importlib.util.find_spec("torch") is not None,
            "shared_memory_bytes": free_shared_memory(),
            "folders": {place[2:]: problem_of(place) for place in sys.argv[2:]},
        }
    )
)

"""A rank that loads CIFAR into memory shared by its node and says what it has; for the tests of caches.

`python -m tests.data.rank memory FOLDER RANK SAMPLES`; each line on standard input lets it go on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from hpcbench.tasks.cifar_files import CifarPart
from hpcbench.tasks.image_cache import ImageCaches
from hpcbench.tasks.image_datasets import CifarDecoder
from hpcbench.training.loop import tensor_checksum
from tests.data.conftest import place


def main(folder: str, rank: int, samples: int) -> None:
    """Share the images, touch all of them, and wait."""
    rows = np.random.default_rng(0).integers(0, 256, (samples, 3072), np.uint8)
    decoder = CifarDecoder(CifarPart(rows, np.zeros(samples, np.int64), ("made up",)))
    caches = ImageCaches(place(Path(folder), Path(folder), rank), torch.device("cpu"))
    images = caches.in_memory(decoder, decoder.labels, "train")
    total = tensor_checksum({"pixels": images._pixels}, ["pixels"])
    path = caches._shared[0].path
    facts = {"checksum": total, "path": str(path), "inode": path.stat().st_ino}
    print(json.dumps(facts | _memory_of(path)), flush=True)
    sys.stdin.readline()
    caches.unlink_shared()
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline() if samples < 1000 else None
    caches.close()


def _memory_of(path: Path) -> dict[str, int]:
    """Return what the mapping of a file takes of this process: whole, and divided by those who share it."""
    kilobytes = {"Rss": 0, "Pss": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and name in kilobytes:
            kilobytes[name] += int(rest.split()[0])
    return {"resident_bytes": kilobytes["Rss"] * 1024, "proportional_bytes": kilobytes["Pss"] * 1024}


if __name__ == "__main__":
    main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

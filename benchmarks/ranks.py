"""Starting the processes of a benchmark that talk to each other, and reading what each has measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE_S = 280


def run_ranks(module: str, ranks: int, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run `python -m MODULE RANK FOLDER ARGUMENTS...` for each rank; returns what each wrote, by rank."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder), *arguments], cwd=ROOT, env=environment)
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0] * ranks
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def join(rank: int, ranks: int, folder: Path) -> None:
    """Join the other processes over gloo, with one thread each."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))


def leave(rank: int, folder: Path, figures: dict[str, Any]) -> None:
    """Write what this process has measured, and leave together."""
    import torch.distributed as dist

    (folder / f"{rank}.json").write_text(json.dumps(figures))
    dist.barrier()
    dist.destroy_process_group()

"""One rank of real runs: `python -m tests.audit.rank RANK PROCESSES RESULTS` does those of its size."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hpcbench.runs.placement import Placement
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.training import training_run
from hpcbench.training.session import RankSession


def main(rank: int, processes: int, results: Path) -> None:
    """Train this rank's part of every run that has so many processes, in the same order on each."""
    for _, _, folder in ResultsFolder(results).runs():
        spec = RunSpec.from_json(json.loads(folder.spec.read_text())["spec"])
        if spec.processes != processes:
            continue
        place = Placement(
            run_folder=str(folder.path), attempt=1, rank=rank, processes=processes, local_rank=rank,
            process_start_ns=time.time_ns(),
        )  # fmt: skip
        with EventWriter(folder.events(1, rank), run_id=spec.run_id, attempt=1, rank=rank) as writer:
            training_run.run_training_rank(RankSession(spec, None, place, writer))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""Entry point of every rank: `python -m hpcbench.training.worker`. No other module imports it.

Exit status: 0 finished; 1 failed, and the record has the reason; 128 + the signal's number after a signal.
"""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from hpcbench.errors import InputError
from hpcbench.runs.events import Interrupted, RunFailed
from hpcbench.runs.placement import Placement
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import RunFolder, read_spec_json
from hpcbench.runs.run_environment import bind_to_cores
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks.data_check import find_data_problem
from hpcbench.tasks.task_registry import DATASETS
from hpcbench.training.session import RankSession, StopRequestedError, find_out_of_memory

TIMEOUT_WORDS = re.compile(r"timed out|timeout", re.IGNORECASE)  # gloo's and NCCL's words

# Loaded by name: hpcbench.ceilings.probe imports hpcbench.training.
RUN_PROBE_RANK = "hpcbench.ceilings.probe.probe_process:run_probe_rank"


def main() -> int:
    """Do this process's part of a run."""
    placement = Placement.from_environment(os.environ)
    if placement is None:
        print("hpcbench.training.worker is started by `hpcbench run` or `hpcbench submit`", file=sys.stderr)
        return 2
    folder = RunFolder(Path(placement.run_folder))
    stored = read_spec_json(folder)
    spec = RunSpec.from_json(stored["spec"])
    path = folder.events(placement.attempt, placement.rank)
    writer = EventWriter(path, run_id=spec.run_id, attempt=placement.attempt, rank=placement.rank)
    bind_to_cores(placement.cores)
    session = RankSession(spec, stored.get("declared"), placement, writer)
    session.install_stop_handlers()
    status = _run_and_record(session)
    writer.close()
    return status


def _run_and_record(session: RankSession) -> int:
    try:
        _run_rank(session)
    except StopRequestedError as request:
        session.record(Interrupted(reason="told to stop", signal=str(request)))
        return 128 + (session.stop_signal or signal.SIGTERM).value  # perhaps only a peer received it
    except Exception as error:  # noqa: BLE001  every error that ends a rank is recorded
        traceback.print_exc()
        session.record(_failure(session, error))
        return 1
    return 0


def _run_rank(session: RankSession) -> None:
    if session.folder.probe.exists():
        check_data_early(session)
        pkgutil.resolve_name(RUN_PROBE_RANK)(session)
    elif not STRATEGIES[session.spec.strategy].trains:
        from hpcbench.training import noop_loop

        noop_loop.run_noop(session)
    else:
        check_data_early(session)
        from hpcbench.training import training_run

        training_run.run_training_rank(session)


def check_data_early(session: RankSession) -> None:
    """Raise InputError for missing data before torch is imported, which takes seconds: once per node.

    Data of `--smoke` are generated here, whatever real data there may be.
    """
    if session.spec.smoke and DATASETS[session.spec.dataset].needs_files:
        from hpcbench.tasks.smoke_data import smoke_folder

        folder = smoke_folder(session.spec, session.folder)
        session.placement = replace(session.placement, data=str(folder))
    elif session.placement.local_rank == 0:
        problem = find_data_problem(
            session.spec.dataset, session.placement.data, session.spec.dataset_options
        )
        if problem:
            raise InputError(problem)


def _failure(session: RankSession, error: Exception) -> RunFailed:
    memory = find_out_of_memory(error)
    return RunFailed(
        reason=_reason(session, error),
        phase=session.phase,
        exception="".join(traceback.format_exception(error))[-8000:],
        limit="memory" if memory else None,
        asked_bytes=memory.asked_bytes if memory else None,
        failed_rank=session.placement.rank,
    )


def _reason(session: RankSession, error: Exception) -> str:
    """Return the first line of an error; for a time-out also what it means."""
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, RuntimeError) and TIMEOUT_WORDS.search(message) and session.spec.processes > 1:
        return f"another rank did not answer within timeout_s, {session.spec.timeout_s:g} s ({message})"
    return message


def _exit(status: int) -> NoReturn:
    """End the process, after a failure without tearing down a process group whose peers are gone.

    Gloo's destructors abort the process then, at times, and its exit status would no longer be the run's.
    """
    if status == 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _exit(main())

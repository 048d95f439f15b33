"""What every rank executes: `python -m hpcbench.training.worker`, started by a supervisor or a launcher.

Exit status: 0 finished; 1 failed, and the record says why; 128 + the signal's number if it was told to stop.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from hpcbench.config.placement import Placement
from hpcbench.errors import InputError
from hpcbench.measure.environment import bind_to
from hpcbench.records.events import Interrupted, RunFailed
from hpcbench.records.layout import RunFolder
from hpcbench.records.writer import EventWriter
from hpcbench.strategies import STRATEGIES
from hpcbench.training.data import DATASETS
from hpcbench.training.data.check import find_problem
from hpcbench.training.limits import out_of_memory
from hpcbench.training.session import Session, StopRequestedError, read_spec

TIMED_OUT = re.compile(r"timed out|timeout", re.IGNORECASE)  # gloo's and NCCL's words


def main() -> int:
    """Do this process's part of a run."""
    placement = Placement.from_environment(os.environ)
    if placement is None:
        print("hpcbench.training.worker is started by `hpcbench run` or `hpcbench submit`", file=sys.stderr)
        return 2
    folder = RunFolder(Path(placement.run_folder))
    spec, declared = read_spec(folder)
    path = folder.events(placement.attempt, placement.rank)
    writer = EventWriter(path, run_id=spec.run_id, attempt=placement.attempt, rank=placement.rank)
    bind_to(placement.cores)
    session = Session(spec, declared, placement, writer)
    session.listen_for_stop()
    status = _guarded(session)
    writer.close()
    return status


def _guarded(session: Session) -> int:
    try:
        _train(session)
    except StopRequestedError as request:
        session.record(Interrupted(reason="told to stop", signal=str(request)))
        return 128 + (session.stop_signal or signal.SIGTERM).value  # a peer may have heard it alone
    except Exception as error:  # noqa: BLE001  whatever ends a rank has to stand in its record
        traceback.print_exc()
        session.record(_failure(session, error))
        return 1
    return 0


def _train(session: Session) -> None:
    if session.folder.probe.exists():
        check_data_early(session)
        from hpcbench.training import probing

        probing.run(session)
    elif STRATEGIES[session.spec.strategy].torch_free:
        from hpcbench.training import pretend

        pretend.run(session)
    else:
        check_data_early(session)
        from hpcbench.training import train

        train.run(session)


def check_data_early(session: Session) -> None:
    """Raise InputError for missing data before torch is imported, which takes seconds: once per node.

    Data of `--smoke` are generated here, whatever real data there may be.
    """
    if session.spec.smoke and DATASETS[session.spec.dataset].needs_files:
        from hpcbench.training.data.smoke import smoke_folder

        folder = smoke_folder(session.spec, session.folder)
        session.placement = replace(session.placement, data=str(folder))
    elif session.placement.local_rank == 0:
        problem = find_problem(session.spec.dataset, session.placement.data, session.spec.dataset_options)
        if problem:
            raise InputError(problem)


def _failure(session: Session, error: Exception) -> RunFailed:
    memory = out_of_memory(error)
    return RunFailed(
        reason=_reason(session, error),
        phase=session.phase,
        exception="".join(traceback.format_exception(error))[-8000:],
        limit="memory" if memory else None,
        asked_bytes=memory.asked_bytes if memory else None,
        failed_rank=session.placement.rank,
    )


def _reason(session: Session, error: Exception) -> str:
    """Return the first line of an error; of a time-out also what it means, which its words seldom say."""
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, RuntimeError) and TIMED_OUT.search(told) and session.spec.processes > 1:
        return f"another rank did not answer within timeout_s, {session.spec.timeout_s:g} s ({told})"
    return told


def _leave(status: int) -> NoReturn:
    """End the process, after a failure without tearing down a process group whose peers are gone.

    Gloo's destructors abort the process then, at times, and its exit status would no longer be the run's.
    """
    if status == 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())

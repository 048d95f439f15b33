"""What every rank executes: `python -m hpcbench.training.worker`, started by a supervisor or a launcher.

Exit status: 0 finished; 1 failed, and the record says why; 128 + the signal's number if it was told to stop.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from hpcbench.config.placement import Placement
from hpcbench.records.events import Interrupted, RunFailed
from hpcbench.records.layout import RunFolder
from hpcbench.records.writer import EventWriter
from hpcbench.strategies import STRATEGIES
from hpcbench.training.session import Session, StopRequestedError, read_spec

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")


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
        assert session.stop_signal is not None
        return 128 + session.stop_signal.value
    except Exception as error:  # noqa: BLE001  whatever ends a rank has to stand in its record
        traceback.print_exc()
        session.record(_failure(session, error))
        return 1
    return 0


def _train(session: Session) -> None:
    if STRATEGIES[session.spec.strategy].torch_free:
        from hpcbench.training import pretend

        pretend.run(session)
    else:
        from hpcbench.training import train

        train.run(session)


def _failure(session: Session, error: Exception) -> RunFailed:
    name = type(error).__name__
    return RunFailed(
        reason=f"{name}: {error}".splitlines()[0],
        phase=session.phase,
        exception="".join(traceback.format_exception(error))[-8000:],
        limit="memory" if name in OUT_OF_MEMORY else None,
        failed_rank=session.placement.rank,
    )


if __name__ == "__main__":
    sys.exit(main())

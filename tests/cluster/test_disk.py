"""How much disk runs are said to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.submission import disk_bytes, format_bytes
from hpcbench.launch.supervisor import supervise
from hpcbench.sweep.run_spec import RunSpec
from tests.cluster.helpers import noop
from tests.cluster.test_supervisor import task_of

SMALLCONV_BYTES = 4 * CATALOG.models["smallconv"].parameters
TRAINED = RunSpec(
    name="run",
    strategy="ddp",
    backend="gloo",
    ranks=2,
    data_shards=2,
    batch_size=128,
    epochs=4,
    window_steps=2,
    checkpoint="epoch",
    save_weights=True,
)


@pytest.mark.parametrize("spec", [noop(), TRAINED], ids=lambda spec: spec.strategy)
def test_a_run_takes_no_more_than_was_said_and_not_much_less(spec: RunSpec, tmp_path: Path) -> None:
    """What a real run leaves in its folder is less than what was said before, and more than a fifth of it."""
    assert supervise(task_of(tmp_path / "run", spec), SupervisorInbox()).state == "finished"
    taken = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    said = disk_bytes(spec, CATALOG)
    assert said / 5 < taken <= said, f"{taken} bytes of {said}"


def test_checkpoints_count_for_every_rank() -> None:
    """Each rank keeps model and momentum twice; without checkpoints only records and weights are left."""
    without = disk_bytes(replace(TRAINED, checkpoint="none"), CATALOG)
    for ranks in (2, 4):
        more = replace(TRAINED, ranks=ranks, data_shards=ranks, epochs=None, steps=1)
        kept = disk_bytes(more, CATALOG) - disk_bytes(replace(more, checkpoint="none"), CATALOG)
        assert ranks * 2 * 2 * SMALLCONV_BYTES < kept < 1.1 * ranks * 2 * 2 * SMALLCONV_BYTES
    assert disk_bytes(replace(TRAINED, checkpoint="none", save_weights=False), CATALOG) == (
        without - SMALLCONV_BYTES
    )


def test_sizes_are_readable() -> None:
    """Three figures and a unit."""
    assert [format_bytes(size) for size in (0, 999, 1_234_567, 5 * 10**12)] == [
        "0 bytes", "999 bytes", "1.23 MB", "5 TB",
    ]  # fmt: skip

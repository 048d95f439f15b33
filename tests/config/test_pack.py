from __future__ import annotations

from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep.sweep_loading import dump_sweep, load_sweep

RUNS = "version: 1\nruns: [{strategy: noop, ranks: 1}]\n"


def load(folder: Path, text: str):  # type: ignore[no-untyped-def]
    """Read a sweep file of this text."""
    path = folder / "sweep.yaml"
    path.write_text(text)
    return load_sweep([path], CATALOG)


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("false", False), ("3", 3)])
def test_how_runs_are_packed_survives_reading_back(tmp_path: Path, text: str, meant: bool | int) -> None:
    """`pack` is true by default, and the resolved sweep has it."""
    assert load(tmp_path, RUNS).pack is True
    sweep = load(tmp_path, f"{RUNS}pack: {text}\n")
    assert sweep.pack == meant and type(sweep.pack) is type(meant)
    assert load(tmp_path, dump_sweep(sweep)).pack == meant


@pytest.mark.parametrize("text", ["0", "-1", "null", "yes", "1.5", "[1]"])
def test_bad_pack_is_refused(tmp_path: Path, text: str) -> None:
    """The message names the line and what is allowed."""
    with pytest.raises(
        InputError, match=r"sweep.yaml:3: pack: not a way to pack runs .*allowed: true, false"
    ):
        load(tmp_path, f"{RUNS}pack: {text}\n")


def test_keeping_checkpoints_changes_no_identity(tmp_path: Path) -> None:
    """A run is the same run whether it keeps checkpoints or not."""
    plain, keeping = (
        load(tmp_path, RUNS.replace("ranks: 1", f"ranks: 1, checkpoint: {policy}")).runs[0]
        for policy in ("auto", "epoch")
    )
    assert keeping.checkpoint == "epoch" and plain.run_id == keeping.run_id

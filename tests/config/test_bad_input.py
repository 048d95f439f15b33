"""Every mistake in a sweep file has one message with the problem, its place and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep.sweep_loading import load_sweep
from tests.config.files import HEAD, KINDS, RUN, load, names, refusal, write
from tests.config.mistakes import CASES


@pytest.mark.parametrize("case", CASES)
def test_message_names_place_key_finding_and_remedy(case: str, tmp_path: Path) -> None:
    """Each mistake is refused with its file, line, key, what was found and what to do."""
    text, place, found, remedy = CASES[case]
    message = refusal(tmp_path, text)
    assert message.startswith(place), message
    assert found in message, message
    assert remedy in message, message
    assert "\n" not in message and len(message) < 700


def test_more_runs_than_a_sweep_may_have_are_refused_before_they_are_made(tmp_path: Path) -> None:
    """A grid of 800,000 is refused from its axes alone."""
    grid = f"{{seed: {list(range(1000))}, ranks: {list(range(1, 801))}}}"
    text = f"{HEAD}runs:\n  - strategy: ddp\n    grid: {grid}\n"
    message = refusal(tmp_path, text)
    assert message.startswith("s.yaml:6: runs[0].grid: too many runs (found 800000; allowed: up to 20,000")


def test_repeats_count_as_runs(tmp_path: Path) -> None:
    """A thousand repeats of twenty-one runs are more than a sweep may have."""
    text = (
        f"{HEAD}runs:\n  - strategy: noop\n    ranks: 1\n    repeats: 1000\n    grid: {{batch_size: SIZES}}\n"
    )
    message = refusal(tmp_path, text.replace("SIZES", str(list(range(1, 22)))))
    assert re.search(r"too many runs, repeats included \(found 21000; allowed: up to 20,000", message)


def test_axes_in_several_files_count_together(tmp_path: Path) -> None:
    """The limit is that of the sweep, not of one file."""
    grid = (
        f"runs:\n  - strategy: noop\n    grid: {{seed: {list(range(150))}, ranks: {list(range(1, 101))}}}\n"
    )
    write(tmp_path, f"{HEAD}{grid}", "other.yaml")
    assert "found 30000" in refusal(tmp_path, f"{HEAD}include: [other.yaml]\n{grid}")


def test_strategy_may_refuse_a_run(tmp_path: Path) -> None:
    """A strategy's own reason is part of the message, which names the line of the strategy."""
    text = f"{HEAD}runs:\n  - ranks: 2\n    strategy: picky\n"
    assert (
        refusal(tmp_path, text, KINDS) == "s.yaml:6: runs[0].strategy: strategy picky: only with three ranks"
    )


def test_excluded_combination_may_be_impossible(tmp_path: Path) -> None:
    """An impossible combination is no error if it is excluded."""
    grid = "grid: {ranks: [1, 3], global_batch: [64, 96]}"
    text = f"{HEAD}runs:\n  - strategy: ddp\n    {grid}\n"
    assert "does not split" in refusal(tmp_path, text)
    sweep = load(tmp_path, f"{text}    exclude: [{{ranks: 3, global_batch: 64}}]\n")
    assert names(sweep) == ["ddp_bs64x1", "ddp_bs96x1", "ddp_bs32x3"]


def test_cycle_of_includes_is_listed_file_by_file(tmp_path: Path) -> None:
    """The message lists the files of the cycle."""
    write(tmp_path, f"version: 1\ninclude: [c.yaml]\n{RUN}", "b.yaml")
    write(tmp_path, f"version: 1\ninclude: [s.yaml]\n{RUN}", "c.yaml")
    message = refusal(tmp_path, f"{HEAD}include: [b.yaml]\n{RUN}")
    assert message.startswith("c.yaml:2: include[0]")
    assert "s.yaml includes b.yaml includes c.yaml includes s.yaml" in message


def test_mistake_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    """The line is that of the included file."""
    write(tmp_path, "version: 1\nruns:\n  - strategy: ddpp\n", "sub/b.yaml")
    assert refusal(tmp_path, f"{HEAD}include: [sub/b.yaml]\n").startswith("sub/b.yaml:3: runs[0].strategy")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """A missing file and a folder are refused by name."""
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        load_sweep([tmp_path / name], CATALOG)

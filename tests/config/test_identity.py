"""What makes two runs the same run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from hpcbench.sweep.run_spec import Optimizer, Resources, RunSpec, flatten_fields

SPEC = RunSpec(name="a", strategy="ddp", ranks=2, data_shards=2, epochs=3)


@dataclass(frozen=True, kw_only=True)
class LaterRunSpec(RunSpec):
    """A run as a later hpcbench may describe it."""

    new_field: int = 7


def test_later_field_changes_no_run_id() -> None:
    """Results stay the same runs when hpcbench learns to say more about them."""
    later = LaterRunSpec(name="a", strategy="ddp", ranks=2, data_shards=2, epochs=3)
    assert later.run_id == SPEC.run_id
    assert replace(later, new_field=8).run_id != SPEC.run_id


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"ranks": 4}, {"device": "cuda"}, {"optimizer": Optimizer(lr=0.2)}, {"batch_size": 65}],
)
def test_what_changes_learning_or_speed_changes_the_id(change: dict[str, object]) -> None:
    """Seed, ranks, device class and recipe are part of the identity."""
    assert replace(SPEC, **change).run_id != SPEC.run_id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"name": "b"}, {"repeat": 2}, {"save_weights": True}, {"resources": Resources(time="05:00:00")}],
)
def test_names_and_limits_change_no_id(change: dict[str, object]) -> None:
    """The name, the time limit and what is kept afterwards are no part of it."""
    assert replace(SPEC, **change).run_id == SPEC.run_id  # type: ignore[arg-type]


def test_flat_fields_have_dotted_paths_and_no_empty_maps() -> None:
    """Nested maps become dotted paths; lists and null stay values."""
    nested = {"a": 1, "b": {"c": {"d": None}, "e": [1, {"f": 2}]}, "options": {}}
    assert flatten_fields(nested) == {"a": 1, "b.c.d": None, "b.e": [1, {"f": 2}]}

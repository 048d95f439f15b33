"""One name, one run: duplicates of names and of content."""

from __future__ import annotations

from collections.abc import Sequence

from hpcbench.config.document import At
from hpcbench.config.plan import MAX_RUNS, Planned
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError, input_error


def merge_same(runs: Sequence[Planned]) -> list[Planned]:
    """Drop runs that another file has too, name and content alike; raises InputError for other duplicates."""
    by_name: dict[str, Planned] = {}
    for run in runs:
        earlier = by_name.setdefault(run.name, run)
        if earlier is run:
            continue
        same_file = _file(earlier.at) == _file(run.at)
        if same_file or (earlier.spec, earlier.repeats) != (run.spec, run.repeats):
            raise _two_of_one_name(earlier, run)
    return list(by_name.values())


def refuse_too_many(runs: Sequence[Planned]) -> None:
    """Raise for more runs, repeats included, than a sweep may have."""
    total = 0
    for run in runs:
        total += run.repeats
        if total > MAX_RUNS:
            raise input_error(
                "too many runs, repeats included",
                **run.at,
                found=sum(each.repeats for each in runs),
                allowed=f"up to {MAX_RUNS:,} in a sweep",
            )


def refuse_same_id(runs: Sequence[Planned]) -> None:
    """Raise where two names stand for the same run, in any of their repeats."""
    by_id: dict[str, tuple[Planned, RunSpec]] = {}
    for run in runs:
        for spec in run.specs:
            other, other_spec = by_id.setdefault(spec.run_id, (run, spec))
            if other is not run:
                which = "" if (spec.repeat, other_spec.repeat) == (0, 0) else f" in seed {spec.seed}"
                raise input_error(
                    f"{other.name} (from {other.at['place']}) and {run.name} are the same run{which}",
                    **run.at,
                    found=run.name,
                    hint="Drop one of them, or let them differ in something that changes learning or speed",
                )


def _two_of_one_name(earlier: Planned, run: Planned) -> InputError:
    one, other = earlier.spec.to_json(), run.spec.to_json()
    differing = [key for key, value in one.items() if value != other[key]]
    if earlier.repeats != run.repeats:
        differing.append("repeats")
    how = f"they differ in {', '.join(differing)}" if differing else "they are the same"
    return input_error(
        f"two runs have this name, the first from {earlier.at['place']}, and {how}",
        **run.at,
        found=run.name,
        hint="Give each a name of its own, with {field} in it for a grid" if differing else "Drop one",
    )


def _file(at: At) -> str | None:
    return at["place"].file if at["place"] else None

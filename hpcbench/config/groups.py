"""Which runs a group compares."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from hpcbench.config.fields import Pattern, read
from hpcbench.config.plan import Planned
from hpcbench.config.schema import did_you_mean
from hpcbench.config.sections import GroupEntry
from hpcbench.config.spec import Group
from hpcbench.errors import InputError, input_error


def select(entry: GroupEntry, runs: Sequence[Planned]) -> Group:
    """Return the group with its runs, in the sweep's order; raises InputError where there are none."""
    if entry.runs is not None:
        names = _by_globs(entry, [run.name for run in runs])
    else:
        names = [run.name for run in runs if entry.where is None or entry.where.matches(run.spec)]
        if not names:
            raise _empty(entry, runs)
    return Group(id=entry.id, title=entry.title, factor=entry.factor, runs=tuple(dict.fromkeys(names)))


def _by_globs(entry: GroupEntry, names: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for number, glob in enumerate(entry.runs or ()):
        matching = {name for name in names if fnmatchcase(name, glob)}
        if not matching:
            raise input_error(
                "no run has such a name",
                **entry.at("runs", number),
                found=glob,
                hint=did_you_mean(glob, names) or f"Runs are: {', '.join(names[:5])}",
            )
        chosen |= matching
    if not chosen:
        raise input_error("the group is empty: it names no runs", **entry.at("runs"))
    return [name for name in names if name in chosen]


def _empty(entry: GroupEntry, runs: Sequence[Planned]) -> InputError:
    conditions = entry.where.conditions if entry.where else ()
    for path, wanted in conditions:
        if not any(Pattern(((path, wanted),)).matches(run.spec) for run in runs):
            there = sorted({str(read(run.spec, path)) for run in runs if hasattr(run.spec, path)})
            return input_error(
                "the group is empty: no run has this",
                **entry.at("where", path),
                found=list(wanted) if len(wanted) > 1 else wanted[0],
                allowed=", ".join(there[:10]) or None,
            )
    hint = "Each condition fits some run, all of them together fit none" if conditions else None
    return input_error("the group is empty: no run matches", **entry.at("where"), hint=hint)

"""What is judged: the finished repeats of each row, and which rows are compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from hpcbench.analysis.run_figures import FinishedRepeat
from hpcbench.analysis.run_history import RecordedState
from hpcbench.ceilings.node_ceilings import Ceilings
from hpcbench.sweep.run_spec import Group, RunSpec

if TYPE_CHECKING:
    from hpcbench.analysis.results_loading import LoadedResults

HashableValue = TypeVar("HashableValue", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class AuditedRow:
    """A row of the ranking: the finished repeats of one run, at least one."""

    experiment: str
    repeats: tuple[FinishedRepeat, ...]

    @property
    def spec(self) -> RunSpec:
        """The run, with the seed of its first finished repeat."""
        return self.repeats[0].spec


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """Rows that stand beside each other. `factor` is what a group says that it compares; a class has none."""

    title: str
    rows: tuple[AuditedRow, ...]
    factor: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditEvidence:
    """Everything that is audited."""

    rows: tuple[AuditedRow, ...] = ()
    classes: tuple[RowComparison, ...] = ()
    groups: tuple[RowComparison, ...] = field(default=())
    ceilings: Ceilings = field(default_factory=Ceilings)


def collect_evidence(loaded: LoadedResults, groups: Sequence[Group] = ()) -> AuditEvidence:
    """Return what can be judged of results folders, and how it is compared."""
    repeats: dict[str, list[FinishedRepeat]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)  # as a sweep says it -> as the ranking does
    for experiment, run in loaded.keyed:
        if run.spec is not None and run.history.state is RecordedState.FINISHED:
            kept = run.digest
            repeats[experiment].append(
                FinishedRepeat(
                    experiment=experiment, spec=run.spec, history=run.history, figures=kept.figures,
                    first_losses=kept.first_losses, observed=kept.observed,
                )
            )  # fmt: skip
            names[run.name].add(experiment)
    rows = {
        name: AuditedRow(experiment=name, repeats=tuple(found)) for name, found in sorted(repeats.items())
    }
    return AuditEvidence(
        rows=tuple(rows.values()), classes=_classes(rows.values()),
        groups=tuple(_groups(rows, names, groups)), ceilings=loaded.ceilings,
    )  # fmt: skip


def _classes(rows: Iterable[AuditedRow]) -> tuple[RowComparison, ...]:
    by_recipe: dict[str, list[AuditedRow]] = defaultdict(list)
    for row in rows:
        by_recipe[row.spec.recipe].append(row)
    return tuple(RowComparison(title=recipe, rows=tuple(found)) for recipe, found in by_recipe.items())


def _groups(
    rows: Mapping[str, AuditedRow], names: Mapping[str, set[str]], groups: Sequence[Group]
) -> Iterable[RowComparison]:
    for group in groups:
        members = [rows[name] for run in group.runs for name in sorted(names.get(run, ()))]
        yield RowComparison(title=f"{group.id} ({group.title})", rows=tuple(members), factor=group.factor)


def most_frequent(values: Sequence[HashableValue]) -> HashableValue:
    """Return the most frequent of at least one value; of several equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]

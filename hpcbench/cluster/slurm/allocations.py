"""Which runs go into which allocation, and what each allocation asks for."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hpcbench.cluster.probing import probing_limits_s
from hpcbench.cluster.profile import Profile
from hpcbench.cluster.seats import largest_share
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError

# From the start of a job to that of its first rank, and between two runs: file systems can be slow.
START_S, BETWEEN_S = 120, 15
# How long before the end of an allocation the ranks are told to save and leave.
NOTICE_S, SHORTEST_NOTICE_S, NOTICE_SHARE = 120, 15, 0.25


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One job: `runs` in the order in which they are done, or, in an `array`, one for each element."""

    runs: tuple[RunSpec, ...]
    array: bool
    nodes: int
    gpus: int  # of a node
    cpus: int  # of a node
    time_s: int

    @property
    def minutes(self) -> int:
        """The time limit as Slurm counts."""
        return math.ceil(self.time_s / 60)

    def notice_s(self, profile: Profile) -> int:
        """Return how long before its end the job is told; a short job has not much to give away."""
        usual = min(NOTICE_S, max(SHORTEST_NOTICE_S, int(self.minutes * 60 * NOTICE_SHARE)))
        return profile.signal_before_s or usual


def allocate(
    runs: Sequence[RunSpec], profile: Profile, pack: bool | int, *, longest_s: int | None, largest_array: int
) -> list[Allocation]:
    """Group runs that need the same nodes, and cut the groups as `pack` says.

    `longest_s` is the most time that the partition grants, `largest_array` how many elements an array can
    have: the limit is one of the index, so each array begins at 0 again.
    """
    classes: dict[tuple[int, ...], list[RunSpec]] = defaultdict(list)
    for spec in runs:
        needed = spec.resources
        # Runs on CPUs differ in how many cores they use; on an exclusive node that makes no difference.
        cores = () if profile.exclusive else (_cpus(spec),)
        alone = (needed.time_s,) if pack is False else ()
        classes[needed.nodes, _gpus(spec), *cores, *alone].append(spec)
    cap = min(filter(None, (profile.time_s, longest_s)), default=None)
    found = []
    for members in classes.values():
        if pack is False:
            chunks = [members[at : at + largest_array] for at in range(0, len(members), largest_array)]
        else:
            ordered = shuffled_inside_repeats(members)
            parts = 1 if pack is True else min(pack, len(ordered))
            chunks = [
                ordered[len(ordered) * k // parts : len(ordered) * (k + 1) // parts] for k in range(parts)
            ]
        found += [_allocation(chunk, profile, cap, array=pack is False) for chunk in chunks]
    return found


def shuffled_inside_repeats(runs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return every run's first repeat in some order, then every run's second in another, always the same."""
    blocks: dict[int, list[RunSpec]] = defaultdict(list)
    for spec in runs:
        blocks[spec.repeat].append(spec)
    for repeat, block in blocks.items():
        random.Random(repeat).shuffle(block)
    return [spec for repeat in sorted(blocks) for spec in blocks[repeat]]


def _allocation(runs: Sequence[RunSpec], profile: Profile, cap: int | None, *, array: bool) -> Allocation:
    limits = [spec.resources.time_s for spec in runs]
    if not array:
        limits += probing_limits_s(runs)
    needed = START_S + (max(limits) if array else sum(limits) + BETWEEN_S * (len(limits) - 1))
    return Allocation(
        runs=tuple(runs),
        array=array,
        nodes=runs[0].resources.nodes,
        gpus=_gpus(runs[0]),
        cpus=max(map(_cpus, runs)),
        time_s=min(needed, cap) if cap else needed,
    )


def _gpus(spec: RunSpec) -> int:
    return spec.resources.gpus_per_node if spec.device == "cuda" else 0


def _cpus(spec: RunSpec) -> int:
    """Return the cores of a node that a run wants: those of its GPUs, or one for each process."""
    return spec.resources.cpus_per_gpu * max(_gpus(spec), largest_share(spec))


def check_against(profile: Profile, runs: Sequence[RunSpec]) -> None:
    """Raise InputError for a run that no node of the profile can take."""
    for spec in runs:
        for what, wanted, there in (
            ("GPUs", _gpus(spec), profile.gpus_per_node),
            ("CPUs", _cpus(spec), profile.cpus_per_node),
        ):
            if there is not None and wanted > there:
                raise InputError(
                    f"{spec.name}: it needs {wanted} {what} of a node, and a node of this profile has "
                    f"{there}; nothing was submitted"
                )

"""Which runs share an allocation, the batch script of each allocation, and the script templates in
`slurm/` (`python -m hpcbench.launch.slurm.batch_script slurm`).
"""

from __future__ import annotations

import math
import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import InputError
from hpcbench.launch.slurm.slurm_profile import Profile
from hpcbench.runs.placement import most_ranks_per_node
from hpcbench.sweep.run_spec import RunSpec

# From the start of a job to that of its first rank, and between two runs: file systems can be slow.
JOB_START_S, BETWEEN_RUNS_S = 120, 15
# How long before the end of an allocation the ranks are asked to save and leave.
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
        """Return how long before its end the job is signalled; a short job has little time to spare."""
        usual = min(NOTICE_S, max(SHORTEST_NOTICE_S, int(self.minutes * 60 * NOTICE_SHARE)))
        return profile.signal_before_s or usual


def allocate(
    runs: Sequence[RunSpec], profile: Profile, pack: bool | int, *, longest_s: int | None, largest_array: int
) -> list[Allocation]:
    """Group runs that need the same nodes, and cut the groups by `pack`.

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
        from hpcbench.ceilings.probe_plan import probe_time_limits_s

        limits += probe_time_limits_s(runs)
    needed = JOB_START_S + (max(limits) if array else sum(limits) + BETWEEN_RUNS_S * (len(limits) - 1))
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
    return spec.resources.cpus_per_gpu * max(_gpus(spec), most_ranks_per_node(spec))


def check_against(profile: Profile, runs: Sequence[RunSpec]) -> None:
    """Raise InputError for a run that no node of the profile can take."""
    for spec in runs:
        for what, wanted, available in (
            ("GPUs", _gpus(spec), profile.gpus_per_node),
            ("CPUs", _cpus(spec), profile.cpus_per_node),
        ):
            if available is not None and wanted > available:
                raise InputError(
                    f"{spec.name}: it needs {wanted} {what} of a node, and a node of this profile has "
                    f"{available}; nothing was submitted"
                )


COLLECT_LIMIT_MIN = 30


@dataclass(frozen=True, kw_only=True)
class BatchScript:
    """What sbatch is given: `options` by their long names (True: a flag, None: absent), `extra` verbatim.

    submitit writes such scripts, too, but only for a pickled function, which it moves beside the job after
    sbatch has answered: a submitter that dies in between leaves a job that can't start (submitit#1624). A job
    of ours finds all that it needs in its plan, which is written before it is submitted.
    """

    options: Mapping[str, str | int | bool | None]
    command: str
    setup: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole batch script."""
        arguments = [
            f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}"
            for name, value in sorted(self.options.items())
            if value is not None
        ]
        lines = ["# Parameters", *(f"#SBATCH {argument}" for argument in (*self.extra, *arguments))]
        if self.setup:
            lines += ["", "# setup", *self.setup]
        return "\n".join(["#!/bin/bash", "", *lines, "", "# command", self.command, ""])


def batch_script_for(
    allocation: Allocation,
    profile: Profile,
    *,
    name: str,
    folder: Path,
    command: str,
    parallel: int | None = None,
) -> BatchScript:
    """Return the script of an allocation; its output goes into `folder`, a file for each node."""
    job, array = "%j", None
    if allocation.array:
        count = len(allocation.runs)
        job, array = "%A_%a", f"0-{count - 1}%{min(count, parallel or profile.max_parallel or count)}"
    # The supervisor places its ranks itself, on all cores of the job; a dead one takes the step with it.
    step = ["srun", "--unbuffered", "--output", f"{folder}/{job}_%t_log.out"]
    step += ["--cpu-bind=none", "--kill-on-bad-exit=1"]
    return BatchScript(
        options={**_node_options(allocation, profile, name), "array": array, "output": _output(folder, job)},
        command=f"{shlex.join(step)} {command}",
        setup=_setup_lines(profile),
        extra=profile.extra,
    )


def collector_script_for(
    profile: Profile, *, name: str, folder: Path, command: str, after: Sequence[str]
) -> BatchScript:
    """Return the script of the job that collects when others are over."""
    return BatchScript(
        options={
            "job-name": name,
            "time": COLLECT_LIMIT_MIN,
            "nodes": 1,
            "ntasks-per-node": 1,
            "cpus-per-task": 1,
            "dependency": f"afterany:{':'.join(after)}",
            "open-mode": "append",
            "output": _output(folder, "%j"),
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
        },
        command=command,
        setup=_setup_lines(profile),
        extra=profile.extra,
    )


def _output(folder: Path, job: str) -> str:
    return f"{folder}/{job}_0_log.out"


def _node_options(allocation: Allocation, profile: Profile, name: str) -> dict[str, str | int | bool | None]:
    return {
        "job-name": name,
        "time": allocation.minutes,
        "nodes": allocation.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": allocation.cpus,
        "exclusive": profile.exclusive or None,
        "signal": f"USR2@{allocation.notice_s(profile)}",
        "open-mode": "append",
        # After a node has failed, or a more urgent job has taken it, the runs that are left are done later.
        "requeue": True,
        "mem": profile.memory or (0 if profile.exclusive else None),
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "reservation": profile.reservation,
        **_gpu_request(allocation, profile),
    }


def _gpu_request(allocation: Allocation, profile: Profile) -> dict[str, str]:
    if not allocation.gpus:
        return {}
    amount = f"{profile.gpu_type}:{allocation.gpus}" if profile.gpu_type else str(allocation.gpus)
    value = f"gpu:{amount}" if profile.gpu_request == "gres" else amount
    return {profile.gpu_request.replace("_", "-"): value}


def _setup_lines(profile: Profile) -> tuple[str, ...]:
    exports = (f"export {name}={shlex.quote(value)}" for name, value in profile.env.items())
    return (*exports, *profile.setup)


TEMPLATE_HEADER = """\
# {what}: sbatch {name} SWEEP.yaml [--results DIR ...]
#
# Written by `python -m hpcbench.launch.slurm.batch_script`; `hpcbench submit` from the login node does all of
# this by itself. Set what your site wants (partition, account) and what your runs need. Inside the allocation
# hpcbench does the runs one after the other; submitted again, it does what is left.
"""
TEMPLATE_COMMAND = 'exec hpcbench submit "$@" --executor auto --wait'
GPUS, CPUS, HOURS = 4, 32, 8
TEMPLATES = {"one_node.sbatch": 1, "several_nodes.sbatch": 2}


def template(name: str) -> str:
    """Return the text of a template."""
    nodes = TEMPLATES[name]
    allocation = Allocation(runs=(), array=False, nodes=nodes, gpus=GPUS, cpus=CPUS, time_s=HOURS * 3600)
    profile = Profile()
    script = BatchScript(
        options={
            **_node_options(allocation, profile, "hpcbench"),
            "output": "hpcbench-%j.out",
            # To hpcbench itself, which ends its ranks in good order.
            "signal": f"B:TERM@{allocation.notice_s(profile)}",
        },
        command=TEMPLATE_COMMAND,
    )
    shell, _, rest = script.text.partition("\n")
    what = "All runs of a sweep on one node" if nodes == 1 else f"All runs of a sweep on {nodes} nodes"
    return f"{shell}\n{TEMPLATE_HEADER.format(what=what, name=f'slurm/{name}')}{rest.rstrip()}\n"


if __name__ == "__main__":
    for name in TEMPLATES:
        (Path(sys.argv[1]) / name).write_text(template(name))

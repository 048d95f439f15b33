"""Which runs share an allocation, the batch script of each allocation, and the script templates in
`slurm/` (`python -m hpcbench.launch.slurm.batch_script slurm`).
"""

from __future__ import annotations

import math
import random
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from hpcbench.ceilings.probe_plan import probe_time_limits_s
from hpcbench.errors import InputError
from hpcbench.launch.slurm.slurm_profile import Profile
from hpcbench.runs.placement import most_ranks_per_node
from hpcbench.sweep.run_spec import RunSpec

# From the start of a job to that of its first rank, and between two runs: file systems can be slow.
JOB_START_S, BETWEEN_RUNS_S = 120, 15
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
        for what, wanted, there in (
            ("GPUs", _gpus(spec), profile.gpus_per_node),
            ("CPUs", _cpus(spec), profile.cpus_per_node),
        ):
            if there is not None and wanted > there:
                raise InputError(
                    f"{spec.name}: it needs {wanted} {what} of a node, and a node of this profile has "
                    f"{there}; nothing was submitted"
                )


COLLECT_LIMIT_MIN = 30


class BatchScript(submitit.SlurmExecutor):
    """submitit's executor, whose jobs execute a command of ours instead of a pickled function.

    A pickle stands beside the job and is moved there after sbatch has answered; a submitter that dies in
    between leaves a job that can't start, and files that belong to nobody (submitit#1624). Our jobs find all
    they need in their plan, which is there before they are submitted.
    """

    def __init__(self, folder: Path, command: str, extra: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.command, self.extra = command, extra

    @classmethod
    def affinity(cls) -> int:
        """Say that this executor can be used: a template is made without Slurm, too."""
        return 2

    @property
    def script(self) -> str:
        """The whole batch script."""
        text: str = self._make_submission_file_text(self.command, "")
        head, mark, rest = text.partition("#SBATCH ")
        lines = "".join(f"#SBATCH {argument}\n" for argument in self.extra)
        return head + lines + mark + rest

    def command_for(self, script: Path) -> list[str]:
        """Return the command that submits a script."""
        return list(self._make_submission_command(script))

    def number_of(self, answer: str) -> str:
        """Return the number of the job, from what sbatch has answered."""
        return str(self._get_job_id_from_submission_command(answer))


def batch_script_for(
    allocation: Allocation,
    profile: Profile,
    *,
    name: str,
    folder: Path,
    command: str,
    parallel: int | None = None,
) -> BatchScript:
    """Return what makes the script of an allocation; its output goes into `folder`."""
    executor = BatchScript(folder, command, profile.extra)
    executor.update_parameters(**_parameters(allocation, profile, name))
    if allocation.array:
        executor.parameters["map_count"] = len(allocation.runs)
        executor.parameters["array_parallelism"] = parallel or profile.max_parallel or len(allocation.runs)
    return executor


def collector_script_for(
    profile: Profile, *, name: str, folder: Path, command: str, after: Sequence[str]
) -> BatchScript:
    """Return what makes the script of the job that collects when others are over."""
    executor = BatchScript(folder, command, profile.extra)
    executor.update_parameters(
        job_name=name,
        time=COLLECT_LIMIT_MIN,
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=1,
        dependency=f"afterany:{':'.join(after)}",
        stderr_to_stdout=True,
        wckey=None,
        setup=[*_exports(profile), *profile.setup] or None,
        use_srun=False,
        **{
            key: value
            for key in ("partition", "account", "qos")
            if (value := getattr(profile, key)) is not None
        },
    )
    return executor


def _parameters(allocation: Allocation, profile: Profile, name: str) -> dict[str, Any]:
    wishes = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        **_gpu_request(allocation, profile),
    }
    more = {
        # After a node has failed, or a more urgent job has taken it, the runs that are left are done later.
        "requeue": True,
        **({"reservation": profile.reservation} if profile.reservation else {}),
        **({"mem": profile.memory or 0} if profile.memory or profile.exclusive else {}),
    }
    return {
        "job_name": name,
        "time": allocation.minutes,
        "nodes": allocation.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": allocation.cpus,
        "exclusive": True if profile.exclusive else None,
        "signal_delay_s": allocation.notice_s(profile),
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": [*_exports(profile), *profile.setup] or None,
        # The supervisor places its ranks itself, on all cores of the job; a dead one takes the step with it.
        "srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "additional_parameters": more,
        **{key: value for key, value in wishes.items() if value is not None},
    }


def _gpu_request(allocation: Allocation, profile: Profile) -> dict[str, str]:
    if not allocation.gpus:
        return {}
    amount = f"{profile.gpu_type}:{allocation.gpus}" if profile.gpu_type else str(allocation.gpus)
    return {profile.gpu_request: f"gpu:{amount}" if profile.gpu_request == "gres" else amount}


def _exports(profile: Profile) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in profile.env.items()]


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
    executor = batch_script_for(
        allocation, Profile(), name="hpcbench", folder=Path(), command=TEMPLATE_COMMAND
    )
    notice = executor.parameters["signal_delay_s"]
    executor.update_parameters(
        use_srun=False,
        additional_parameters={
            **executor.parameters["additional_parameters"],
            "output": "hpcbench-%j.out",
            # To hpcbench itself, which ends its ranks in good order.
            "signal": f"B:TERM@{notice}",
        },
    )
    shell, _, rest = executor.script.partition("\n")
    what = "All runs of a sweep on one node" if nodes == 1 else f"All runs of a sweep on {nodes} nodes"
    return f"{shell}\n{TEMPLATE_HEADER.format(what=what, name=f'slurm/{name}')}{rest.rstrip()}\n"


if __name__ == "__main__":
    for each in TEMPLATES:
        (Path(sys.argv[1]) / each).write_text(template(each))

"""The batch script, made by submitit: the same for a submission and for the templates in `slurm/`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from hpcbench.cluster.profile import Profile
from hpcbench.cluster.slurm.allocations import Allocation

COLLECT_MIN = 30


class Executor(submitit.SlurmExecutor):
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


def executor_for(
    allocation: Allocation,
    profile: Profile,
    *,
    name: str,
    folder: Path,
    command: str,
    parallel: int | None = None,
) -> Executor:
    """Return what makes the script of an allocation; its output goes into `folder`."""
    executor = Executor(folder, command, profile.extra)
    executor.update_parameters(**_parameters(allocation, profile, name))
    if allocation.array:
        executor.parameters["map_count"] = len(allocation.runs)
        executor.parameters["array_parallelism"] = parallel or profile.max_parallel or len(allocation.runs)
    return executor


def collector_for(
    profile: Profile, *, name: str, folder: Path, command: str, after: Sequence[str]
) -> Executor:
    """Return what makes the script of the job that collects when others are over."""
    executor = Executor(folder, command, profile.extra)
    executor.update_parameters(
        job_name=name,
        time=COLLECT_MIN,
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

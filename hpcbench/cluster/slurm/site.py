"""What a cluster says about itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcbench.cluster.slurm.ask import ask
from hpcbench.config.spec import is_time_limit, seconds_of


@dataclass(frozen=True, kw_only=True)
class Site:
    """`max_array_size` is one more than the largest index of a job array."""

    max_array_size: int
    accounting: bool
    kill_wait_s: int


def this_site() -> Site:
    """Ask the controller; raises SlurmError where there is none or it does not answer."""
    settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", ask(["scontrol", "show", "config"]), re.MULTILINE))
    return Site(
        max_array_size=int(settings.get("MaxArraySize", "1001")),
        accounting=settings.get("AccountingStorageType", "") == "accounting_storage/slurmdbd",
        kill_wait_s=int(settings.get("KillWait", "30").split()[0]),
    )


def longest_job_s(partition: str | None) -> int | None:
    """Return the time limit of a partition (None: the default one) in seconds; None for no limit."""
    for line in ask(["scontrol", "--oneliner", "show", "partition"]).splitlines():
        facts = dict(each.split("=", 1) for each in line.split() if "=" in each)
        if facts.get("PartitionName") == partition or (partition is None and facts.get("Default") == "YES"):
            limit = facts.get("MaxTime", "UNLIMITED")
            return seconds_of(limit) if is_time_limit(limit) else None
    return None

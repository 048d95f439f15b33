"""Batch scripts for people who submit by hand: the same code that submits writes them.

`python -m hpcbench.cluster.slurm.templates slurm` writes them anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpcbench.cluster.profile import Profile
from hpcbench.cluster.slurm.allocations import Allocation
from hpcbench.cluster.slurm.script import executor_for

HEADER = """\
# {what}: sbatch {name} SWEEP.yaml [--results DIR ...]
#
# Written by `python -m hpcbench.cluster.slurm.templates`; `hpcbench submit` from the login node does all of
# this by itself. Set what your site wants (partition, account) and what your runs need. Inside the allocation
# hpcbench does the runs one after the other; submitted again, it does what is left.
"""
COMMAND = 'exec hpcbench submit "$@" --executor auto --wait'
GPUS, CPUS, HOURS = 4, 32, 8
TEMPLATES = {"one_node.sbatch": 1, "several_nodes.sbatch": 2}


def template(name: str) -> str:
    """Return the text of a template."""
    nodes = TEMPLATES[name]
    allocation = Allocation(runs=(), array=False, nodes=nodes, gpus=GPUS, cpus=CPUS, time_s=HOURS * 3600)
    executor = executor_for(allocation, Profile(), name="hpcbench", folder=Path(), command=COMMAND)
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
    return f"{shell}\n{HEADER.format(what=what, name=f'slurm/{name}')}{rest.rstrip()}\n"


if __name__ == "__main__":
    for each in TEMPLATES:
        (Path(sys.argv[1]) / each).write_text(template(each))

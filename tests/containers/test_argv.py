from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hpcbench.launch.containers.container_engines import (
    ADAPTERS,
    Bind,
    ContainerCommand,
    allowed_variables,
    apptainer,
    docker,
    podman,
    pyxis,
)
from hpcbench.launch.containers.rank_containers import ulimits_of_caller, ulimits_of_root
from hpcbench.launch.rank_processes import WORKER_COMMAND, BareRuntime

INSIDE = ContainerCommand(
    image="IMAGE",
    arguments=("-m", "hpcbench.training.worker"),
    name="hpcbench-1a2b-0",
    environment={"NCCL_DEBUG": "INFO", "HPCBENCH_PLACEMENT": '{"rank": 0, "a": "b"}'},
    user=(1000, 100),
    binds=(
        Bind(source="/r/ddp/r0", target="/r/ddp/r0", writable=True),
        Bind(source="/sets/cifar", target="/sets/cifar"),
    ),
    limits=("memlock=-1:-1", "stack=67108864:67108864"),
)
ON_A_GPU_NODE = replace(INSIDE, gpus=True, devices=("/dev/infiniband",), node="n7")

ENGINE_HEAD = "run --rm --name hpcbench-1a2b-0 --pull never --interactive --network host --ipc host"
ENGINE_MIDDLE = "--log-driver none --no-healthcheck --security-opt label=disable --user 1000:100"
LIMITS = "--ulimit memlock=-1:-1 --ulimit stack=67108864:67108864"
MOUNTS = (
    "--mount type=bind,source=/r/ddp/r0,target=/r/ddp/r0 "
    "--mount type=bind,source=/sets/cifar,target=/sets/cifar,readonly"
)
# With the placement in it no line can simply be split at blanks.
ENVIRONMENT = (
    "--env", "HOME=/tmp", "--env", 'HPCBENCH_PLACEMENT={"rank": 0, "a": "b"}', "--env", "NCCL_DEBUG=INFO",
)  # fmt: skip
TAIL = (
    "--workdir", "/", "--entrypoint", "python3", "IMAGE", "-m", "hpcbench.training.pid1",
    "-m", "hpcbench.training.worker",
)  # fmt: skip


def test_none() -> None:
    """Without a container the worker is started as it is, with all of its environment."""
    start = BareRuntime().start(0, {"A": "1"})
    assert start.argv == WORKER_COMMAND
    assert start.environment == {"A": "1"}
    assert (start.contained, start.client, start.remove) == (False, False, None)


@pytest.mark.parametrize(("program", "prefix"), [("apptainer", "APPTAINER"), ("singularity", "SINGULARITY")])
def test_apptainer(program: str, prefix: str) -> None:
    """Apptainer and Singularity run the worker as a child, and get its variables by names of their own."""
    start = apptainer(INSIDE, program)
    assert start.argv == (
        program, "exec", "--cleanenv", "--no-mount", "home,cwd", "--pwd", "/",
        "--bind", "/r/ddp/r0:/r/ddp/r0:rw", "--bind", "/sets/cifar:/sets/cifar:ro",
        "IMAGE", "python3", "-m", "hpcbench.training.worker",
    )  # fmt: skip
    assert start.environment == {
        f"{prefix}ENV_NCCL_DEBUG": "INFO",
        f"{prefix}ENV_HPCBENCH_PLACEMENT": '{"rank": 0, "a": "b"}',
    }
    assert (start.contained, start.client, start.remove) == (True, False, None)


def test_apptainer_on_gpus() -> None:
    """GPUs come by --nv; device files need no word, for /dev is the machine's."""
    argv = apptainer(ON_A_GPU_NODE).argv
    assert argv[:8] == (
        "apptainer", "exec", "--cleanenv", "--no-mount", "home,cwd", "--pwd", "/", "--nv",
    )  # fmt: skip
    assert set(argv) - set(apptainer(INSIDE).argv) == {"--nv"}


def test_apptainer_as_root() -> None:
    """Root leaves its capabilities outside: a rank needs none."""
    assert set(apptainer(replace(INSIDE, user=(0, 0))).argv) - set(apptainer(INSIDE).argv) == {"--no-privs"}


def test_docker() -> None:
    """Docker gets every flag that a rank needs, and a first process that ends with its client."""
    start = docker(INSIDE)
    head = f"docker {ENGINE_HEAD} {ENGINE_MIDDLE} {LIMITS} {MOUNTS}".split()
    assert start.argv == (*head, *ENVIRONMENT, *TAIL)
    assert start.environment == {}
    assert (start.contained, start.client) == (True, True)
    assert start.remove == ("docker", "rm", "--force", "hpcbench-1a2b-0")


def test_docker_on_gpus() -> None:
    """Docker passes all GPUs and InfiniBand; which of them a rank uses is CUDA_VISIBLE_DEVICES' business."""
    argv = docker(ON_A_GPU_NODE).argv
    head = f"docker {ENGINE_HEAD} {ENGINE_MIDDLE} --gpus all {LIMITS} --device /dev/infiniband {MOUNTS}"
    assert argv == (*head.split(), *ENVIRONMENT, *TAIL)


def test_podman() -> None:
    """podman run by root takes the same flags as docker."""
    assert podman(INSIDE).argv == ("podman", *docker(INSIDE).argv[1:])
    assert podman(INSIDE).remove == ("podman", "rm", "--force", "hpcbench-1a2b-0")


def test_podman_on_gpus() -> None:
    """podman passes GPUs by CDI."""
    head = f"podman {ENGINE_HEAD} {ENGINE_MIDDLE} --device nvidia.com/gpu=all {LIMITS}"
    argv = podman(ON_A_GPU_NODE).argv
    assert argv == (
        *f"{head} --device /dev/infiniband {MOUNTS}".split(), *ENVIRONMENT, *TAIL,
    )  # fmt: skip


def test_podman_without_root() -> None:
    """A user's podman is asked to keep the user's ids, so that records arrive with them."""
    head = f"podman {ENGINE_HEAD} {ENGINE_MIDDLE} --userns keep-id {LIMITS} {MOUNTS}"
    argv = podman(replace(INSIDE, rootless=True)).argv
    assert argv == (*head.split(), *ENVIRONMENT, *TAIL)


def test_pyxis() -> None:
    """pyxis is a step of the job on this node; srun carries the variables, and only these."""
    start = pyxis(replace(INSIDE, node="n7"))
    assert start.argv == (
        "srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mem=0", "--unbuffered",
        "--nodelist=n7", "--export=HPCBENCH_PLACEMENT,NCCL_DEBUG", "--container-image=IMAGE",
        "--container-env=HPCBENCH_PLACEMENT,NCCL_DEBUG",
        "--container-mounts=/r/ddp/r0:/r/ddp/r0,/sets/cifar:/sets/cifar:ro",
        "--no-container-mount-home", "--no-container-remap-root", "--no-container-entrypoint",
        "--container-workdir=/", "python3", "-m", "hpcbench.training.pid1", "-m", "hpcbench.training.worker",
    )  # fmt: skip
    assert start.environment == INSIDE.environment


def test_a_first_process_only_for_ranks() -> None:
    """A command that nobody has to guard runs as it is."""
    for runtime, adapter in ADAPTERS.items():
        argv = adapter(replace(INSIDE, arguments=("-c", "pass"), guarded=False)).argv
        assert "hpcbench.training.pid1" not in argv, runtime
        assert argv[-2:] == ("-c", "pass"), runtime


def test_only_what_ranks_need_comes_along() -> None:
    """Variables of NCCL, the rendezvous, Slurm and hpcbench come along; paths of the host do not."""
    kept = {
        "NCCL_SOCKET_IFNAME": "ib0", "MASTER_ADDR": "n1", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1",
        "HPCBENCH_PLACEMENT": "{}", "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "4",
    }  # fmt: skip
    left = {
        "PATH": "/usr/bin", "HOME": "/home/a", "PYTHONPATH": "/x", "LD_LIBRARY_PATH": "/cuda/lib64",
        "AWS_SECRET_ACCESS_KEY": "s", "CUDA_HOME": "/cuda", "TORCH_HOME": "/home/a/.cache",
    }  # fmt: skip
    assert allowed_variables({**kept, **left}) == kept


def test_limits_where_root_may_set_any() -> None:
    """An engine that may is asked for unlimited locked memory and a large stack."""
    assert ulimits_of_root("CapBnd:\t000001ffffffffff\n") == ("memlock=-1:-1", "stack=67108864:67108864")


def test_limits_where_root_may_not() -> None:
    """Where the machine withholds CAP_SYS_RESOURCE nothing is asked for that can't be had."""
    limits = ulimits_of_root("CapBnd:\t000001fffeffffff\n")
    assert limits == ulimits_of_caller()
    assert [each.partition("=")[0] for each in limits] == ["memlock", "nofile", "nproc", "stack"]
    locked = int(limits[0].split(":")[1])
    assert locked == -1 or locked <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

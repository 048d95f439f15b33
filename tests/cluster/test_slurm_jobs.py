"""What is asked of Slurm, without Slurm: groups of runs, exact scripts, seats. The rest is in tests/slurm."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.executors import ExecutorChoice, choose_executor, last_executor
from hpcbench.launch.machine_resources import Machine
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.slurm.batch_script import TEMPLATES, allocate, batch_script_for, check_against, template
from hpcbench.launch.slurm.peers import NodesMissingError, PeerMessage, PeerServer, connect_to_first_node
from hpcbench.launch.slurm.slurm_node import SlurmTask
from hpcbench.launch.slurm.slurm_profile import Profile
from hpcbench.launch.slurm.slurm_submission import SlurmExecutor, SlurmJobs
from hpcbench.runs.placement import locate_ranks, ranks_on_node
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import Container, Resources, RunSpec
from tests.cluster.helpers import Lab, eventually, noop

ROOT = Path(__file__).parents[2]


def on_gpus(name: str, *, nodes: int = 1, repeat: int = 0, time: str = "01:00:00") -> RunSpec:
    """Return a run on nodes of four GPUs."""
    resources = Resources(nodes=nodes, gpus_per_node=4, cpus_per_gpu=8, time=time)
    return replace(noop(name, ranks=4 * nodes), device="cuda", resources=resources, repeat=repeat)


def test_runs_on_like_nodes_share_an_allocation() -> None:
    """One job for each kind of nodes; its limit is that of all of its runs, as far as the site allows it."""
    runs = [on_gpus("a"), on_gpus("b", nodes=2), on_gpus("c")]
    one, two = allocate(runs, Profile(), True, longest_s=None, largest_array=1001)
    assert ({spec.name for spec in one.runs}, one.nodes, one.gpus, one.cpus) == ({"a", "c"}, 1, 4, 32)
    assert (two.nodes, two.array) == (2, False)
    assert 2 * 3600 < one.time_s < 2 * 3600 + 300
    limited = Profile(time="00:30:00")
    assert {each.minutes for each in allocate(runs, limited, True, longest_s=7200, largest_array=9)} == {30}


def test_repeats_come_one_after_the_other_in_an_order_with_a_seed() -> None:
    """All first repeats come before all second ones, in another order, and always the same."""
    runs = [on_gpus(name, repeat=repeat) for name in "abcdef" for repeat in range(2)]
    (job,) = allocate(runs, Profile(), True, longest_s=None, largest_array=9)
    assert [spec.repeat for spec in job.runs] == [0] * 6 + [1] * 6
    first, second = [spec.name for spec in job.runs[:6]], [spec.name for spec in job.runs[6:]]
    assert first != second and set(first) == set(second)
    assert (job,) == tuple(
        allocate(list(reversed(runs))[::-1], Profile(), True, longest_s=None, largest_array=9)
    )


@pytest.mark.parametrize(
    ("pack", "sizes"), [(True, [10]), (3, [3, 3, 4]), (99, [1] * 10), (False, [4, 4, 2])]
)
def test_how_runs_are_packed(pack: bool | int, sizes: list[int]) -> None:
    """As one job, as N, or as arrays that hold no more than the site allows, each with indices from 0."""
    runs = [on_gpus(f"run{number}") for number in range(10)]
    jobs = allocate(runs, Profile(), pack, longest_s=None, largest_array=4)
    assert [len(job.runs) for job in jobs] == sizes
    assert [spec.name for job in jobs for spec in job.runs if pack is False] == [
        spec.name for spec in runs if pack is False
    ]
    for job in jobs if pack is False else []:
        script = batch_script_for(job, Profile(), name="x", folder=Path("/x"), command="y", parallel=2).text
        assert f"--array=0-{len(job.runs) - 1}%{min(2, len(job.runs))}" in script


def test_more_than_a_node_has_is_refused() -> None:
    """Before anything is asked of Slurm, against what the profile says of its nodes."""
    with pytest.raises(InputError, match="needs 4 GPUs of a node, and a node of this profile has 2"):
        check_against(Profile(gpus_per_node=2), [on_gpus("a")])


def test_the_exact_script() -> None:
    """Every wish of a profile is in the script that Slurm gets, and nothing else."""
    profile = Profile(
        account="physics", partition="gpu", qos="high", constraint="a&b", reservation="r", exclude="n[1-2]",
        memory="64G", gpu_request="gres", gpu_type="rtx4090", signal_before_s=90, extra=("--licenses=fs",),
        setup=("module load cuda",), env={"NCCL_IB_HCA": "^mlx5"},
    )  # fmt: skip
    (job,) = allocate([on_gpus("a")], profile, True, longest_s=None, largest_array=9)
    text = batch_script_for(job, profile, name="sweep-1", folder=Path("/r/log"), command="python x").text
    assert text == (ROOT / "tests/cluster/expected_submission.sh").read_text()


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_what_the_code_writes(name: str) -> None:
    """The scripts in slurm/ have not drifted: python -m hpcbench.launch.slurm.batch_script slurm."""
    assert (ROOT / "slurm" / name).read_text() == template(name)


def test_ranks_fill_nodes_in_blocks_and_servers_come_after_them() -> None:
    """Neighbours are on one node, servers are dealt out, and fewer ranks than nodes are one each."""
    spec = replace(on_gpus("a", nodes=2), ranks=6, servers=3)
    assert [ranks_on_node(spec, node) for node in range(2)] == [[0, 1, 2, 6, 8], [3, 4, 5, 7]]
    assert [seat.local_rank for seat in locate_ranks(spec)] == [0, 1, 2, 0, 1, 2, 3, 3, 4]
    few = replace(on_gpus("a", nodes=4), ranks=2)
    assert [ranks_on_node(few, node) for node in range(4)] == [[0], [1], [], []]


def test_an_array_of_somebody_else_is_not_ours() -> None:
    """A job knows itself by Slurm's variables; an element of an array by array and index."""
    variables = {"SLURM_JOB_ID": "9", "SLURM_JOB_NODELIST": "n1", "SLURM_RESTART_COUNT": "2"}
    here = SlurmTask.from_environment(variables)
    assert (here.slurm_id, here.index, here.names, here.restart) == ("9", None, ("n1",), 2)
    element = SlurmTask.from_environment(variables | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"})
    assert (element.slurm_id, element.index) == ("7_3", 3)


def test_supervisors_meet_and_part(tmp_path: Path) -> None:
    """A node finds the first one through the meeting file, is heard, and its end is noticed at once."""
    heard: list[tuple[int, PeerMessage | None]] = []
    post = PeerServer(tmp_path / "meeting.json", ["localhost", "other"])
    wires = []
    thread = threading.Thread(
        target=lambda: wires.append(connect_to_first_node(tmp_path / "meeting.json", 1, 10))
    )
    thread.start()
    post.accept_all(lambda node, message: heard.append((node, message)), 10)
    thread.join()
    (wire,) = wires
    assert not (tmp_path / "meeting.json").exists(), "nobody else can come"
    wire.send({"hello": 1})
    eventually(lambda: heard == [(1, {"hello": 1})])
    wire.socket.shutdown(2)
    eventually(lambda: heard[-1] == (1, None))


def test_nodes_that_do_not_come_are_named(tmp_path: Path) -> None:
    """Both sides say whom they have waited for, and where."""
    with pytest.raises(NodesMissingError, match="no connection from n2, n3 within 0 s on n1"):
        PeerServer(tmp_path / "meeting.json", ["n1", "n2", "n3"]).accept_all(lambda node, message: None, 0.2)
    with pytest.raises(NodesMissingError, match="never appeared"):
        connect_to_first_node(tmp_path / "nothing.json", 1, 0.2)


def test_one_request_is_heard_once() -> None:
    """A signal that comes from every node of a job at the same moment is one request to stop."""
    inbox = SupervisorInbox()
    for _ in range(3):
        inbox.handle_signal(signal.SIGTERM)
    assert inbox.next_message(0) is signal.SIGTERM and inbox.next_message(0) is None
    assert inbox.stopped_by is signal.SIGTERM


def test_where_jobs_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inside an allocation: there. A login node without sbatch is refused. Else this machine."""
    machine = Machine(cores=2, memory_bytes=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert choose_executor("auto", machine, {}) is ExecutorChoice.LOCAL
    (tmp_path / "slurm.conf").touch()
    with pytest.raises(InputError, match="looks like a login node"):
        choose_executor("auto", machine, {})
    assert choose_executor("auto", replace(machine, gpus=("a",)), {}) is ExecutorChoice.LOCAL
    assert (
        choose_executor("auto", machine, {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"})
        is ExecutorChoice.LOCAL
    )
    assert choose_executor(None, machine, {"HPCBENCH_EXECUTOR": "local"}) is ExecutorChoice.LOCAL
    with pytest.raises(InputError, match="no sbatch here"):
        choose_executor("slurm", machine, {})


def test_a_controller_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Slurm that does not answer is an error within its time, not a wait for ever."""
    from hpcbench.launch.slurm import slurm_client

    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(slurm_client.SlurmError, match="did not answer within 1 s"):
        slurm_client.run_slurm(["squeue"], timeout_s=1)


def fake_command(folder: Path, name: str, script: str) -> None:
    """Put a shell script in the place of one of Slurm's commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_refused_job_says_how_many_were_submitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message counts the jobs that sbatch has taken, and what was asked for is kept for `retry`."""
    taken = tmp_path / "taken"
    fake_command(
        tmp_path / "bin",
        "sbatch",
        f"[ -e {taken} ] && {{ echo too many jobs >&2; exit 1; }}; >{taken}; echo 7",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    profile = Profile(extra=("--licenses=fs",), env={"A": "b"}, container=Container(runtime="none"))
    executor = SlurmExecutor(profile=profile, pack=2, parallel=3)
    runs = [on_gpus("a"), on_gpus("b", nodes=2)]
    jobs = SlurmJobs(
        executor=executor,
        allocations=tuple(allocate(runs, profile, True, longest_s=None, largest_array=9)),
    )
    results = ResultsFolder(tmp_path / "results" / "sweep")
    expected = r"^sbatch: too many jobs \(1 of 2 jobs were submitted; submit again to go on\)$"
    with pytest.raises(HpcbenchError, match=expected):
        jobs.start(results)
    with pytest.raises(HpcbenchError, match=r"\(nothing was submitted; submit again to go on\)$"):
        jobs.start(results)
    assert last_executor(results) == executor
    results.profile.write_text('{"profile": {"partition": 7}}')
    with pytest.raises(InputError, match=r"profile\.json: this is no submission of hpcbench"):
        last_executor(results)


def test_slurm_is_asked_once_whether_it_would_take_a_job(lab: Lab) -> None:
    """A submission decides and plans once: one `sbatch --test-only` and one `sbatch` for one job."""
    commands, log = lab.folder / "bin", lab.folder / "sbatch.log"
    fake_command(commands, "sbatch", f'echo "$1" >>{log}; echo 7')
    fake_command(commands, "squeue", "")
    fake_command(commands, "sacct", "")
    fake_command(
        commands,
        "scontrol",
        '[ "$2" = config ] && echo "MaxArraySize = 1001" || '
        'echo "PartitionName=main Default=YES MaxTime=UNLIMITED"',
    )
    path = f"{commands}:/usr/bin:/bin"
    sweep = lab.sweep({"name": "a"}, {"name": "b"})
    done = lab.run("submit", sweep, "--executor", "slurm", "--detach", "-v", PATH=path)
    assert done.returncode == 0, done.stderr
    assert log.read_text().split() == ["--test-only", "--parsable"]
    assert "hpcbench: Slurm job 7: 2 runs" in done.stderr
    assert "hpcbench: sbatch --test-only" in done.stderr, "-v shows what is executed"


def test_launch_does_not_import_the_measurement_of_ceilings() -> None:
    """What measures before the first run is handed to a job by its entry point."""
    code = (
        "import sys\n"
        "import hpcbench.launch.submission, hpcbench.launch.start_local_job\n"
        "import hpcbench.launch.slurm.slurm_node\n"
        "print([name for name in sys.modules if name.startswith('hpcbench') and 'prob' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

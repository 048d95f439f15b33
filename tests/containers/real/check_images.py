"""Images that are really built and really run: `make test-containers`. `make test` leaves this out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import hpcbench
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.jobs import Jobs
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.runs.run_status import RunStatus, run_status
from tests.containers.real.engines import Engine, Podman
from tests.containers.real.in_apptainer import Apptainer
from tests.containers.real.lab import scratch

HPCBENCH = (sys.executable, "-m", "hpcbench")
RUN = ("run", "--strategy", "ddp", "--ranks", "2", "--dataset", "digits", "--out", "/results/one")
FOREVER = ("--set", "epochs=10000")
USER = 1000
TIMEOUT_S = 600
MAX_BYTES_WITHOUT_TORCH = 600e6
HELP_S = 1.0
pytestmark = pytest.mark.timeout(7200)


@pytest.fixture
def results() -> Iterator[Path]:
    """Return a folder that any user may write to, outside of the repository."""
    folder = scratch()
    yield folder
    shutil.rmtree(folder)


def call(argv: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        argv,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def status_of(folder: Path) -> RunStatus:
    """Return what the host's hpcbench makes of a run's records."""
    return run_status("one", 0, RunFolder(folder), Jobs(), [])


def environments(folder: Path) -> list[dict[str, Any]]:
    """Return what each rank of the newest attempt found itself in."""
    paths = sorted(folder.glob("events.a*.rank*.jsonl"))
    return [json.loads(path.open().readline())["environment"] for path in paths]


def eventually(condition: Callable[[], Any], within_s: float = 120) -> Any:
    """Wait until something is so, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {within_s} s"
        time.sleep(0.1)
    return found


def trains(folder: Path) -> bool:
    """Say whether rank 0 has recorded steps."""
    path = folder / "events.a1.rank0.jsonl"
    return path.exists() and '"event":"steps"' in path.read_text()


def test_version(engine: Engine, results: Path) -> None:
    """The image says its version."""
    done = call(engine.run_argv(["--version"], results))
    assert done.stdout.strip() == f"hpcbench {hpcbench.__version__}", done.stderr


def test_two_ranks_without_a_network(engine: Engine, results: Path) -> None:
    """A user's run of two ranks is done, with no network, and its records are the user's on the host."""
    done = call(engine.run_argv(RUN, results, user=USER))
    assert done.returncode == 0, done.stderr + done.stdout
    assert status_of(results / "one").state == "done"
    assert {path.stat().st_uid for path in (results / "one").rglob("*")} == {USER}
    assert [each["hpcbench"] for each in environments(results / "one")] == [hpcbench.__version__] * 2


def test_digest_is_handed_in(engine: Engine, results: Path) -> None:
    """Inside, nobody can ask for the digest: it is what the command says, and null if it says nothing."""
    hand_in = {"apptainer": ["--env"]}.get(engine.name, ["--env"])
    argv = engine.run_argv(["run", "--strategy", "noop", "--ranks", "1", "--out", "/results/one"], results)
    at = argv.index("run") + 1
    said = [*argv[:at], *hand_in, f"HPCBENCH_IMAGE_DIGEST={engine.digest()}", *argv[at:]]
    assert call(said).returncode == 0
    assert [each["image_digest"] for each in environments(results / "one")] == [engine.digest()]
    shutil.rmtree(results / "one")
    assert call(argv).returncode == 0
    assert [each["image_digest"] for each in environments(results / "one")] == [None]


def test_read_only_root_and_no_capabilities(engine: Engine, results: Path) -> None:
    """Nothing but the results is written to, and nothing takes a privilege."""
    done = call(engine.run_argv(RUN, results, user=USER, bare=True))
    assert done.returncode == 0, done.stderr + done.stdout
    assert status_of(results / "one").state == "done"


def test_sigterm_in_mid_run(engine: Engine, results: Path) -> None:
    """SIGTERM reaches the ranks: the run is interrupted, its records are whole, the exit status says so."""
    argv = engine.run_argv([*RUN, *FOREVER], results)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        eventually(lambda: trains(results / "one"))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, errors
    status = status_of(results / "one")
    assert (status.state, "SIGTERM" in status.reason) == ("interrupted", True)
    for rank in range(2):
        records = read_events(RunFolder(results / "one").events(1, rank))
        assert not records.torn
        assert records.records[-1].event.kind == "interrupted"


def test_a_failed_run_says_so(engine: Engine, results: Path) -> None:
    """The exit status of the container is that of the run, and wrong input is one message."""
    done = call(engine.run_argv(["run", "--strategy", "dpp", "--out", "/results/one"], results))
    assert done.returncode == 2
    assert "not a known value (found 'dpp'" in done.stderr
    assert "Traceback" not in done.stderr


def sweep_of(folder: Path, engine: Engine, image: str | None = None, **container: Any) -> Path:
    """Write a sweep of two runs whose ranks run in the engine's image."""
    content = {
        "version": 1,
        "name": "two",
        "container": {"runtime": engine.name, "image": image or engine.image, **container},
        "defaults": {
            "dataset": "digits", "batch_size": 32, "epochs": 1, "ranks": 2, "repeats": 1, "probe": False,
        },
        "runs": [{"strategy": "ddp"}, {"strategy": "collective"}],
    }  # fmt: skip
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_sweep_through_the_local_executor(engine: Engine, results: Path) -> None:
    """Every rank of a sweep runs in the image, and each record carries the digest that the runtime tells."""
    done = call([*HPCBENCH, "submit", str(sweep_of(results, engine)), "--results", str(results)])
    assert done.returncode == 0, done.stderr
    folder = ResultsFolder(results / "two")
    for name in ("ddp", "collective"):
        found = environments(folder.run(name, 0).path)
        assert [each["image_digest"] for each in found] == [engine.digest()] * 2
        claim = latest_claim(folder.run(name, 0))
        assert claim is not None
        assert claim.ending is not None
        assert claim.ending.state == "finished"
    assert (folder.report / "ranking.csv").read_text().count("yes") == 2, "both are ranked and trusted"


def test_nothing_outlives_a_killed_supervisor(engine: Engine, results: Path) -> None:
    """When the job is killed with SIGKILL, the ranks in their containers end, too."""
    argv = [*HPCBENCH, "submit", str(sweep_of(results, engine)), "--results", str(results), "--detach"]
    argv += ["--set", "epochs=10000", "--only", "ddp"]
    assert call(argv).returncode == 0
    folder = ResultsFolder(results / "two").run("ddp", 0)
    eventually(lambda: trains(folder.path))
    claim = latest_claim(folder)
    assert claim is not None
    os.kill(claim.owner.pid, signal.SIGKILL)
    eventually(lambda: not writers(folder.path), within_s=20)
    eventually(lambda: not engine.left_over(), within_s=20)


def writers(folder: Path) -> list[str]:
    """Return the processes of any container that have a file of the folder open."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            opened = [str(link.readlink()) for link in (each / "fd").iterdir()]
        except OSError:
            continue
        if any(name.startswith(f"{folder}/events") for name in opened):
            found.append(each.name)
    return found


def test_cancel_ends_the_ranks(engine: Engine, results: Path) -> None:
    """A sweep that is cancelled leaves its runs interrupted, and no container."""
    argv = [*HPCBENCH, "submit", str(sweep_of(results, engine)), "--results", str(results), "--detach"]
    assert call([*argv, "--set", "epochs=10000", "--only", "ddp"]).returncode == 0
    folder = ResultsFolder(results / "two").run("ddp", 0)
    eventually(lambda: trains(folder.path))
    assert call([*HPCBENCH, "cancel", str(results / "two")]).returncode == 0
    claim = eventually(lambda: (found := latest_claim(folder)) and found.ending and found)
    assert claim.ending.state == "interrupted"
    for rank in range(2):
        assert read_events(folder.events(1, rank)).records[-1].event.kind == "interrupted"


def refused(sweep: Path, results: Path) -> str:
    """Return the one message with which a sweep is refused before anything is started."""
    done = call([*HPCBENCH, "submit", str(sweep), "--results", str(results)])
    assert done.returncode == 2, done.stderr
    assert not (results / "two" / "runs").exists()
    assert "Traceback" not in done.stderr
    return done.stderr


def test_image_missing(engine: Engine, results: Path) -> None:
    """An image that is not there is refused by the runtime's own word."""
    message = refused(sweep_of(results, engine, image="localhost/no-such-image:1"), results)
    assert re.search("no image|there is no image", message), message


def test_unfit_images(engine: Engine, results: Path) -> None:
    """Another hpcbench inside, or no Python, is refused with what was found."""
    if isinstance(engine, Apptainer):  # another whole SIF file would take minutes
        message = refused(sweep_of(results, engine, image=engine.base_only()), results)
        assert "there is no hpcbench inside" in message
        return
    file = "/opt/hpcbench/lib/python3*/site-packages/hpcbench/__init__.py"
    other = engine.derive("other", f"RUN sed -i 's/^__version__.*/__version__ = \"9.9\"/' {file}")
    message = refused(sweep_of(results, engine, image=other), results)
    assert f"it has hpcbench 9.9, and this machine has {hpcbench.__version__}" in message
    bare = engine.derive("bare", "ENV PATH=/nowhere")
    assert "has no python3" in refused(sweep_of(results, engine, image=bare), results)


def test_inject(engine: Engine, results: Path) -> None:
    """An image without hpcbench does with that of the host."""
    if isinstance(engine, Apptainer):
        image = None  # the host's comes first on the path of modules
    else:
        image = engine.derive("without", "RUN rm -r /opt/hpcbench/lib/python3*/site-packages/hpcbench*")
        assert "no hpcbench inside" in refused(sweep_of(results, engine, image=image), results)
    sweep = sweep_of(results, engine, image=image, inject=True)
    done = call([*HPCBENCH, "submit", str(sweep), "--results", str(results), "--only", "ddp"])
    assert done.returncode == 0, done.stderr


def test_without_torch(podman: Podman) -> None:
    """The image without torch stays small."""
    assert podman.build_without_torch() < MAX_BYTES_WITHOUT_TORCH


def test_help_is_quick(engine: Engine, results: Path) -> None:
    """`hpcbench --help` answers in the image within a second (the container's own start not counted)."""
    code = (
        "import subprocess, time\n"
        "def once():\n"
        "    began = time.monotonic()\n"
        "    subprocess.run(['hpcbench', '--help'], check=True, capture_output=True)\n"
        "    return time.monotonic() - began\n"
        "print(min(once() for _ in range(3)))"
    )
    argv = engine.run_argv([code], results)
    if isinstance(engine, Apptainer):
        argv = [*argv[: argv.index(engine.image) + 1], "-c", code]
        argv[argv.index("run")] = "exec"
        argv.insert(argv.index(engine.image) + 1, "python3")
    else:
        argv[argv.index("run") + 1 : argv.index("run") + 1] = ["--entrypoint", "python3"]
        argv.insert(-1, "-c")
    done = call(argv)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < HELP_S


def test_same_versions_in_both_images(podman: Podman, apptainer: Apptainer) -> None:
    """Dockerfile and definition file install the same packages in the same versions."""
    in_docker = [each for each in podman.frozen() if "hpcbench" not in each]
    in_sif = [each for each in apptainer.frozen() if "hpcbench" not in each]
    assert len(in_docker) > 20
    assert in_docker == in_sif


def test_no_compiler_and_no_leftovers(podman: Podman) -> None:
    """The image has no compiler, no pip cache and no sources of hpcbench besides the installed ones."""
    code = "command -v gcc cc g++ c++; ls -d /src /root/.cache 2>/dev/null; id -u"
    argv = [
        *podman.command,
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "sh",
        podman.image,
        "-c",
        code,
    ]
    assert podman.call(argv).split() == ["1000"]


def test_doctor_tries_the_image(engine: Engine) -> None:
    """`hpcbench doctor` finds the runtime, and a run in the image is fine."""
    done = call([*HPCBENCH, "doctor", "--json", "--try", f"{engine.name}={engine.image}"])
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert states[engine.name] == "fine"
    assert states[f"a run in {engine.name}"] == "fine", done.stdout

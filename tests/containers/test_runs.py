"""Runs whose ranks are in containers, with a runtime that runs them on the machine itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.launch.admission import obstacle_to_run
from hpcbench.launch.containers.rank_containers import INJECTED_FOLDER, INJECTED_PACKAGES
from hpcbench.launch.machine_resources import this_machine
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.placement import Placement
from hpcbench.sweep.run_spec import Container, RunSpec
from hpcbench.sweep.sweep_loading import load_sweep
from tests.cluster.helpers import Lab, eventually, noop

APPTAINER = """#!{python}
import os, sys
words = sys.argv[1:]
environment = {{
    name.removeprefix("APPTAINERENV_"): value
    for name, value in os.environ.items()
    if name.startswith("APPTAINERENV_") or name == "PYTHONPATH"
}}
arguments = words[words.index({image!r}) + 2:]
os.chdir("/")
os.execve({python!r}, [{python!r}, *arguments], environment)
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an image, and have an apptainer on the path that knows how to run it."""
    path = tmp_path / "image.sif"
    code = {"x86_64": b"02", "aarch64": b"04"}.get(os.uname().machine, b"00")
    path.write_bytes(b"\0" * 32 + b"SIF_MAGIC\0" + b"01\0" + code + b"\0" * 80)
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER.format(python=sys.executable, image=str(path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("HPCBENCH_CACHE", str(tmp_path / "cache"))
    return path


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a place for sweeps and results."""
    monkeypatch.setenv("HPCBENCH_QUEUE_DIR", str(tmp_path / "queue"))
    return Lab(tmp_path)


def started(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Return the first event of each rank of a run."""
    paths = sorted(lab.results().run(name, 0).path.glob("events.a1.rank*.jsonl"))
    return [json.loads(path.open().readline()) for path in paths]


def test_a_sweep_in_an_image(lab: Lab, image: Path) -> None:
    """All ranks run in the image, know its digest, and see only what is allowed."""
    container = {"runtime": "apptainer", "image": str(image)}
    lab.submit(lab.sweep({"name": "one"}, container=container), NCCL_DEBUG="WARN", SECRET="x")
    found = started(lab, "one")
    assert len(found) == 2
    for event in found:
        environment = event["environment"]
        assert str(environment["image_digest"]).startswith("sha256:")
        assert environment["variables"]["NCCL_DEBUG"] == "WARN"
    assert {run.state for run in lab.states().values()} == {"done"}


def test_two_digests_in_one_sweep(lab: Lab, image: Path) -> None:
    """An image that was replaced between runs is a finding."""
    container = {"runtime": "apptainer", "image": str(image)}
    sweep = lab.sweep({"name": "one"}, {"name": "two", "seed": 0, "window_steps": 3}, container=container)
    lab.submit(sweep, "--only", "one")
    image.write_bytes(image.read_bytes() + b"another")
    lab.submit(sweep)
    digests = {
        str(event["environment"]["image_digest"]) for name in ("one", "two") for event in started(lab, name)
    }  # type: ignore[index]
    assert len(digests) == 2
    lab.run("collect", lab.results().path)
    findings = (lab.results().report / "findings.csv").read_text()
    assert "environment-differs" in findings
    assert "image_digest" in findings


def test_refused_before_it_is_queued(lab: Lab, image: Path) -> None:
    """What is wrong with an image is said by `submit`, in one message, and by a dry run as a reason."""
    container = {"runtime": "apptainer", "image": f"{image}.absent"}
    sweep = lab.sweep({"name": "one"}, container=container)
    done = lab.run("submit", sweep)
    assert done.returncode == 2
    assert f"there is no image {image}.absent" in done.stderr
    assert "Traceback" not in done.stderr
    listed = json.loads(lab.run("submit", sweep, "--dry-run", "--json").stdout)
    assert [(run["action"], "there is no image" in run["reason"]) for run in listed] == [("skipped", True)]


def test_refused_when_its_turn_comes(lab: Lab, image: Path) -> None:
    """An image that is gone by the time of the run fails that run with the reason; no rank is started."""
    container = {"runtime": "apptainer", "image": str(image)}
    runs = [{"name": "first", "steps": 100, "container": {"runtime": "none"}}, {"name": "second"}]
    sweep = lab.sweep(*runs, container=container)
    assert lab.run("submit", sweep, "--detach").returncode == 0
    image.unlink()
    states = lab.settled()
    assert states["first/r0"].state == "done"
    assert (states["second/r0"].state, states["second/r0"].reason) == ("failed", f"there is no image {image}")
    assert started(lab, "second") == []


def test_a_run_in_the_foreground(lab: Lab, image: Path) -> None:
    """`hpcbench run` starts its ranks in an image, too."""
    settings = [f"container.image={image}", "container.runtime=apptainer"]
    words = [word for each in settings for word in ("--set", each)]
    done = lab.run("run", "--strategy", "noop", "--ranks", "2", *words, "--out", lab.folder / "out")
    assert done.returncode == 0, done.stderr


def test_a_killed_rank_is_told_by_its_signal(lab: Lab, image: Path) -> None:
    """A runtime that passes on a death as an exit status does not hide it."""
    container = {"runtime": "apptainer", "image": str(image)}
    program = lab.folder / "bin" / "apptainer"
    real = program.rename(program.with_name("real"))
    lines = ["#!/bin/sh", 'case "$*" in *worker*) exit 137;; esac', f'exec {real} "$@"', ""]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    states = lab.submit(lab.sweep({"name": "one"}, container=container))
    assert states["one/r0"].state == "failed"
    assert "killed by SIGKILL" in states["one/r0"].reason


def test_what_is_injected_is_enough(tmp_path: Path) -> None:
    """A rank that trains nothing runs with the injected modules, numpy and the standard library alone."""
    modules = tmp_path / INJECTED_FOLDER.lstrip("/")
    modules.mkdir(parents=True)
    for name in INJECTED_PACKAGES:
        (modules / name).symlink_to(origin(name))
    for path in origin("numpy").parent.glob("numpy*"):  # this is the image's own
        (modules / path.name).symlink_to(path)
    spec = replace(noop(), ranks=1, data_shards=1)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"spec": spec.to_json(), "run_id": spec.run_id}))
    place = Placement(
        run_folder=str(folder), attempt=1, rank=0, processes=1, local_rank=0, process_start_ns=0
    )
    code = (
        f"import sys; sys.path.insert(0, {str(modules)!r})\n"
        "from hpcbench.training.worker import main; sys.exit(main())"
    )
    done = bare_python(["-c", code], place.to_environment())
    assert done.returncode == 0, done.stderr
    assert '"event":"run_finished"' in (folder / "events.a1.rank0.jsonl").read_text()


def origin(name: str) -> Path:
    """Return the folder of a module."""
    found = sys.modules.get(name) or __import__(name)
    assert found.__file__ is not None
    return Path(found.__file__).parent


def bare_python(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python without anything that is installed."""
    command = [sys.executable, "-I", "-S", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_torch_is_wanted_in_the_image_only(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ranks run in an image, this machine needs no torch."""
    monkeypatch.setattr("hpcbench.launch.admission._is_installed", lambda module: False)
    spec = RunSpec(name="run", strategy="ddp", backend="gloo")
    assert "torch is not installed" in str(obstacle_to_run(spec, this_machine(), CATALOG, {}))
    contained = replace(spec, container=Container(runtime="apptainer", image=str(image)))
    assert obstacle_to_run(contained, this_machine(), CATALOG, {}) is None


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ("{runtime: podman}", "container podman needs an image"),
        ("{image: hpcbench}", "an image needs a runtime"),
        ("{runtime: podman, image: i, binds: [sets]}", "has to be named from the root"),
        ("{runtime: podman, image: i, binds: sets}", "a list of folders"),
        ("{runtime: poodman, image: i}", "Did you mean podman?"),
        ("{runtime: podman, image: i, inject: 1}", "true or false"),
    ],
)
def test_mistakes_in_a_sweep(tmp_path: Path, container: str, message: str) -> None:
    """A container that is not all said is refused with its line."""
    path = tmp_path / "sweep.yaml"
    path.write_text(f"version: 1\nname: s\ncontainer: {container}\nruns: [{{strategy: noop, ranks: 1}}]\n")
    with pytest.raises(InputError, match=r"sweep\.yaml:3: ") as caught:
        load_sweep([path], CATALOG)
    assert message in str(caught.value)


def test_a_file_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIF file is found by jobs that run elsewhere, and is no part of a run's id."""
    monkeypatch.chdir(tmp_path)
    ids = set()
    for image in ("a.sif", "b.sif"):
        path = tmp_path / "sweep.yaml"
        container = f"{{runtime: apptainer, image: {image}}}"
        path.write_text(
            f"version: 1\nname: s\ncontainer: {container}\nruns: [{{strategy: noop, ranks: 1}}]\n"
        )
        (spec, *_) = load_sweep([path], CATALOG).runs
        assert spec.container.image == str(tmp_path / image)
        ids.add(spec.run_id)
    assert len(ids) == 1


def test_stopping_a_contained_run(lab: Lab, image: Path) -> None:
    """A job that is told to stop leaves its contained ranks time to say that they were interrupted."""
    container = {"runtime": "apptainer", "image": str(image)}
    sweep = lab.sweep({"name": "one", "steps": 100_000}, container=container)
    assert lab.run("submit", sweep, "--detach").returncode == 0
    eventually(lab.steps_done)
    claim = latest_claim(lab.results().run("one", 0))
    assert claim is not None
    os.kill(claim.owner.pid, signal.SIGTERM)
    assert lab.settled()["one/r0"].state == "interrupted"
    last = [
        path.read_text().splitlines()[-1] for path in lab.results().run("one", 0).path.glob("events.a1.rank*")
    ]
    assert all('"event":"interrupted"' in line for line in last)


def test_a_rank_of_another_launcher(lab: Lab, image: Path) -> None:
    """A rank that torchrun has started can't be moved into an image, and says so."""
    torchrun = {
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }  # fmt: skip
    settings = [f"container.image={image}", "container.runtime=apptainer"]
    words = [word for each in settings for word in ("--set", each)]
    out = lab.folder / "out"
    done = lab.run("run", "--strategy", "noop", "--ranks", "1", *words, "--out", out, **torchrun)
    assert done.returncode == 2
    assert "start the whole launch in the image" in done.stderr
    assert not out.exists()

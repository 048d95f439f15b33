"""Sets each engine up once. What can't be had on this machine is skipped, and said in capitals at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.helpers import eventually
from tests.containers.real.engines import Docker, Engine, Podman
from tests.containers.real.in_apptainer import Apptainer
from tests.containers.real.lab import Lab, UnavailableError, machine_facts, unmount, work_folder
from tests.slurm.conftest import lab, slurm  # noqa: F401  fixtures of check_slurm.py

KINDS: tuple[type[Engine], ...] = (Podman, Docker, Apptainer)
LAB = pytest.StashKey[Lab]()
ENGINES = pytest.StashKey[dict[str, Engine | str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing running and nothing mounted."""
    stash = session.config.stash
    for engine in stash.get(ENGINES, {}).values():
        if isinstance(engine, Engine):
            engine.close()
    if LAB in stash:
        unmount(stash[LAB].folder)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured, and what was left out. (A plain `make test` comes by here, too.)"""
    if LAB not in config.stash:
        return
    terminalreporter.section("containers")
    for fact in config.stash[LAB].facts:
        terminalreporter.line(fact)
    for name, engine in config.stash[ENGINES].items():
        if isinstance(engine, str):
            terminalreporter.line(f"NOT TESTED: {name.upper()}: {engine}", red=True, bold=True)


def lab_of(config: pytest.Config) -> Lab:
    """Return the work folder of this session."""
    if LAB not in config.stash:
        config.stash[LAB] = Lab(work_folder())
        config.stash[ENGINES] = {}
        config.stash[LAB].note(machine_facts())
    return config.stash[LAB]


def engine_called(config: pytest.Config, kind: type[Engine]) -> Engine:
    """Return an engine that has the image; skips where it can't be had here."""
    here = lab_of(config)
    known = config.stash[ENGINES]
    if kind.name not in known:
        if kind is not Podman:
            engine_called(config, Podman)  # makes the base image for all
        engine = kind(here)
        try:
            engine.prepare()
        except UnavailableError as error:
            known[kind.name] = str(error)
        else:
            known[kind.name] = engine
            engine.build()
            engine.built = True
    found = known[kind.name]
    if isinstance(found, str):
        pytest.skip(f"{kind.name} can't be had here: {found}")
    assert found.built, "its image could not be built: see the first test of this engine"
    return found


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Return each engine in turn, with its commands on the path; no container may outlive the test."""
    found = engine_called(request.config, request.param)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    # A job's last container may still be on its way out when its records say that it is done.
    eventually(lambda: not found.left_over())


@pytest.fixture
def podman(request: pytest.FixtureRequest) -> Podman:
    """Return podman."""
    found = engine_called(request.config, Podman)
    assert isinstance(found, Podman)
    return found


@pytest.fixture
def apptainer(request: pytest.FixtureRequest) -> Apptainer:
    """Return Apptainer."""
    found = engine_called(request.config, Apptainer)
    assert isinstance(found, Apptainer)
    return found


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep hashes and the queue where they disturb nobody."""
    monkeypatch.setenv("HPCBENCH_CACHE", str(work_folder() / "cache"))
    monkeypatch.setenv("HPCBENCH_QUEUE_DIR", str(tmp_path / "queue"))

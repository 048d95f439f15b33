"""The files that images are made of."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = ROOT / "containers" / "pin_base.py"
INSTALL = ROOT / "containers" / "install.sh"
DIGEST = "sha256:" + "5c" * 32


class Registry(http.server.BaseHTTPRequestHandler):
    """A registry that wants a token, as Docker Hub does."""

    def __init__(self, digest: str, *arguments: object) -> None:
        self._digest = digest
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Give a token."""
        self._answer(200, {}, b'{"token": "T"}')

    def do_HEAD(self) -> None:
        """Give a digest to whoever has the token."""
        address = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        if self.headers["Authorization"] == "Bearer T":
            self._answer(200, {"Docker-Content-Digest": self._digest})
        else:
            self._answer(401, {"WWW-Authenticate": f'Bearer realm="{address}",service="s",scope="pull"'})

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a registry that knows one digest."""
    handler = functools.partial(Registry, getattr(request, "param", DIGEST))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def copies(folder: Path, registry: str) -> list[Path]:
    """Copy both files, with their base in another registry."""
    found = []
    for name in ("Dockerfile", "apptainer.def"):
        text = (ROOT / name).read_text()
        assert "BASE=docker.io/library/python" in text
        (folder / name).write_text(text.replace("docker.io/library/python", f"{registry}/library/python"))
        found.append(folder / name)
    return found


def pin(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Run what `make pin-base` runs."""
    command = [sys.executable, str(PIN), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pin_base(registry: str, tmp_path: Path) -> None:
    """Both files get the registry's digest, however often it is asked for."""
    paths = copies(tmp_path, registry)
    for _ in range(2):
        done = pin(*paths)
        assert done.returncode == 0, done.stderr
        docker, sif = (path.read_text() for path in paths)
        assert f"\nARG BASE={registry}/library/python:3.11-slim-bookworm@{DIGEST}\n" in docker
        assert f"\n    # tag: 3.11-slim-bookworm\n    BASE={registry}/library/python@{DIGEST}\n" in sif
        assert sif.count("# tag:") == 1


@pytest.mark.parametrize("registry", ["", "sha256:short"], indirect=True)
def test_no_digest_is_invented(registry: str, tmp_path: Path) -> None:
    """A registry that gives no digest changes nothing."""
    paths = copies(tmp_path, registry)
    before = [path.read_text() for path in paths]
    done = pin(*paths)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert [path.read_text() for path in paths] == before


def test_registry_out_of_reach(tmp_path: Path) -> None:
    """Without a registry nothing is changed, and one line says so."""
    paths = copies(tmp_path, "127.0.0.1:9")
    before = [path.read_text() for path in paths]
    done = pin(*paths)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert [path.read_text() for path in paths] == before


def test_same_base_and_arguments() -> None:
    """Dockerfile and definition file begin with the same image and know the same arguments."""
    docker = arguments((ROOT / "Dockerfile").read_text(), "ARG ")
    text = (ROOT / "apptainer.def").read_text()
    sif = arguments(text[text.index("%arguments") : text.index("%files")], "")
    assert sif.pop("BOOTSTRAP") == "docker"
    assert docker == sif


def arguments(text: str, prefix: str) -> dict[str, str]:
    """Return arguments with their defaults, digests left out."""
    lines = (
        line.strip().removeprefix(prefix) for line in text.splitlines() if line.strip().startswith(prefix)
    )
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.split("@")[0] for name, _, value in pairs if name.isupper()}


@pytest.mark.parametrize(("flavour", "torch"), [("cuda", True), ("cpu", True), ("none", False)])
def test_what_is_installed(flavour: str, torch: bool) -> None:
    """A flavour has what pyproject.toml says, torch and what asks GPUs only where they are wanted."""
    command = ["sh", str(INSTALL), "list", flavour, str(ROOT / "pyproject.toml")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any(line.startswith("submitit") for line in listed)
    assert any(line.startswith("torch>") for line in listed) is torch
    assert any(line.startswith("nvidia-ml-py") for line in listed) is (flavour == "cuda")
    assert not any(line.startswith("pytest") for line in listed)


def test_unknown_flavour() -> None:
    """A flavour that is not there names those that are."""
    command = ["sh", str(INSTALL), "list", "rocm", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cuda, cpu, none" in done.stderr


def test_the_context_is_small() -> None:
    """What goes to a builder is what the Dockerfile copies, and nothing else of the folder."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    text = (ROOT / "Dockerfile").read_text()
    lines = [
        line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line
    ]
    assert {source for line in lines for source in line} == set(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_shell_is_clean() -> None:
    """The script is valid for the smallest shell there is."""
    shell = shutil.which("dash") or shutil.which("sh")
    assert shell is not None
    assert subprocess.run([shell, "-n", str(INSTALL)], check=False).returncode == 0

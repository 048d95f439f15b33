"""What is installed with the package: its dependencies, and the files in its wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hpcbench.launch.containers.rank_containers import INJECTED_PACKAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hpcbench"
# Declared, and not imported: plotly ships the script of report.html.
NOT_IMPORTED = {"plotly"}


def normalized(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Return the distributions that pyproject.toml asks for, with extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return {normalized(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in wanted}


def imported_modules() -> Iterator[tuple[str, Path]]:
    """Give each import of a module that is neither ours nor Python's, also inside functions."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top != "hpcbench" and top not in sys.stdlib_module_names:
                    yield top, path


def test_every_imported_package_is_declared() -> None:
    """Each import, and each package that is injected into images, is a dependency or of an extra."""
    distributions = packages_distributions()
    needed: dict[str, str] = {}
    for module, path in imported_modules():
        assert module in distributions, f"{path} imports {module}, which is not installed"
        needed |= {normalized(name): f"{path} imports it" for name in distributions[module]}
    for module in set(INJECTED_PACKAGES) - {"hpcbench"}:
        needed |= {normalized(name): "it is injected into images" for name in distributions[module]}
    known = declared("train", "nvidia")
    assert not {name: why for name, why in needed.items() if name not in known}
    assert known - needed.keys() == NOT_IMPORTED


def test_the_login_node_needs_no_extra() -> None:
    """What is imported outside of training, tasks and strategies' code is installed without an extra."""
    distributions = packages_distributions()
    extra = declared("train", "nvidia") - declared()
    folders = {
        path.relative_to(PACKAGE).parts[0]
        for module, path in imported_modules()
        if extra & {normalized(name) for name in distributions[module]}
    }
    assert not folders & {"analysis", "cli", "config", "doctor", "report", "runs", "errors.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from the files that git knows, and open it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", folder, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if (
        built.returncode
        and "Could not find a version that satisfies the requirement setuptools" in built.stderr
    ):
        pytest.skip("pip can't download setuptools here")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_profiles_and_no_scripts(wheel: zipfile.ZipFile) -> None:
    """The profiles of hpcbench/profiles are installed, and nothing of slurm/: its lab ends clusters."""
    names = set(wheel.namelist())
    profiles = {name for name in names if name.startswith("hpcbench/profiles/")}
    assert profiles == {f"hpcbench/profiles/{path.name}" for path in (PACKAGE / "profiles").glob("*.yaml")}
    assert len(profiles) == 2
    assert not {name for name in names if name.endswith((".sh", ".sbatch")) or "/lab/" in name}


def test_a_profile_is_found_in_an_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """`--profile rtx4090x4` needs no checkout."""
    wheel.extractall(tmp_path)
    code = (
        "import hpcbench\n"
        "from hpcbench.launch.slurm.slurm_profile import find_profile\n"
        "print(hpcbench.__file__, find_profile('rtx4090x4', []).gpus_per_node)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "hpcbench" / "__init__.py"), "4"]


def test_names_of_modules_and_public_classes_are_unique() -> None:
    """One name, one concept: no two modules and no two public classes of the package share a name."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    places: dict[str, list[Path]] = {}
    for path in paths:
        places.setdefault(path.stem, []).append(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path)
    assert len(paths) > 100
    assert not {name: found for name, found in places.items() if len(found) > 1}

"""A site's profile (`--profile NAME|FILE`): what every job asks Slurm for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Predicate, doc

import hpcbench
from hpcbench.errors import InputError, input_error, nearest
from hpcbench.sweep.run_spec import Container, is_time_limit, seconds_of
from hpcbench.sweep.value_schema import LeafSchema, MapSchema, map_of
from hpcbench.sweep.yaml_document import YamlDocument, read_document

PROFILES_VARIABLE = "HPCBENCH_PROFILES"

TimeLimit = Annotated[
    str, Predicate(is_time_limit), doc("a time limit as HH:MM:SS or D-HH:MM:SS, such as 02:00:00")
]
Memory = Annotated[
    str,
    Predicate(lambda text: re.fullmatch(r"[1-9][0-9]*[KMGT]", text) is not None),
    doc("an amount with its unit, such as 64G"),
]
GpuRequest = Literal["gpus_per_node", "gres", "gpus_per_task"]

# What the shell or sbatch would take for something else has no place in a value. `setup` and `extra` are
# passed on as they are.
_PLAIN = re.compile(r"[\w./:@%+,=\[\]~^ -]*")
_CONSTRAINT = re.compile(r"[\w./:@%+,=\[\]~^&|!()* -]*")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERBATIM_KEYS = ("setup", "extra")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a site asks for. `time` is the longest that one allocation may take, `memory` that of a node.

    `extra` are arguments of sbatch and `setup` shell lines, both verbatim. `data` is the folder in which data
    sets are, or the folder of each.
    """

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: str | None = None
    time: TimeLimit | None = None
    memory: Memory | None = None
    gpus_per_node: Annotated[int, Ge(0), Le(64)] | None = None
    cpus_per_node: Annotated[int, Ge(1), Le(4096)] | None = None
    gpu_request: GpuRequest = "gpus_per_node"
    gpu_type: str | None = None
    exclusive: bool = True
    signal_before_s: Annotated[int, Ge(1), Le(3600)] | None = None
    max_requeues: Annotated[int, Ge(0), Le(1000)] = 3
    max_parallel: Annotated[int, Ge(1), Le(100_000)] | None = None
    extra: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    data: str | dict[str, str] | None = None
    container: Container = field(default_factory=Container)

    @property
    def time_s(self) -> int | None:
        """The longest that one allocation may take, in seconds."""
        return seconds_of(self.time) if self.time else None


def find_profile(wanted: str | None, sweeps: Sequence[Path]) -> Profile:
    """Return a profile by name or file; without one, a profile that asks for nothing."""
    return Profile() if wanted is None else read_profile(_locate(wanted, sweeps))


def profile_folders(sweeps: Sequence[Path]) -> list[Path]:
    """List where a profile is looked for by name, first to last."""
    named = os.environ.get(PROFILES_VARIABLE, "").split(os.pathsep)
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [
        *dict.fromkeys(path.parent for path in sweeps),
        *(Path(folder) for folder in named if folder),
        settings / "hpcbench",
        Path(hpcbench.__file__).parent / "profiles",
    ]


def _locate(wanted: str, sweeps: Sequence[Path]) -> Path:
    if "/" in wanted or wanted.endswith((".yaml", ".yml")):
        return Path(wanted)
    folders = profile_folders(sweeps)
    found = next((path for folder in folders if (path := folder / f"{wanted}.yaml").is_file()), None)
    if found:
        return found
    # Not beside the sweep: the files there are sweeps.
    known = sorted({path.stem for folder in folders[1:] for path in folder.glob("*.yaml")})
    guess = nearest(wanted, known)
    raise InputError(
        f"--profile {wanted}: there is no such profile. Profiles are: {', '.join(known)}"
        f"{f'. Did you mean {guess}?' if guess else ''}. Looked in: {', '.join(map(str, folders))}"
    )


def read_profile(path: Path) -> Profile:
    """Read a profile; raises InputError for anything in it that can't be used."""
    document = read_document(path)
    values = document.value
    if values is None:
        raise input_error("the file is empty", **document.at(()), hint="docs/slurm.md shows a profile")
    if isinstance(values, dict):
        values = values | {key: _lines(values[key]) for key in _VERBATIM_KEYS if key in values}
        if isinstance(values.get("env"), dict):
            values["env"] = {str(key): _text(each) for key, each in values["env"].items()}
    checked = _schema().check(values, document.at, ())
    _refuse_shell_characters(checked, document)
    for key in _VERBATIM_KEYS:
        checked |= {key: tuple(checked[key])} if key in checked else {}
    if "container" in checked:
        checked["container"] = Container(**checked["container"])
    return Profile(**checked)


def _schema() -> MapSchema:
    schema = map_of(Profile)
    children = dict(schema.children) | {
        "extra": LeafSchema(list[str]),
        "setup": LeafSchema(list[str]),
        "container": map_of(Container, short="runtime"),
    }
    return MapSchema(children)


def _lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """Take `NCCL_P2P_DISABLE: 1` as it is meant: variables of an environment are text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _refuse_shell_characters(checked: dict[str, Any], document: YamlDocument) -> None:
    for key, value in checked.items():
        if key in _VERBATIM_KEYS:
            continue
        allowed = _CONSTRAINT if key == "constraint" else _PLAIN
        for name, each in value.items() if isinstance(value, dict) else [(None, value)]:
            path = (key,) if name is None else (key, name)
            if key == "env" and not _VARIABLE_NAME.fullmatch(str(name)):
                raise input_error("not the name of a variable", **document.at(path), found=name)
            if isinstance(each, str) and not (allowed.fullmatch(each) and each.isprintable()):
                raise input_error(
                    "a value with characters that mean something to a shell",
                    **document.at(path),
                    found=each,
                    hint="Shell lines go into setup, arguments of sbatch into extra",
                )

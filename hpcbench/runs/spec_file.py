"""`spec.json` of a run's folder: the resolved run and what its executor needs to know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hpcbench.errors import RecordError
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run in its folder.

    `declared` is the run of the sweep file where `--smoke` scaled it down, `data` where its data set is, and
    `cores_shared_by` among how many devices the cores of a machine are split.
    """

    spec: RunSpec
    declared: RunSpec | None = None
    data: str | None = None
    cores_shared_by: int = 1

    def write(self, folder: RunFolder) -> None:
        """Write it; a file that is the same already is not touched."""
        text = json.dumps(self._to_json(), indent=1)
        if not folder.spec.exists() or folder.spec.read_text() != text:
            write_atomically(folder.spec, text)

    def _to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.spec.run_id,
            "spec": self.spec.to_json(),
            "declared": self.declared.to_json() if self.declared else None,
            "data": self.data,
            "cores_shared_by": self.cores_shared_by,
        }


def read_spec_file(folder: RunFolder) -> StoredRun:
    """Read a run back; raises RecordError where the file is not what `write` leaves."""
    values = read_spec_json(folder)
    try:
        return StoredRun(
            spec=RunSpec.from_json(values["spec"]),
            declared=RunSpec.from_json(values["declared"]) if values["declared"] else None,
            data=values["data"],
            cores_shared_by=values["cores_shared_by"],
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"{folder.spec}: this does not describe a run ({error!r})") from error


def read_spec_json(folder: RunFolder) -> dict[str, Any]:
    """Read the JSON values only: `status` looks at many runs and needs few fields."""
    try:
        values = json.loads(folder.spec.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder.spec}: this does not describe a run ({error})") from error
    if not isinstance(values, dict) or "spec" not in values:
        raise RecordError(f"{folder.spec}: this does not describe a run")
    return values

"""The data sets and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from hpcbench.config.catalog import DatasetEntry
from hpcbench.config.spec import FORBID_UNKNOWN


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """The shape of random data; `samples` is what an epoch pretends to have."""

    __pydantic_config__: ClassVar[Any] = FORBID_UNKNOWN
    channels: Annotated[int, Ge(1), Le(16)] = 3
    image_size: Annotated[int, Ge(4), Le(2048)] = 32
    classes: Annotated[int, Ge(2), Le(100_000)] = 100
    samples: Annotated[int, Gt(0), Le(10**9)] = 50_000
    evaluation_samples: Annotated[int, Gt(0), Le(10**9)] = 10_000


DATASETS: dict[str, DatasetEntry] = {
    # The sizes of the embedded data are facts that a test holds against the data itself.
    "digits": DatasetEntry(
        target="hpcbench.training.data.digits:load",
        unit="img",
        channels=1,
        image_size=8,
        train_samples=1437,
        evaluation_samples=360,
    ),
    "synthetic": DatasetEntry(
        target="hpcbench.training.data.synthetic:load", options=SyntheticOptions, unit="img"
    ),
}

"""The options of each strategy, `strategy_options` in a sweep. No torch here: the login node checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Le

from hpcbench.config.spec import FORBID_UNKNOWN

Megabytes = Annotated[float, Gt(0), Le(100_000)]


@dataclass(frozen=True, kw_only=True)
class NoopOptions:
    """`step_s` is how long a pretended step takes; `fail_at_step` lets a run fail, for tests of jobs."""

    __pydantic_config__: ClassVar[Any] = FORBID_UNKNOWN
    step_s: Annotated[float, Le(3600)] = 0.0
    fail_at_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class DdpOptions:
    """What DistributedDataParallel takes; the defaults are torch's."""

    __pydantic_config__: ClassVar[Any] = FORBID_UNKNOWN
    bucket_mb: Megabytes = 25.0
    gradient_as_bucket_view: bool = False
    static_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class CollectiveOptions:
    """`exchange` says when gradients are reduced, and in which pieces."""

    __pydantic_config__: ClassVar[Any] = FORBID_UNKNOWN
    exchange: Literal["per_parameter", "bucketed", "overlapped"] = "bucketed"
    bucket_mb: Megabytes = 25.0

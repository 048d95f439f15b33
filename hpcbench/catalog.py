"""Everything that a sweep can name, from the three tables that stand beside what they name."""

from __future__ import annotations

from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.tasks.task_registry import DATASETS, MODELS

CATALOG = Catalog(strategies=STRATEGIES, models=MODELS, datasets=DATASETS)

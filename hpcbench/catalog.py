"""Everything that a sweep can name: strategies, models and data sets, from the tables that stand beside
them.
"""

from __future__ import annotations

from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.tasks.task_registry import DATASETS, MODELS

CATALOG = Catalog(strategies=STRATEGIES, models=MODELS, datasets=DATASETS)


MODEL_BLOCKS = {name: entry.blocks for name, entry in CATALOG.models.items()}

"""Training of models: tables and features to train on, training processes, retrains, and the effects of promotions.

It imports ``streams.registry`` and what lies below it, ``engine``, ``sql`` and ``schemas``. The modules that load scikit-learn
(``line_training``, ``retrain_job``, ``promotion_effects``) are imported by themselves, so that commands and the training process
load no more than they need.
"""

from streams.training.datasets import (
    as_training_table,
    has_declared_names,
    is_known_layout,
    mapped_table,
    read_training_table,
    write_table,
)
from streams.training.feature_sources import checked_outcomes, feature_source
from streams.training.imported_table import ImportedTable

__all__ = [
    "ImportedTable",
    "as_training_table",
    "checked_outcomes",
    "feature_source",
    "has_declared_names",
    "is_known_layout",
    "mapped_table",
    "read_training_table",
    "write_table",
]

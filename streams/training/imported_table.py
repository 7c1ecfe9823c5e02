"""A training table with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from schemas import TWIN_TYPES, TwinType

__all__ = ["ImportedTable", "features_without_column", "require_features"]


@dataclass(frozen=True)
class ImportedTable:
    """A training table.

    Attributes:
        frame: ``entity_id``, features, target; without the target it is only a table of features.
        source: kind of the table.
        left_out: features of the twin type that the table has no column for.
        notes: remarks on the data for readers of the results.
        remarks: what was converted or left out while the file was read.
    """

    frame: pd.DataFrame
    target: str
    source: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def with_frame(self, frame: pd.DataFrame, twin_type: TwinType) -> ImportedTable:
        """The table with features that were looked up.

        Raises:
            ValueError: when no column is a feature of the twin type.
        """
        require_features(frame, twin_type)
        return replace(self, frame=frame, left_out=features_without_column(twin_type, frame))

    def require_target(self) -> ImportedTable:
        """The table itself, when it can be trained on.

        Raises:
            ValueError: when it has no target.
        """
        if not self.has_target:
            raise ValueError(f"{self.source}: {self.notes[-1]} (twinstream import FIRST SECOND OUT)")
        return self

    @property
    def has_target(self) -> bool:
        """Whether it can be trained on."""
        return self.target in self.frame


def require_features(frame: pd.DataFrame, twin_type: TwinType) -> None:
    """Refuse a table without any feature of the twin type.

    Raises:
        ValueError: when no column is one.
    """
    names = TWIN_TYPES[twin_type].by_name
    if not any(name in frame for name in names):
        raise ValueError(f"no column is a feature of {twin_type} twins: expected some of {', '.join(names)}")


def features_without_column(twin_type: TwinType, frame: pd.DataFrame) -> tuple[str, ...]:
    """Features of the twin type that a table has no column for."""
    return tuple(name for name in TWIN_TYPES[twin_type].by_name if name not in frame)

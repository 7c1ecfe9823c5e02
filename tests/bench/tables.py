"""The tables of all measurements, a model of each, and its promotion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import TrainingTable, TwinModel, build_training_table
from schemas import Brand, ModelCard, TwinType
from sql.database import Connection
from sql.ledger import Ledger
from streams.settings import Settings
from streams.training import read_training_table

__all__ = ["PRESCRIBERS", "ROWS", "SEED", "TARGET", "Measured", "measured_tables", "promote_first"]

ROWS = 10_000
SEED = 0
TARGET = "prescribing_change"
PRESCRIBERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "hcp_partd_2013_2014.csv.gz"


@dataclass(frozen=True)
class Measured:
    """A table of prescribers with its target and its name in the report."""

    name: str
    frame: pd.DataFrame

    @cached_property
    def table(self) -> TrainingTable:
        """The table as a model is trained on it."""
        return build_training_table(self.frame, TwinType.HCP, TARGET)

    @cached_property
    def model(self) -> TwinModel:
        """The random forest of this table."""
        generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, TARGET, model_type="RandomForest", n_jobs=1, seed=SEED)
        generator.train(self.frame)
        return generator.model


def measured_tables() -> Iterator[Measured]:
    """``ROWS`` generated prescribers, and as many real ones where the public table is available."""
    rng = np.random.default_rng(SEED)
    yield Measured("sample", sample_hcps(ROWS, rng))
    if PRESCRIBERS.is_file():
        real = read_training_table([PRESCRIBERS], TwinType.HCP).frame
        yield Measured("Part D", real.iloc[rng.permutation(len(real))[:ROWS]])


async def promote_first(connection: Connection, card: ModelCard, settings: Settings) -> None:
    """Register a model without files, and make it the first champion of its line."""
    ledger = Ledger(connection)
    await ledger.register_model(card, "0" * 64, pane_s=settings.pane_s, window_s=settings.window_s)
    await ledger.promote(card.line, card.model_id, reason="first model of the line")

"""Plans of pilots and predictions for a table, on the champion of a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from engine import ExperimentDesigner
from engine.experiments import Assignment, Counterfactuals
from engine.twins import TwinModel
from schemas import TWIN_TYPES, EffectPrior, ExperimentPlan, InterventionConfig, PopulationFilter
from schemas.filters import conditions, rows_matching
from sql.database import Database
from sql.experiment_store import current_priors
from streams.registry import ModelLoader, champion_of

__all__ = [
    "LineChampion",
    "PilotAim",
    "RealPeople",
    "count_people",
    "feature_gaps",
    "line_champion",
    "plan_pilot",
    "target_unit",
    "with_predictions",
]


class LineChampion(NamedTuple):
    """The champion of a line, and the calibrated priors of the line's effects."""

    model: TwinModel
    priors: Mapping[str, EffectPrior]


class PilotAim(NamedTuple):
    """What a pilot is to detect: an effect as a fraction, with a power; and how many people there are, None for any number."""

    effect: float = 0.05
    power: float = 0.80
    n_available: int | None = None


class RealPeople(NamedTuple):
    """How many real people satisfy filters, of those that twins are drawn from."""

    n: int
    total: int


def count_people(model: TwinModel, filters: PopulationFilter) -> RealPeople:
    """Count the people behind twins with these filters: the entities of a model's rows, each row one where they have no names.

    Raises:
        ValueError: for a filter on a column that these twins lack.
    """
    table = model.table()
    mask = rows_matching(table.features, conditions(model.card.twin_type, filters, model.card.own_features))
    entities = np.arange(len(table)) if table.entities is None else table.entities
    return RealPeople(len(np.unique(entities[mask])), len(np.unique(entities)))


async def line_champion(database: Database, models: ModelLoader, line: str) -> LineChampion:
    """Load the champion of a line with the line's priors.

    Raises:
        NoChampion: when the line is unknown or has none.
    """
    return LineChampion(await champion_of(database, models, line), await current_priors(database, line))


def plan_pilot(
    champion: LineChampion, campaign: InterventionConfig, filters: PopulationFilter, aim: PilotAim, assignment: Assignment
) -> ExperimentPlan:
    """Plan an experiment on the effect of a campaign."""
    designer = ExperimentDesigner(champion.model, priors=champion.priors)
    return designer.design(
        campaign, filters, effect=aim.effect, power=aim.power, assignment=assignment, n_available=aim.n_available
    )


def feature_gaps(model: TwinModel, table: pd.DataFrame) -> list[str]:
    """Which features have no column or no value in a table, and which have levels that the model never saw, a sentence each.

    Raises:
        ValueError: when no column is a feature.
    """
    missing = [name for name in model.card.features if name not in table]
    if len(missing) == len(model.card.features):
        raise ValueError(f"no column is a feature of {model.card.line}: expected some of {', '.join(missing)}")
    absent = [f"the table has no column for {', '.join(missing)}: these features are treated as missing"] if missing else []
    return [*absent, *model.gap_sentences(table, missing)]


def target_unit(model: TwinModel) -> str:
    """The unit of what a model predicts."""
    return TWIN_TYPES[model.card.twin_type].target(model.card.target).unit


def with_predictions(result: Counterfactuals, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the entities, with what was predicted for each beside their own columns."""
    rows = table.drop(columns=result.entities.columns, errors="ignore").iloc[result.entities.index]
    return pd.concat([rows, result.entities.set_index(rows.index)], axis=1)

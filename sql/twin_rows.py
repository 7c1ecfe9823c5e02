"""Stores selected twins of a population, without the population itself."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, TwinPopulation
from sql.database import Connection
from sql.frame_codec import features_as_json, floats

__all__ = ["insert_twins"]

_INSERT = """
INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior, baseline_lower, baseline_upper, outcome,
                           metadata)
SELECT twin_id, $1, $2::text::twin_type, features, behavior, lower, upper, outcome, $3
FROM ROWS FROM (unnest($4::uuid[], $5::float8[], $6::float8[], $7::float8[], $8::float8[]), jsonb_array_elements($9::text::jsonb))
     AS x (twin_id, behavior, lower, upper, outcome, features)
ON CONFLICT (twin_id) DO NOTHING"""


async def insert_twins(connection: Connection, population: TwinPopulation, rows: Sequence[int]) -> None:
    """Store the twins in these rows of a population's frame, unless they are stored, in this order."""
    frame = population.frame.iloc[list(rows)]
    target = population.target
    await connection.execute(
        _INSERT,
        population.model_id,
        population.twin_type.value,
        population.provenance() | ({} if target in frame else {"outcome": None}),
        [population.twin_ids[row] for row in rows],
        *(floats(frame, name) for name in (BEHAVIOUR, LOWER, UPPER, target)),
        features_as_json(frame, population.features),
    )

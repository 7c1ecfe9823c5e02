"""Counts of the features with which outcomes were predicted, by model: missing, unseen and unused ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from schemas.events import SourceId
from sql.database import Connection, Database

__all__ = ["FeatureCount", "add_feature_counts", "feature_counts", "line_features"]


class FeatureCount(NamedTuple):
    """Outcomes of a model that were predicted from features.

    Attributes:
        outcomes: all of them that could have had this feature.
        missing: of these without a value of the feature.
        unseen: of these with a level of it that the model never saw.
        unused: outcomes that have the feature although the model does not use it.
    """

    line: str
    model_id: UUID
    feature: str
    outcomes: int = 0
    missing: int = 0
    unseen: int = 0
    unused: int = 0


_ADD = """
INSERT INTO feature_counts AS c (line, model_id, feature, outcomes, missing, unseen, unused, source)
SELECT n.*, $8 FROM unnest($1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n
ON CONFLICT (model_id, feature, source) DO UPDATE
SET outcomes = c.outcomes + excluded.outcomes, missing = c.missing + excluded.missing,
    unseen = c.unseen + excluded.unseen, unused = c.unused + excluded.unused"""


async def add_feature_counts(connection: Connection, source: SourceId, counts: Sequence[FeatureCount]) -> None:
    """Add the counts of a batch, in its transaction; only the one that holds the position of the source changes its rows."""
    if counts:
        await connection.execute(_ADD, *map(list, zip(*counts, strict=True)), str(source))


_COUNTS = """
SELECT line, model_id, feature, sum(outcomes)::bigint AS outcomes, sum(missing)::bigint AS missing, sum(unseen)::bigint AS unseen,
       sum(unused)::bigint AS unused
FROM feature_counts WHERE model_id = $1
GROUP BY line, model_id, feature
ORDER BY feature"""


async def feature_counts(database: Database, model_id: UUID) -> list[FeatureCount]:
    """The counts of a model since its first outcome, by feature."""
    return [FeatureCount(**row) for row in await database.fetch(_COUNTS, model_id)]


_LINE_FEATURES = """
SELECT m.line, array_agg(DISTINCT f.name) AS names
FROM digital_twin_models m, unnest(m.features || ARRAY(SELECT jsonb_array_elements_text(m.metrics -> 'left_out'))) AS f (name)
WHERE m.line = ANY($1)
GROUP BY m.line"""


async def line_features(database: Database, lines: Iterable[str]) -> dict[str, frozenset[str]]:
    """Names of all columns that models of each of these lines were trained with, also of columns that they left out.

    Challengers are included; a line without models has none.
    """
    names = sorted(set(lines))
    by_line = {row["line"]: frozenset(row["names"]) for row in await database.fetch(_LINE_FEATURES, names)}
    return {line: by_line.get(line, frozenset()) for line in names}

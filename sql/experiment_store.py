"""What real experiments found, and what is believed of each intervention because of it.

A version of a line's beliefs stands for a set of experiments, whatever the order in which they came; withdrawing one makes a new
version without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from schemas.events import EffectsEvent, ExperimentResult
from schemas.simulation_models import EffectPrior, Reach
from sql.database import Connection, Database, transaction

__all__ = [
    "Calibration",
    "DifferentExperiment",
    "StoredExperiment",
    "add_experiment",
    "answered_simulations",
    "current_priors",
    "current_version",
    "experiments",
    "priors_at_version",
]

Calibration: TypeAlias = Callable[[str, Sequence[ExperimentResult], Mapping[str, Reach]], EffectPrior]
"""From an intervention, all experiments on it that stand, oldest first, and what each reached, to what is believed."""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('effects of ' || $1, 0))"

ADD = """
INSERT INTO experiments (experiment_id, line, intervention, observed_at, body, digest, reach, withdrawn_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN clock_timestamp() END)
ON CONFLICT (experiment_id) DO NOTHING"""

DIGEST = "SELECT digest FROM experiments WHERE experiment_id = $1"

WITHDRAW = "UPDATE experiments SET withdrawn_at = clock_timestamp() WHERE experiment_id = $1 AND withdrawn_at IS NULL"

EXPERIMENTS = """
SELECT body, reach, withdrawn_at IS NOT NULL AS withdrawn FROM experiments
WHERE line = $1 AND ($2::text IS NULL OR intervention = $2) ORDER BY observed_at, experiment_id"""

VERSION = "SELECT coalesce(max(version), 0) FROM effect_versions WHERE line = $1"

NEW_VERSION = """
INSERT INTO effect_versions (line, version, experiments)
SELECT $1, $2, coalesce(array_agg(experiment_id ORDER BY experiment_id COLLATE "C"), '{}')
FROM experiments WHERE line = $1 AND withdrawn_at IS NULL"""

CARRY_OVER = """
INSERT INTO effect_priors (line, version, intervention, prior, experiments)
SELECT line, $2, intervention, prior, experiments FROM effect_priors WHERE line = $1 AND version = $2 - 1 AND intervention <> $3"""

ADD_PRIOR = "INSERT INTO effect_priors (line, version, intervention, prior, experiments) VALUES ($1, $2, $3, $4, $5)"

PRIORS = "SELECT intervention, prior FROM effect_priors WHERE line = $1 AND version = $2"

LAST = """
SELECT prior, experiments FROM effect_priors WHERE line = $1 AND intervention = $2 ORDER BY version DESC LIMIT 1"""


# The simulation that was answered: the one that named the experiment, else the newest of the same campaign on the same people.
ANSWERED = """
SELECT DISTINCT ON (e.experiment_id) (r.results ->> 'ate')::float8 AS simulated, (r.results ->> 'ate_ci_lower')::float8 AS lower,
       (r.results ->> 'ate_ci_upper')::float8 AS upper, (r.results ->> 'confidence_level')::float8 AS level,
       (e.body ->> 'effect')::float8 AS effect, (e.body ->> 'standard_error')::float8 AS standard_error
FROM experiments e JOIN simulation_runs r ON r.line = e.line AND r.status = 'completed' AND r.completed_at < e.recorded_at
WHERE e.line = $1 AND e.intervention = $2 AND e.withdrawn_at IS NULL
  AND r.intervention_config ->> 'intervention_type' = e.intervention
  AND (r.request ->> 'experiment_id' = e.experiment_id
       OR (r.intervention_config = jsonb_strip_nulls(e.body -> 'intervention')
           AND r.filters = jsonb_strip_nulls(e.body -> 'filters')))
ORDER BY e.experiment_id, (r.request ->> 'experiment_id' = e.experiment_id) IS TRUE DESC, r.completed_at DESC"""


class DifferentExperiment(ValueError):
    """The id of an experiment came again with other content."""


class StoredExperiment(NamedTuple):
    """An experiment that was told, and what it reached of its base effect where that could be said."""

    experiment: ExperimentResult
    reach: Reach | None


async def add_experiment(
    database: Database, experiment: ExperimentResult, calibrate: Calibration, reach: Reach | None = None
) -> EffectsEvent:
    """Store an experiment, or withdraw it, and return what is believed from now on; what is stored already changes nothing.

    An experiment that was withdrawn stays so, also when its withdrawal came first.

    Raises:
        DifferentExperiment: when its id is stored with other content.
    """
    line, intervention = experiment.line, experiment.intervention.intervention_type
    async with transaction(database) as connection:
        await connection.execute(LOCK, line)
        if await _changes(connection, experiment, reach):
            await _learn(connection, line, intervention, calibrate)
        row = await connection.fetchrow(LAST, line, intervention)
        prior = EffectPrior(**row["prior"]) if row else calibrate(intervention, [], {})
    return EffectsEvent(line=line, prior=prior, experiments=tuple(row["experiments"]) if row else ())


async def experiments(database: Database, line: str, intervention: str | None = None) -> list[StoredExperiment]:
    """Experiments on a line, oldest first, with those that were withdrawn; of one intervention where it is named."""
    return [
        StoredExperiment(
            ExperimentResult.model_validate(row["body"] | {"withdrawn": row["withdrawn"]}),
            Reach.model_validate(row["reach"]) if row["reach"] else None,
        )
        for row in await database.fetch(EXPERIMENTS, line, intervention)
    ]


async def answered_simulations(database: Database, line: str, intervention: str) -> list[tuple[float, ...]]:
    """Completed simulations of an intervention that a later experiment has answered, one for each experiment.

    Returns:
        The simulated effect, lower and upper end of its interval and the level of that; the effect found and its standard error.
    """
    return [tuple(row) for row in await database.fetch(ANSWERED, line, intervention)]


async def current_version(database: Database, line: str) -> int:
    """The line's newest version; 0 while nobody has experimented on it."""
    return int(await database.fetchval(VERSION, line) or 0)


async def current_priors(database: Database, line: str) -> dict[str, EffectPrior]:
    """What is believed now, by intervention; the catalogue speaks for those left out."""
    return await priors_at_version(database, line, await current_version(database, line))


async def priors_at_version(database: Database, line: str, version: int) -> dict[str, EffectPrior]:
    """What was believed at a version, by intervention; version 0 is the catalogue alone.

    Raises:
        LookupError: for a version that the line never had.
    """
    newest = await current_version(database, line)
    if not 0 <= version <= newest:
        raise LookupError(f"{line} has no effects version {version}: 0 to {newest}")
    return {row["intervention"]: EffectPrior(**row["prior"]) for row in await database.fetch(PRIORS, line, version)}


async def _changes(connection: Connection, experiment: ExperimentResult, reach: Reach | None) -> bool:
    """Store what was told; whether anything other is known by it."""
    digest = _digest(experiment)
    said = (experiment.line, experiment.intervention.intervention_type, experiment.observed_at)
    body = experiment.model_dump(mode="json", exclude={"withdrawn"})
    reached = reach.model_dump(mode="json") if reach else None
    added = await connection.execute(ADD, experiment.experiment_id, *said, body, digest, reached, experiment.withdrawn)
    if added == "INSERT 0 1":
        return not experiment.withdrawn
    if await connection.fetchval(DIGEST, experiment.experiment_id) != digest:
        raise DifferentExperiment(f"experiment {experiment.experiment_id!r} is stored with other content: give a new one a new id")
    return experiment.withdrawn and await connection.execute(WITHDRAW, experiment.experiment_id) == "UPDATE 1"


def _digest(experiment: ExperimentResult) -> bytes:
    """Of what was found, whether or not it stands."""
    return hashlib.sha256(experiment.model_dump_json(exclude={"withdrawn"}).encode()).digest()


async def _learn(connection: Connection, line: str, intervention: str, calibrate: Calibration) -> None:
    version = await current_version(connection, line) + 1
    standing = [told for told in await experiments(connection, line, intervention) if not told.experiment.withdrawn]
    reaches = {told.experiment.experiment_id: told.reach for told in standing if told.reach is not None}
    known = [told.experiment for told in standing]
    prior = calibrate(intervention, known, reaches).model_copy(update={"version": version})
    ids = sorted(each.experiment_id for each in known)
    await connection.execute(NEW_VERSION, line, version)
    await connection.execute(CARRY_OVER, line, version, intervention)
    await connection.execute(ADD_PRIOR, line, version, intervention, prior.model_dump(mode="json"), ids)

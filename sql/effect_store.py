"""What real experiments found, and what is believed of each intervention because of it.

A version of a line's beliefs stands for a set of experiments, whatever the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from schemas.events import EffectsEvent, ExperimentResult, canonical_digest
from schemas.simulation_models import EffectPrior
from sql.database import Connection, Database, transaction

__all__ = [
    "Calibration",
    "DifferentExperiment",
    "add_experiment",
    "current_priors",
    "current_version",
    "experiments",
    "priors_at_version",
]

Calibration: TypeAlias = Callable[[str, Sequence[ExperimentResult]], EffectPrior]
"""From an intervention and all its experiments on a line, oldest first, to what is believed of it."""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('effects of ' || $1, 0))"

ADD = """
INSERT INTO experiments (experiment_id, line, intervention, observed_at, body, digest)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (experiment_id) DO NOTHING"""

DIGEST = "SELECT digest FROM experiments WHERE experiment_id = $1"

EXPERIMENTS = """
SELECT body FROM experiments
WHERE line = $1 AND ($2::text IS NULL OR intervention = $2) ORDER BY observed_at, experiment_id"""

VERSION = "SELECT coalesce(max(version), 0) FROM effect_versions WHERE line = $1"

NEW_VERSION = """
INSERT INTO effect_versions (line, version, experiments)
SELECT $1, $2, array_agg(experiment_id ORDER BY experiment_id COLLATE "C") FROM experiments WHERE line = $1"""

CARRY_OVER = """
INSERT INTO effect_priors (line, version, intervention, prior, experiments)
SELECT line, $2, intervention, prior, experiments FROM effect_priors WHERE line = $1 AND version = $2 - 1 AND intervention <> $3"""

ADD_PRIOR = "INSERT INTO effect_priors (line, version, intervention, prior, experiments) VALUES ($1, $2, $3, $4, $5)"

PRIORS = "SELECT intervention, prior FROM effect_priors WHERE line = $1 AND version = $2"

LAST = """
SELECT prior, experiments FROM effect_priors WHERE line = $1 AND intervention = $2 ORDER BY version DESC LIMIT 1"""


class DifferentExperiment(ValueError):
    """The id of an experiment came again with other content."""


async def add_experiment(database: Database, experiment: ExperimentResult, calibrate: Calibration) -> EffectsEvent:
    """Store an experiment and what is believed with it, and return that; one that is stored already changes nothing.

    Raises:
        DifferentExperiment: when its id is stored with other content.
    """
    async with transaction(database) as connection:
        await connection.execute(LOCK, experiment.line)
        if await _add(connection, experiment):
            await _learn(connection, experiment, calibrate)
        row = await connection.fetchrow(LAST, experiment.line, experiment.intervention.intervention_type)
    assert row is not None  # it was learned when the experiment was stored
    return EffectsEvent(line=experiment.line, prior=EffectPrior(**row["prior"]), experiments=tuple(row["experiments"]))


async def experiments(database: Database, line: str, intervention: str | None = None) -> list[ExperimentResult]:
    """Experiments on a line, oldest first; of one intervention where it is named."""
    return [ExperimentResult.model_validate(row["body"]) for row in await database.fetch(EXPERIMENTS, line, intervention)]


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


async def _add(connection: Connection, experiment: ExperimentResult) -> bool:
    """Whether the experiment is new."""
    digest = canonical_digest(experiment)
    said = (experiment.line, experiment.intervention.intervention_type, experiment.observed_at)
    body = experiment.model_dump(mode="json")
    if await connection.execute(ADD, experiment.experiment_id, *said, body, digest) == "INSERT 0 1":
        return True
    if await connection.fetchval(DIGEST, experiment.experiment_id) != digest:
        raise DifferentExperiment(f"experiment {experiment.experiment_id!r} is stored with other content: give a new one a new id")
    return False


async def _learn(connection: Connection, experiment: ExperimentResult, calibrate: Calibration) -> None:
    line, intervention = experiment.line, experiment.intervention.intervention_type
    version = await current_version(connection, line) + 1
    known = await experiments(connection, line, intervention)
    prior = calibrate(intervention, known).model_copy(update={"version": version})
    ids = sorted(each.experiment_id for each in known)
    await connection.execute(NEW_VERSION, line, version)
    await connection.execute(CARRY_OVER, line, version, intervention)
    await connection.execute(ADD_PRIOR, line, version, intervention, prior.model_dump(mode="json"), ids)

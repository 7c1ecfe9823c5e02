"""Stores results of real experiments, and the effect priors of each intervention that follow from them.

An effects version of a line is determined by its set of experiments, in whatever order they arrived. Withdrawing one makes a new
version without it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import asyncpg
from pydantic import ValidationError

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.events import EffectsEvent, ExperimentResult
from schemas.interventions import INTERVENTIONS
from schemas.simulation_models import EffectPrior, Reach
from sql.database import Connection, Database, transaction
from sql.erasure_store import require_not_erased

__all__ = [
    "IN_EFFECT",
    "Calibration",
    "DifferentExperiment",
    "StoredExperiment",
    "add_experiment",
    "answered_simulations",
    "content_digest",
    "current_priors",
    "current_version",
    "effects_behind_catalogue",
    "effects_of_erased",
    "experiments",
    "known_priors",
    "names_erased_experiment",
    "newest_version",
    "outdated_priors",
    "priors_at_version",
    "redact_experiment",
    "renew_for_catalogue",
    "renew_prior",
    "unusable_experiments",
]

Calibration: TypeAlias = Callable[[str, Sequence[ExperimentResult], Mapping[str, Reach], Sequence[ExperimentResult]], EffectPrior]
"""Computes the prior of an intervention from its valid experiments, oldest first, the reach of each experiment on the line, and the
valid experiments on the line's other interventions."""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('effects of ' || $1, 0))"

ADD = """
INSERT INTO experiments (experiment_id, line, intervention, observed_at, body, digest, reach, withdrawn_at, revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN clock_timestamp() END, $9)
ON CONFLICT (experiment_id) DO NOTHING"""

STATE = "SELECT digest, revision, withdrawn_at IS NOT NULL AS withdrawn FROM experiments WHERE experiment_id = $1"

REVISE = """
UPDATE experiments SET revision = $2, withdrawn_at = CASE WHEN $3 THEN coalesce(withdrawn_at, clock_timestamp()) END
WHERE experiment_id = $1"""

EXPERIMENTS = """
SELECT body, reach, withdrawn_at IS NOT NULL AS withdrawn, revision FROM experiments
WHERE line = $1 AND ($2::text IS NULL OR intervention = $2) ORDER BY observed_at, experiment_id"""

ALL_EXPERIMENTS = """
SELECT experiment_id, body, reach, withdrawn_at IS NOT NULL AS withdrawn, revision FROM experiments"""

NEWEST_VERSION = "SELECT coalesce(max(version), 0) FROM effect_versions WHERE line = $1"

IN_EFFECT = """
coalesce((SELECT p.version FROM effect_pins p WHERE p.line = {line} ORDER BY p.number DESC LIMIT 1),
         (SELECT max(v.version) FROM effect_versions v WHERE v.line = {line}), 0)"""
"""The effects version that simulations of a line take: the one that a person has chosen, else the newest."""

VERSION = f"SELECT {IN_EFFECT.format(line='$1')}"

BEHIND = """
SELECT line FROM (
    SELECT DISTINCT ON (line) line, catalogue_version FROM effect_versions ORDER BY line, version DESC
) newest WHERE coalesce(catalogue_version, 0) < $1 AND ($2::text IS NULL OR line = $2) ORDER BY line"""

NEW_VERSION = """
INSERT INTO effect_versions (line, version, experiments, catalogue_version)
SELECT $1, $2, coalesce(array_agg(experiment_id ORDER BY experiment_id COLLATE "C"), '{}'), $3
FROM experiments WHERE line = $1 AND withdrawn_at IS NULL"""

CARRY_OVER = """
INSERT INTO effect_priors (line, version, intervention, prior, experiments)
SELECT line, $2, intervention, prior, experiments FROM effect_priors
WHERE line = $1 AND version = $2 - 1 AND intervention <> ALL ($3::text[])"""

ADD_PRIOR = "INSERT INTO effect_priors (line, version, intervention, prior, experiments) VALUES ($1, $2, $3, $4, $5)"

PRIORS = "SELECT intervention, prior FROM effect_priors WHERE line = $1 AND version = $2"

DECIDED = """
INSERT INTO experiment_decisions (experiment_id, revision, withdrawn, decided_by, reason, effects_version)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"""

LAST = """
SELECT prior, experiments FROM effect_priors WHERE line = $1 AND intervention = $2 ORDER BY version DESC LIMIT 1"""


MAX_COMPARED = 200
"""Experiments that a track record rests on, the newest ones: every simulation stores its own."""

# For each experiment, the simulation that it tested: the one that named it, else the newest of the same campaign and filters. Each
# is one look into an index, however many simulations the line has; results are read of those that are chosen.
ANSWERED = """
SELECT x.ate AS simulated, x.ate_ci_lower AS lower, x.ate_ci_upper AS upper, x.confidence_level AS level,
       (e.body ->> 'effect')::float8 AS effect, (e.body ->> 'standard_error')::float8 AS standard_error
FROM (
    SELECT experiment_id, line, intervention, recorded_at, body, jsonb_strip_nulls(body -> 'intervention') AS campaign,
           jsonb_strip_nulls(body -> 'filters') AS filters
    FROM experiments WHERE line = $1 AND intervention = $2 AND withdrawn_at IS NULL
    ORDER BY recorded_at DESC, experiment_id LIMIT $3
) e CROSS JOIN LATERAL (
    (SELECT 1 AS choice, r.simulation_id FROM simulation_runs r
     WHERE r.status = 'completed' AND r.request ->> 'experiment_id' = e.experiment_id AND r.line = e.line
       AND r.completed_at < e.recorded_at AND r.intervention_config ->> 'intervention_type' = e.intervention
     ORDER BY r.completed_at DESC LIMIT 1)
    UNION ALL
    (SELECT 2, r.simulation_id FROM simulation_runs r
     WHERE r.status = 'completed' AND r.line = e.line
       AND jsonb_hash_extended(r.intervention_config, 0) = jsonb_hash_extended(e.campaign, 0)
       AND jsonb_hash_extended(r.filters, 0) = jsonb_hash_extended(e.filters, 0)
       AND r.intervention_config = e.campaign AND r.filters = e.filters
       AND r.completed_at < e.recorded_at AND r.intervention_config ->> 'intervention_type' = e.intervention
     ORDER BY r.completed_at DESC LIMIT 1)
    ORDER BY choice LIMIT 1
) chosen JOIN simulation_runs r USING (simulation_id)
CROSS JOIN LATERAL jsonb_to_record(r.results) AS x (ate float8, ate_ci_lower float8, ate_ci_upper float8, confidence_level float8)
ORDER BY e.experiment_id"""


_OF_STATE = frozenset({"withdrawn", "revision", "decided_by", "reason"})
"""Fields that are no part of what an experiment measured."""


class DifferentExperiment(ValueError):
    """The id of an experiment was used again with other content."""


class StoredExperiment(NamedTuple):
    """A stored experiment, and the share of the base effect that it reached, when that is known."""

    experiment: ExperimentResult
    reach: Reach | None


async def add_experiment(
    database: Database, experiment: ExperimentResult, calibrate: Calibration, reach: Reach | None = None
) -> EffectsEvent:
    """Store or withdraw an experiment, and return the prior that follows; a repeated result changes nothing.

    The state of the highest revision counts, in whatever order they arrive; at equal revisions the withdrawal does.

    Raises:
        DifferentExperiment: when its id is stored with other content.
        NamesErased: when it names a person who was erased, also where it was stored before that.
    """
    line, intervention = experiment.line, experiment.intervention.intervention_type
    async with transaction(database) as connection:
        await require_not_erased(connection, "experiment", experiment.model_dump(mode="json", exclude_none=True), line)
        await connection.execute(LOCK, line)
        state = await _store(connection, experiment, reach)
        version = await _add_version(connection, line, intervention, calibrate) if state == "changed" else None
        if state != "as before" and (experiment.withdrawn or experiment.revision):
            decided = (experiment.decided_by or "", experiment.reason or "")
            await connection.execute(
                DECIDED, experiment.experiment_id, experiment.revision, experiment.withdrawn, *decided, version
            )
        row = await connection.fetchrow(LAST, line, intervention)
        prior = EffectPrior(**row["prior"]) if row else calibrate(intervention, [], {}, [])
        in_effect = await current_version(connection, line) == await newest_version(connection, line)
    return EffectsEvent(line=line, prior=prior, experiments=tuple(row["experiments"]) if row else (), in_effect=in_effect)


async def outdated_priors(database: Database, method: int) -> list[tuple[str, str]]:
    """Line and intervention of each newest prior that an older method has computed, or other declared levels.

    One of a campaign that the catalogue has no longer, which was only borrowed, is left as it is.
    """
    stored = [(row["line"], EffectPrior(**row["prior"])) for row in await database.fetch(NEWEST)]
    return [
        (line, prior.intervention_type)
        for line, prior in stored
        if prior.intervention_type in INTERVENTIONS and prior.is_outdated(method)
    ]


async def renew_prior(database: Database, line: str, intervention: str, calibrate: Calibration, method: int) -> EffectsEvent:
    """Compute the newest prior of an older method again, as a new version; repeated, it changes nothing.

    Simulations that are pinned to a version before keep its priors.
    """
    async with transaction(database) as connection:
        await connection.execute(LOCK, line)
        last = await connection.fetch(LAST, line, intervention)
        if EffectPrior(**last[0]["prior"]).is_outdated(method):
            await _add_version(connection, line, intervention, calibrate)
            last = await connection.fetch(LAST, line, intervention)
        in_effect = await current_version(connection, line) == await newest_version(connection, line)
    prior, ids = EffectPrior(**last[0]["prior"]), tuple(last[0]["experiments"])
    return EffectsEvent(line=line, prior=prior, experiments=ids, in_effect=in_effect)


async def effects_behind_catalogue(database: Database) -> list[str]:
    """Lines whose newest effects version was computed under an earlier catalogue than the one in effect."""
    return [row["line"] for row in await database.fetch(BEHIND, catalogue_in_effect().version, None)]


async def renew_for_catalogue(
    database: Database, line: str, calibrate: Calibration, publish: Callable[[EffectsEvent], Awaitable[None]]
) -> list[EffectsEvent]:
    """Compute the priors of all campaigns under the catalogue in effect, and add a version where one is another one.

    So priors follow from the catalogue and the experiments, whichever came first. The new priors are passed to ``publish`` before
    the transaction ends, and returned; repeated, nothing changes. Simulations that are pinned to a version before keep its priors.
    """
    async with transaction(database) as connection:
        await connection.execute(LOCK, line)
        if not await connection.fetch(BEHIND, catalogue_in_effect().version, line):
            return []
        version = await newest_version(connection, line) + 1
        changed = await _changed_priors(connection, line, version, set(INTERVENTIONS), calibrate)
        if not changed:
            return []
        await _store_version(connection, line, version, changed)
        in_effect = await current_version(connection, line) == version
        events = [
            EffectsEvent(line=line, prior=prior, experiments=tuple(ids), in_effect=in_effect) for prior, ids in changed.values()
        ]
        for event in events:
            await publish(event)
    return events


async def experiments(database: Database, line: str, intervention: str | None = None) -> list[StoredExperiment]:
    """Experiments on a line or on one of its interventions, oldest first, including withdrawn ones.

    One that an earlier version has stored, and that is none by the rules of this one, is left out: it must not keep the others from
    being used. :func:`unusable_experiments` has those.
    """
    stored = [_stored(row) for row in await database.fetch(EXPERIMENTS, line, intervention)]
    return [experiment for experiment in stored if isinstance(experiment, StoredExperiment)]


async def unusable_experiments(database: Database) -> dict[str, ValidationError]:
    """Experiments that an earlier version has stored and this one refuses, by their ids, with why."""
    stored = [(row["experiment_id"], _stored(row)) for row in await database.fetch(ALL_EXPERIMENTS)]
    return {experiment_id: error for experiment_id, error in stored if isinstance(error, ValidationError)}


def _stored(row: asyncpg.Record) -> StoredExperiment | ValidationError:
    try:
        experiment = ExperimentResult.model_validate(row["body"] | {"withdrawn": row["withdrawn"], "revision": row["revision"]})
    except ValidationError as error:
        return error
    return StoredExperiment(experiment, Reach.model_validate(row["reach"]) if row["reach"] else None)


async def answered_simulations(
    database: Database, line: str, intervention: str, newest: int = MAX_COMPARED
) -> list[tuple[float, ...]]:
    """Completed simulations of an intervention that a later experiment tested, one for each of its ``newest`` experiments.

    Returns:
        Simulated effect, lower and upper end of its interval, and confidence level; measured effect and its standard error.
    """
    return [tuple(row) for row in await database.fetch(ANSWERED, line, intervention, newest)]


async def newest_version(database: Database, line: str) -> int:
    """The line's newest effects version; 0 while it has no experiment."""
    return int(await database.fetchval(NEWEST_VERSION, line))


async def current_version(database: Database, line: str) -> int:
    """The effects version that simulations of the line take: the newest, unless a person has chosen another."""
    return int(await database.fetchval(VERSION, line))


async def current_priors(database: Database, line: str) -> dict[str, EffectPrior]:
    """The priors of the version in effect, by intervention; for others the catalogue prior holds."""
    return known_priors(await priors_at_version(database, line, await current_version(database, line)))


def known_priors(priors: Mapping[str, EffectPrior]) -> dict[str, EffectPrior]:
    """Those of campaigns that the catalogue in effect has: an earlier one may lack campaigns whose priors were only borrowed."""
    return {name: prior for name, prior in priors.items() if name in INTERVENTIONS}


async def priors_at_version(database: Database, line: str, version: int) -> dict[str, EffectPrior]:
    """The priors at a version, by intervention; version 0 has none, so that the catalogue priors hold.

    Raises:
        LookupError: when the line has no such version.
    """
    newest = await newest_version(database, line)
    if not 0 <= version <= newest:
        raise LookupError(f"{line} has no effects version {version}: 0 to {newest}")
    return {row["intervention"]: EffectPrior(**row["prior"]) for row in await database.fetch(PRIORS, line, version)}


REDACT = "SELECT redact_experiment($1, $2, $3, $4)"


async def redact_experiment(
    connection: Connection, experiment_id: str, body: dict[str, Any], line: str, *, is_renamed: bool
) -> None:
    """Replace the body of an experiment by its redaction; ``is_renamed`` gives its id an erased name too, wherever it is stored.

    Raises:
        asyncpg.CheckViolationError: when ``body`` is no redaction of the stored one.
    """
    await connection.execute(LOCK, line)
    name = await connection.fetchval("SELECT erased_name($1)", experiment_id) if is_renamed else experiment_id
    body = body | {"experiment_id": name}
    try:
        digest = content_digest(ExperimentResult.model_validate(body))
    except ValidationError:  # it is compared with nothing: whoever names it again is refused
        digest = b""
    await connection.execute(REDACT, experiment_id, is_renamed, body, digest)


NEWEST = """
SELECT DISTINCT ON (line, intervention) line, prior, experiments FROM effect_priors ORDER BY line, intervention, version DESC"""

_ERASED_NAME = "[erased "


def names_erased_experiment(experiment_ids: Sequence[str]) -> bool:
    """Whether one of the experiments was given an erased name."""
    return any(name.startswith(_ERASED_NAME) for name in experiment_ids)


async def effects_of_erased(database: Database) -> list[EffectsEvent]:
    """The newest priors that follow from experiments whose ids were erased, as they are published."""
    rows = [row for row in await database.fetch(NEWEST) if names_erased_experiment(row["experiments"])]
    return [
        EffectsEvent(line=row["line"], prior=EffectPrior(**row["prior"]), experiments=tuple(row["experiments"])) for row in rows
    ]


async def _store(
    connection: Connection, experiment: ExperimentResult, reach: Reach | None
) -> Literal["as before", "stored", "changed"]:
    """Store an experiment or its withdrawal; returns whether that has changed the set of valid experiments."""
    digest = content_digest(experiment)
    fields = (experiment.line, experiment.intervention.intervention_type, experiment.observed_at)
    body = experiment.model_dump(mode="json", exclude={*_OF_STATE})
    reach_body = reach.model_dump(mode="json") if reach else None
    state = (experiment.revision, experiment.withdrawn)
    added = await connection.execute(ADD, experiment.experiment_id, *fields, body, digest, reach_body, *reversed(state))
    if added == "INSERT 0 1":
        return "stored" if experiment.withdrawn else "changed"
    (stored,) = await connection.fetch(STATE, experiment.experiment_id)
    if stored["digest"] != digest:
        raise DifferentExperiment(f"experiment {experiment.experiment_id!r} is stored with other content: give a new one a new id")
    if state <= (stored["revision"], stored["withdrawn"]):
        return "as before"
    await connection.execute(REVISE, experiment.experiment_id, *state)
    return "changed" if experiment.withdrawn != stored["withdrawn"] else "stored"


def content_digest(experiment: ExperimentResult) -> bytes:
    """Digest of the content of an experiment, whether or not it is withdrawn or confirmed, and of which revision.

    A field that came later is left out where it is not given, so that results that were stored before have their digest still.
    """
    later = {"control_ratio"} if experiment.control_ratio is None else set()
    return hashlib.sha256(experiment.model_dump_json(exclude={"confirmed", *_OF_STATE, *later}).encode()).digest()


async def _add_version(connection: Connection, line: str, intervention: str, calibrate: Calibration) -> int:
    """Add the version of today's valid experiments, and return it: priors of the intervention, and of others that they change."""
    version = await newest_version(connection, line) + 1
    stored = [row.experiment for row in await experiments(connection, line)]
    names = {intervention, *_may_learn(intervention, stored)}
    changed = await _changed_priors(connection, line, version, names, calibrate, always=intervention)
    await _store_version(connection, line, version, changed)
    return version


_Changed: TypeAlias = dict[str, tuple[EffectPrior, list[str]]]


async def _changed_priors(
    connection: Connection, line: str, version: int, names: set[str], calibrate: Calibration, always: str | None = None
) -> _Changed:
    """The priors of interventions, of those that differ from the version before and of ``always``, with their experiments' ids."""
    stored = await experiments(connection, line)
    valid = [row.experiment for row in stored if not row.experiment.withdrawn]
    reaches = {row.experiment.experiment_id: row.reach for row in stored if row.reach is not None and not row.experiment.withdrawn}
    before = await priors_at_version(connection, line, version - 1)

    def changed_priors() -> _Changed:
        changed = {}
        for name in sorted(names):
            own = [experiment for experiment in valid if experiment.intervention.intervention_type == name]
            others = [experiment for experiment in valid if experiment.intervention.intervention_type != name]
            prior = calibrate(name, own, reaches, others)
            if name == always or not _is_alike(prior, before.get(name) or calibrate(name, [], {}, [])):
                ids = sorted(experiment.experiment_id for experiment in own if experiment.measures_target)
                changed[name] = (prior.model_copy(update={"version": version}), ids)
        return changed

    # NumPy computes beside the event loop, which serves the other lines meanwhile
    return await asyncio.to_thread(changed_priors)


async def _store_version(connection: Connection, line: str, version: int, changed: _Changed) -> None:
    await connection.execute(NEW_VERSION, line, version, catalogue_in_effect().version)
    await connection.execute(CARRY_OVER, line, version, [*changed])
    for name, (prior, ids) in changed.items():
        await connection.execute(ADD_PRIOR, line, version, name, prior.model_dump(mode="json"), ids)


def _may_learn(intervention: str, stored: Sequence[ExperimentResult]) -> set[str]:
    """Interventions whose priors may change with the experiments on another: all by its subgroups, else those without their own."""
    if any(result.subgroups for result in stored if result.intervention.intervention_type == intervention):
        return set(INTERVENTIONS)
    return set(INTERVENTIONS) - {result.intervention.intervention_type for result in stored if not result.withdrawn}


def _is_alike(prior: EffectPrior, before: EffectPrior) -> bool:
    """Whether two priors are the same but for their versions."""
    return prior.model_copy(update={"version": 0}) == before.model_copy(update={"version": 0})

"""Shows experiments and effects versions as they are stored, and keeps which version of a line is in effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NamedTuple

from schemas.interventions import INTERVENTIONS
from schemas.service_events import EffectsChoice, EffectsEvent
from schemas.simulation_models import EffectPrior
from sql.database import Database, transaction
from sql.experiment_store import LOCK, current_version, newest_version

__all__ = [
    "EffectsPin",
    "EffectsVersion",
    "ExperimentDecision",
    "ExperimentRow",
    "UnknownExperiment",
    "calibrated_lines",
    "chosen_effects",
    "effects_pins",
    "effects_versions",
    "experiment_decisions",
    "experiment_rows",
    "find_experiment",
    "lines_to_announce",
    "pin_version",
    "publish_choice",
    "refusal_at",
]

_ROWS = """
SELECT e.experiment_id, e.line, e.intervention, e.body, e.digest, e.reach, e.recorded_at, e.withdrawn_at, e.revision,
       (SELECT min(version) FROM effect_versions v WHERE v.line = e.line AND e.experiment_id = ANY(v.experiments)) AS first_version
FROM experiments e
WHERE ($1::text IS NULL OR e.line = $1) AND ($2::text IS NULL OR e.intervention = $2) AND ($3::text IS NULL OR e.experiment_id = $3)
  AND ($5::timestamptz IS NULL OR e.observed_at < $5 OR e.observed_at = $5 AND e.experiment_id > $6)
ORDER BY e.observed_at DESC, e.experiment_id LIMIT $4"""

_VERSIONS = "SELECT version, made_at, catalogue_version, experiments FROM effect_versions WHERE line = $1 ORDER BY version"
_PRIORS = "SELECT version, intervention, prior, experiments FROM effect_priors WHERE line = $1 ORDER BY version, intervention"
_PRIORS_AT = "SELECT intervention, prior, experiments FROM effect_priors WHERE line = $1 AND version = $2"
_PINS = "SELECT number, version, pinned_at, pinned_by, reason FROM effect_pins WHERE line = $1 ORDER BY number"
_ADD_PIN = """
INSERT INTO effect_pins (line, number, version, pinned_by, reason)
SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4 FROM effect_pins WHERE line = $1
RETURNING number, version, pinned_at, pinned_by, reason"""
_DECISIONS = """
SELECT d.experiment_id, d.withdrawn, d.decided_at, d.decided_by, d.reason, d.effects_version
FROM experiment_decisions d JOIN experiments e USING (experiment_id)
WHERE ($1::text IS NULL OR e.line = $1) AND ($2::text IS NULL OR d.experiment_id = $2) ORDER BY d.decided_at"""
_UNPUBLISHED = """
SELECT p.line FROM effect_pins p LEFT JOIN effect_pin_tellings t USING (line)
GROUP BY p.line, t.number HAVING max(p.number) > coalesce(t.number, 0) ORDER BY p.line"""
_PUBLISHED = "SELECT coalesce(max(number), 0) FROM effect_pin_tellings WHERE line = $1"
_SET_PUBLISHED = """
INSERT INTO effect_pin_tellings (line, number) VALUES ($1, $2) ON CONFLICT (line) DO UPDATE SET number = excluded.number"""
_CAMPAIGNS = "SELECT DISTINCT intervention FROM effect_priors WHERE line = $1 ORDER BY intervention"
_LINES = "SELECT DISTINCT line FROM effect_versions ORDER BY line"
_REFUSAL = """
SELECT kind, reason FROM refused_records
WHERE topic = $1 AND partition = $2 AND source_offset = $3 AND refused_at >= $4 ORDER BY refused_at DESC LIMIT 1"""


class UnknownExperiment(LookupError):
    """There is no experiment with this id."""


class ExperimentRow(NamedTuple):
    """An experiment as it is stored, also one that the catalogue of today does not know.

    Attributes:
        body: the fields of its result.
        digest: of its content, by which a result is the same.
        reach: share of the base effect that it reached, when that is known.
        withdrawn_at: null while it counts.
        first_version: the first effects version with it; null where none ever had it.
    """

    experiment_id: str
    line: str
    intervention: str
    body: dict[str, Any]
    digest: bytes
    reach: dict[str, Any] | None
    recorded_at: datetime
    withdrawn_at: datetime | None
    revision: int
    first_version: int | None

    @property
    def state(self) -> tuple[int, bool]:
        """Revision, and whether it is withdrawn: of two states of one result the higher counts."""
        return self.revision, self.withdrawn_at is not None


class ExperimentDecision(NamedTuple):
    """An experiment was withdrawn, or that was taken back.

    Attributes:
        effects_version: that follows from it; null where the experiment never counted.
    """

    experiment_id: str
    withdrawn: bool
    decided_at: datetime
    decided_by: str
    reason: str
    effects_version: int | None


class EffectsVersion(NamedTuple):
    """One version of a line's effects.

    Attributes:
        catalogue_version: that it was computed under; null where that was not stored yet.
        experiments: ids of all that were valid then, on any campaign.
        priors: of the campaigns with experiments, and the experiments of each.
        decision: of a person, that it follows from; null where a result was added.
    """

    version: int
    made_at: datetime
    catalogue_version: int | None
    experiments: tuple[str, ...]
    priors: dict[str, tuple[EffectPrior, tuple[str, ...]]]
    decision: ExperimentDecision | None = None


class EffectsPin(NamedTuple):
    """A choice of the version in effect; ``version`` is null where the newest one is."""

    number: int
    version: int | None
    pinned_at: datetime
    pinned_by: str
    reason: str


async def experiment_rows(
    database: Database,
    line: str | None = None,
    intervention: str | None = None,
    limit: int = 1000,
    after: tuple[datetime, str] | None = None,
) -> list[ExperimentRow]:
    """Experiments, the newest first, with withdrawn ones; those that follow the one with a time of observation and an id."""
    rows = await database.fetch(_ROWS, line, intervention, None, limit, *(after or (None, None)))
    return [ExperimentRow(**row) for row in rows]


async def find_experiment(database: Database, experiment_id: str) -> ExperimentRow:
    """The experiment with an id.

    Raises:
        UnknownExperiment: when there is none.
    """
    row = await database.fetchrow(_ROWS, None, None, experiment_id, 1, None, None)
    if row is None:
        raise UnknownExperiment(f"there is no experiment {experiment_id!r}: twinstream experiments list shows them")
    return ExperimentRow(**row)


async def refusal_at(database: Database, topic: str, partition: int, offset: int, since: datetime) -> tuple[str, str] | None:
    """Kind and reason of the refusal of a record since a time; None where it was not refused."""
    row = await database.fetchrow(_REFUSAL, topic, partition, offset, since)
    return (row["kind"], row["reason"]) if row else None


async def calibrated_lines(database: Database) -> list[str]:
    """Lines with effects versions."""
    return [row["line"] for row in await database.fetch(_LINES)]


async def effects_versions(database: Database, line: str) -> list[EffectsVersion]:
    """All effects versions of a line, the oldest first."""
    priors: dict[int, dict[str, tuple[EffectPrior, tuple[str, ...]]]] = {}
    for row in await database.fetch(_PRIORS, line):
        priors.setdefault(row["version"], {})[row["intervention"]] = (EffectPrior(**row["prior"]), tuple(row["experiments"]))
    decisions = {row["effects_version"]: ExperimentDecision(**row) for row in await database.fetch(_DECISIONS, line, None)}
    return [
        EffectsVersion(
            row["version"],
            row["made_at"],
            row["catalogue_version"],
            tuple(row["experiments"]),
            priors.get(row["version"], {}),
            decisions.get(row["version"]),
        )
        for row in await database.fetch(_VERSIONS, line)
    ]


async def experiment_decisions(database: Database, experiment_id: str) -> list[ExperimentDecision]:
    """Every withdrawal of an experiment and what took it back, the oldest first."""
    return [ExperimentDecision(**row) for row in await database.fetch(_DECISIONS, None, experiment_id)]


async def effects_pins(database: Database, line: str) -> list[EffectsPin]:
    """Every choice of the version in effect, the oldest first."""
    return [EffectsPin(**row) for row in await database.fetch(_PINS, line)]


async def pin_version(database: Database, line: str, version: int | None, *, pinned_by: str, reason: str = "") -> EffectsPin:
    """Let simulations of a line take a version from now on, or the newest one where it is None.

    Experiments that arrive meanwhile are stored and make new versions, which are not in effect.

    Raises:
        LookupError: when the line has no such version.
        ValueError: when it is in effect already.
    """
    async with transaction(database) as connection:
        await connection.execute(LOCK, line)
        newest, current = await newest_version(connection, line), await current_version(connection, line)
        pins = await effects_pins(connection, line)
        if not newest:
            raise LookupError(f"{line} has no effects version yet: it takes the catalogue's effects (twinstream experiments add)")
        if version is not None and not 0 <= version <= newest:
            raise LookupError(f"{line} has no effects version {version}: 0 (the catalogue) to {newest}")
        is_pinned = bool(pins) and pins[-1].version is not None
        if version is None and not is_pinned:
            raise ValueError(f"{line} takes its newest effects version, {newest}: there is nothing to take back")
        if version is not None and version == current:
            raise ValueError(f"effects version {version} of {line} is in effect already")
        (row,) = await connection.fetch(_ADD_PIN, line, version, pinned_by, reason)
    return EffectsPin(**row)


async def lines_to_announce(database: Database) -> list[str]:
    """Lines whose last choice of a version was not published yet."""
    return [row["line"] for row in await database.fetch(_UNPUBLISHED)]


async def publish_choice(
    database: Database,
    line: str,
    catalogue_prior: Callable[[str], EffectPrior],
    publish: Callable[[EffectsEvent], Awaitable[None]],
    *,
    after: str | None = None,
) -> None:
    """Pass the priors that simulations of a line take to ``publish``, after a choice that was not published yet.

    While it runs nobody chooses another version, so that the newest record of each campaign is the prior in effect. Events are
    published again when the process ends, or ``publish`` raises, before the transaction ends.

    Args:
        database: connections to Postgres.
        line: name of the line.
        catalogue_prior: the catalogue's prior of a campaign, which holds where the version has none.
        publish: publishes an event.
        after: a campaign of which a new version was published just now: its prior in effect follows, where that is another one.
    """
    async with transaction(database) as connection:
        await connection.execute(LOCK, line)
        pins = await effects_pins(connection, line)
        published: int = await connection.fetchval(_PUBLISHED, line)
        if not pins:
            return
        is_new, is_rollback = pins[-1].number > published, pins[-1].version is not None
        for event in await chosen_effects(connection, line, catalogue_prior):
            if is_new or (is_rollback and event.prior.intervention_type == after):
                await publish(event)
        await connection.execute(_SET_PUBLISHED, line, pins[-1].number)


async def chosen_effects(database: Database, line: str, catalogue_prior: Callable[[str], EffectPrior]) -> list[EffectsEvent]:
    """The priors that simulations of a line take by the last choice of a version, of each campaign that a version has calibrated.

    Without any choice there are none, nor of a campaign that has left the catalogue.
    """
    pins = await effects_pins(database, line)
    if not pins:
        return []
    pin = pins[-1]
    names = [row["intervention"] for row in await database.fetch(_CAMPAIGNS, line)]
    rows = await database.fetch(_PRIORS_AT, line, await current_version(database, line))
    stored = {row["intervention"]: (EffectPrior(**row["prior"]), tuple(row["experiments"])) for row in rows}
    choice = EffectsChoice(version=pin.version, chosen_at=pin.pinned_at, chosen_by=pin.pinned_by, reason=pin.reason)
    events = []
    for name in (name for name in names if name in INTERVENTIONS):
        prior, ids = stored.get(name) or (catalogue_prior(name), ())
        events.append(EffectsEvent(line=line, prior=prior, experiments=ids, choice=choice))
    return events

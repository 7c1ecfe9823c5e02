"""Effects versions as they are shown, and the one that a person has put into effect, on a real PostgreSQL."""

from __future__ import annotations

import asyncpg
import pytest

from schemas import EffectPrior, EffectsEvent
from sql.database import Pool
from sql.effects_store import (
    UnknownExperiment,
    calibrated_lines,
    effects_pins,
    effects_versions,
    experiment_decisions,
    experiment_rows,
    find_experiment,
    lines_to_announce,
    pin_version,
    publish_choice,
)
from sql.experiment_store import add_experiment, current_priors, current_version, newest_version, priors_at_version
from tests.unit.sql.test_experiment_store import EMAIL, LINE, SPEAKER, an_experiment, average, withdrawn


async def test_a_pinned_version_is_in_effect_whatever_experiments_arrive_until_it_is_taken_back(pool: Pool) -> None:
    first = await add_experiment(pool, an_experiment("a", 0.1), average)
    await add_experiment(pool, an_experiment("b", 0.3), average)
    pin = await pin_version(pool, LINE, 1, pinned_by="ann", reason="b is doubted")
    assert (pin.number, pin.version, pin.pinned_by, pin.reason) == (1, 1, "ann", "b is doubted")
    third = await add_experiment(pool, an_experiment("c", 0.5), average)
    assert (await current_version(pool, LINE), await newest_version(pool, LINE), third.prior.version) == (1, 3, 3)
    assert await current_priors(pool, LINE) == {EMAIL: first.prior}
    assert (await priors_at_version(pool, LINE, 3))[EMAIL].mean == pytest.approx(0.3)
    await pin_version(pool, LINE, None, pinned_by="ann")
    assert await current_version(pool, LINE) == 3
    assert [(item.number, item.version) for item in await effects_pins(pool, LINE)] == [(1, 1), (2, None)]


async def test_the_catalogue_itself_is_version_0_and_can_be_pinned(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await pin_version(pool, LINE, 0, pinned_by="ann")
    assert await current_priors(pool, LINE) == {}


async def test_versions_that_are_not_there_and_choices_that_change_nothing_are_refused(pool: Pool) -> None:
    with pytest.raises(LookupError, match="has no effects version yet"):
        await pin_version(pool, LINE, 1, pinned_by="ann")
    await add_experiment(pool, an_experiment("a", 0.1), average)
    with pytest.raises(LookupError, match=r"no effects version 2: 0 \(the catalogue\) to 1"):
        await pin_version(pool, LINE, 2, pinned_by="ann")
    with pytest.raises(ValueError, match=r"version 1 of .* is in effect already"):
        await pin_version(pool, LINE, 1, pinned_by="ann")
    with pytest.raises(ValueError, match="nothing to take back"):
        await pin_version(pool, LINE, None, pinned_by="ann")


async def test_a_choice_is_never_rewritten(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await pin_version(pool, LINE, 0, pinned_by="ann")
    for statement in ("UPDATE effect_pins SET version = 1", "DELETE FROM effect_pins"):
        with pytest.raises(asyncpg.PostgresError, match="effect_pins"):
            await pool.execute(statement)


async def test_history_has_each_version_with_its_priors_and_what_they_rest_on(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await add_experiment(pool, an_experiment("b", 0.2, SPEAKER, day=1), average)
    await add_experiment(pool, withdrawn(an_experiment("a", 0.1)), average)
    versions = await effects_versions(pool, LINE)
    assert [(item.version, item.catalogue_version, item.experiments) for item in versions] == [
        (1, 0, ("a",)),
        (2, 0, ("a", "b")),
        (3, 0, ("b",)),
    ]
    assert {name: ids for name, (_, ids) in versions[1].priors.items()} == {EMAIL: ("a",), SPEAKER: ("b",)}
    assert await calibrated_lines(pool) == [LINE]
    assert [(row.experiment_id, row.first_version, row.state) for row in await experiment_rows(pool, LINE)] == [
        ("b", 2, (0, False)),
        ("a", 1, (0, True)),
    ]
    assert (await find_experiment(pool, "a")).body["effect"] == 0.1
    with pytest.raises(UnknownExperiment, match="there is no experiment 'z'"):
        await find_experiment(pool, "z")


async def test_who_withdrew_an_experiment_and_why_is_stored_with_the_version_that_follows(pool: Pool) -> None:
    spring = an_experiment("spring", 0.1)
    await add_experiment(pool, spring, average)
    withdrawal = withdrawn(spring).model_copy(update={"decided_by": "ann@desk", "reason": "the arms were mixed up"})
    for _ in range(2):  # delivered twice
        await add_experiment(pool, withdrawal, average)
    again = spring.model_copy(update={"revision": 1, "decided_by": "bob@desk"})
    await add_experiment(pool, again, average)
    first, second = await experiment_decisions(pool, "spring")
    assert (first.withdrawn, first.decided_by, first.reason, first.effects_version) == (
        True,
        "ann@desk",
        "the arms were mixed up",
        2,
    )
    assert (second.withdrawn, second.decided_by, second.reason, second.effects_version) == (False, "bob@desk", "", 3)
    assert [version.decision for version in await effects_versions(pool, LINE)] == [None, first, second]
    with pytest.raises(asyncpg.PostgresError, match="permission denied"):
        await pool.execute("UPDATE experiment_decisions SET reason = ''")


async def test_a_withdrawal_that_arrives_before_its_experiment_is_kept_with_its_reason(pool: Pool) -> None:
    spring = an_experiment("spring")
    await add_experiment(pool, withdrawn(spring).model_copy(update={"reason": "never ran"}), average)
    await add_experiment(pool, spring, average)
    (decision,) = await experiment_decisions(pool, "spring")
    assert (decision.reason, decision.effects_version) == ("never ran", None)
    assert await newest_version(pool, LINE) == 0


class Topic:
    """Collects what is published: campaign and mean of each prior, with the choice that it follows from."""

    def __init__(self) -> None:
        self.events: list[EffectsEvent] = []

    async def publish(self, event: EffectsEvent) -> None:
        self.events.append(event)

    def take(self) -> list[tuple[str, float, int | None]]:
        events, self.events = self.events, []
        return [(e.prior.intervention_type, round(e.prior.mean, 6), e.choice and e.choice.version) for e in events]


def of_catalogue(intervention: str) -> EffectPrior:
    return average(intervention, [], {}, [])


async def test_a_choice_is_published_once_with_the_prior_in_effect_of_every_campaign(pool: Pool) -> None:
    topic = Topic()
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    assert (topic.take(), await lines_to_announce(pool)) == ([], [])
    await add_experiment(pool, an_experiment("b", 0.2, SPEAKER), average)
    await pin_version(pool, LINE, 1, pinned_by="ann", reason="b is doubted")
    assert await lines_to_announce(pool) == [LINE]
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    choice = topic.events[0].choice
    assert choice is not None
    assert (choice.chosen_by, choice.reason) == ("ann", "b is doubted")
    assert topic.take() == [(EMAIL, 0.1, 1), (SPEAKER, 0.0, 1)]  # version 1 has none for speakers: the catalogue's holds
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    assert (topic.take(), await lines_to_announce(pool)) == ([], [])
    await pin_version(pool, LINE, None, pinned_by="ann")
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    assert topic.take() == [(EMAIL, 0.1, None), (SPEAKER, 0.2, None)]


async def test_a_choice_whose_publication_failed_is_published_by_the_next_attempt(pool: Pool) -> None:
    topic = Topic()
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await pin_version(pool, LINE, 0, pinned_by="ann")

    async def fail(_event: EffectsEvent) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await publish_choice(pool, LINE, of_catalogue, fail)
    assert await lines_to_announce(pool) == [LINE]
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    assert topic.take() == [(EMAIL, 0.0, 0)]


async def test_the_last_prior_published_of_a_campaign_is_the_one_in_effect_also_when_versions_are_added(pool: Pool) -> None:
    topic = Topic()
    await add_experiment(pool, an_experiment("a", 0.1), average)
    await add_experiment(pool, an_experiment("s", 0.2, SPEAKER), average)
    await pin_version(pool, LINE, 1, pinned_by="ann")
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    topic.take()
    new = await add_experiment(pool, an_experiment("b", 0.3), average)
    assert (new.prior.mean, new.in_effect) == (0.2, False)
    await publish_choice(pool, LINE, of_catalogue, topic.publish, after=EMAIL)
    assert topic.take() == [(EMAIL, 0.1, 1)]
    await pin_version(pool, LINE, None, pinned_by="ann")
    await publish_choice(pool, LINE, of_catalogue, topic.publish)
    topic.take()
    newest = await add_experiment(pool, an_experiment("c", 0.5), average)
    assert newest.in_effect
    await publish_choice(pool, LINE, of_catalogue, topic.publish, after=EMAIL)
    assert topic.take() == []

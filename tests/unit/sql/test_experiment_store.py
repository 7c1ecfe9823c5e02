"""Experiments and beliefs on a real PostgreSQL: a version stands for a set, whatever its order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from engine.effects import calibrate, catalogue_prior
from schemas import BUILT_IN, Brand, EffectPrior, EffectsEvent, ExperimentResult, InterventionConfig, Reach, TwinType, in_effect
from sql.database import Pool
from sql.experiment_store import (
    DifferentExperiment,
    StoredExperiment,
    add_experiment,
    current_priors,
    current_version,
    effects_behind_catalogue,
    experiments,
    outdated_priors,
    priors_at_version,
    renew_for_catalogue,
    renew_prior,
    unusable_experiments,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LINE = "hcp:kisqali:prescribing_change"
EMAIL, SPEAKER, PEERS = "email_campaign", "speaker_program_invitation", "peer_to_peer_referral"


def an_experiment(experiment_id: str, effect: float = 0.1, intervention: str = EMAIL, day: int = 0) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=experiment_id,
        observed_at=NOW + timedelta(days=day),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=InterventionConfig(intervention_type=intervention, channel="email", frequency="monthly", duration_weeks=12),
        effect=effect,
        standard_error=0.02,
        n_treated=100,
        n_control=100,
    )


def average(
    intervention: str,
    results: Sequence[ExperimentResult],
    reaches: Mapping[str, Reach],
    _others: Sequence[ExperimentResult],
) -> EffectPrior:
    """The mean effect: a calibration whose result is plain to see."""
    effects = [
        result.effect / (reaches[result.experiment_id].mean if result.experiment_id in reaches else 1.0) for result in results
    ]
    mean = sum(effects) / max(len(results), 1)
    return EffectPrior(intervention_type=intervention, mean=mean, sd=0.01, n_experiments=len(results), source="mean")


def of_catalogue(
    intervention: str,
    results: Sequence[ExperimentResult],
    reaches: Mapping[str, Reach],
    others: Sequence[ExperimentResult],
) -> EffectPrior:
    """The calibration of the service."""
    return calibrate(catalogue_prior(intervention), results, reaches, others)


async def test_an_experiment_makes_a_version_and_the_priors_of_every_version_can_be_read(pool: Pool) -> None:
    first = await add_experiment(pool, an_experiment("a", 0.1), average)
    second = await add_experiment(pool, an_experiment("b", 0.3), average)
    assert (first.prior.version, first.prior.mean, first.experiments) == (1, 0.1, ("a",))
    assert (second.prior.version, second.prior.mean, second.experiments) == (2, 0.2, ("a", "b"))
    assert await priors_at_version(pool, LINE, 0) == {}
    assert await priors_at_version(pool, LINE, 1) == {EMAIL: first.prior}
    assert await current_priors(pool, LINE) == {EMAIL: second.prior}


async def test_an_experiment_on_another_intervention_does_not_change_a_prior(pool: Pool) -> None:
    email = await add_experiment(pool, an_experiment("a"), average)
    speaker = await add_experiment(pool, an_experiment("b", 0.2, SPEAKER), average)
    assert await current_version(pool, LINE) == 2
    assert await current_priors(pool, LINE) == {EMAIL: email.prior, SPEAKER: speaker.prior}
    assert (email.prior.version, speaker.prior.version) == (1, 2)


async def test_an_experiment_changes_the_priors_of_others_that_it_teaches_and_no_others(pool: Pool) -> None:
    """Here an intervention without experiments takes half the effect of the e-mails, and one with its own takes nothing."""

    def borrowing(
        intervention: str,
        results: Sequence[ExperimentResult],
        reaches: Mapping[str, Reach],
        others: Sequence[ExperimentResult],
    ) -> EffectPrior:
        emails = [other for other in others if other.intervention.intervention_type == EMAIL]
        if results or intervention != PEERS:
            return average(intervention, results, reaches, others)
        half = average(intervention, emails, reaches, ())
        return half.model_copy(update={"mean": half.mean / 2, "n_experiments": 0})

    await add_experiment(pool, an_experiment("a", 0.1), borrowing)
    speaker = await add_experiment(pool, an_experiment("b", 0.2, SPEAKER), borrowing)
    priors = await current_priors(pool, LINE)
    assert {name: (prior.mean, prior.version) for name, prior in priors.items()} == {
        EMAIL: (0.1, 1),
        SPEAKER: (0.2, 2),
        PEERS: (0.05, 1),
    }
    assert speaker.experiments == ("b",)
    await add_experiment(pool, withdrawn(an_experiment("a", 0.1)), borrowing)
    assert (await current_priors(pool, LINE))[PEERS].mean == 0.0
    assert await priors_at_version(pool, LINE, 2) == priors


async def test_the_same_experiment_again_changes_nothing_and_returns_the_same(pool: Pool) -> None:
    events = [await add_experiment(pool, an_experiment("a"), average) for _ in range(3)]
    assert events[0] == events[1] == events[2]
    assert await current_version(pool, LINE) == 1


async def test_an_id_with_other_content_is_refused_and_the_first_stays(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a", 0.1), average)
    with pytest.raises(DifferentExperiment, match="'a'"):
        await add_experiment(pool, an_experiment("a", 0.4), average)
    assert [stored.experiment.effect for stored in await experiments(pool, LINE)] == [0.1]


async def test_a_confirmed_result_is_the_same_and_a_planned_ratio_is_content(pool: Pool) -> None:
    first = an_experiment("a")
    await add_experiment(pool, first, average)
    await add_experiment(pool, first.model_copy(update={"confirmed": True}), average)
    assert await current_version(pool, LINE) == 1
    with pytest.raises(DifferentExperiment):
        await add_experiment(pool, first.model_copy(update={"control_ratio": 2.0}), average)


async def test_a_result_that_was_stored_before_ratios_and_confirmations_existed_has_its_digest_still(pool: Pool) -> None:
    first = an_experiment("a")
    await add_experiment(pool, first, average)
    before = first.model_dump_json(exclude={"withdrawn", "confirmed", "control_ratio"}).encode()
    assert await pool.fetchval("SELECT digest FROM experiments") == hashlib.sha256(before).digest()


async def test_experiments_are_read_back_complete_and_oldest_first(pool: Pool) -> None:
    results = [
        an_experiment("late", day=2),
        an_experiment("early", day=1, intervention=SPEAKER),
        an_experiment("b"),
        an_experiment("a"),
    ]
    for result in results:
        await add_experiment(pool, result, average)
    assert [stored.experiment for stored in await experiments(pool, LINE)] == results[::-1]
    assert await experiments(pool, LINE, SPEAKER) == [StoredExperiment(results[1], None)]


async def test_concurrent_experiments_are_all_stored_in_any_order(pool: Pool) -> None:
    results = [an_experiment(f"e{number}", effect=number / 8, day=number % 3) for number in range(8)]
    await asyncio.gather(*(add_experiment(pool, result, average) for result in results + results))
    assert await current_version(pool, LINE) == 8
    prior = (await current_priors(pool, LINE))[EMAIL]
    assert (prior.n_experiments, prior.mean) == (8, 3.5 / 8)


async def test_a_calibration_that_fails_stores_no_experiment(pool: Pool) -> None:
    def failing(
        intervention: str,
        results: Sequence[ExperimentResult],
        reaches: Mapping[str, Reach],
        others: Sequence[ExperimentResult],
    ) -> EffectPrior:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await add_experiment(pool, an_experiment("a"), failing)
    assert await experiments(pool, LINE) == []
    assert (await add_experiment(pool, an_experiment("a"), average)).prior.version == 1


@pytest.mark.parametrize("version", [-1, 2])
async def test_an_unknown_version_is_refused(pool: Pool, version: int) -> None:
    await add_experiment(pool, an_experiment("a"), average)
    with pytest.raises(LookupError, match="0 to 1"):
        await priors_at_version(pool, LINE, version)


async def test_a_line_without_experiments_is_at_version_zero(pool: Pool) -> None:
    assert await current_version(pool, LINE) == 0
    assert await current_priors(pool, LINE) == {}


def withdrawn(experiment: ExperimentResult) -> ExperimentResult:
    return experiment.model_copy(update={"withdrawn": True})


async def test_a_result_that_measures_something_else_is_stored_and_no_prior_names_it(pool: Pool) -> None:
    own, other = an_experiment("a"), an_experiment("b", day=1).model_copy(update={"outcome": "visit", "population": "customers"})
    await add_experiment(pool, own, average)
    effects = await add_experiment(pool, other, average)
    assert effects.experiments == ("a",)
    assert [row.experiment for row in await experiments(pool, LINE)] == [own, other]


async def test_priors_of_an_older_method_are_computed_again_once_and_their_versions_stay(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a"), average)
    await add_experiment(pool, an_experiment("b", intervention=SPEAKER), average)

    def present(
        intervention: str,
        results: Sequence[ExperimentResult],
        reaches: Mapping[str, Reach],
        others: Sequence[ExperimentResult],
    ) -> EffectPrior:
        return average(intervention, results, reaches, others).model_copy(update={"method": 2})

    outdated = await outdated_priors(pool, 2)
    renewed = [await renew_prior(pool, *prior, present, 2) for prior in outdated]
    assert {(event.prior.intervention_type, event.prior.method) for event in renewed} == {(EMAIL, 2), (SPEAKER, 2)}
    assert {prior.method for prior in (await current_priors(pool, LINE)).values()} == {2}
    assert (await priors_at_version(pool, LINE, 2))[EMAIL].method == 1
    assert await outdated_priors(pool, 2) == []
    assert await renew_prior(pool, *outdated[0], present, 2) in renewed
    assert await current_version(pool, LINE) == 4


async def test_priors_are_the_same_whether_the_campaign_or_the_experiment_came_first(pool: Pool) -> None:
    campaign = {"visit": {"channel": "email", "effect": {"mean": 0.06, "sd": 0.03}}}
    later = BUILT_IN.with_entries({"campaigns": campaign}).model_copy(update={"version": 1})
    published: list[EffectsEvent] = []

    async def publish(event: EffectsEvent) -> None:
        published.append(event)

    await add_experiment(pool, an_experiment("a", 0.01), of_catalogue)
    assert await effects_behind_catalogue(pool) == []
    with in_effect(later):
        assert await effects_behind_catalogue(pool) == [LINE]
        events = await renew_for_catalogue(pool, LINE, of_catalogue, publish)
        assert [(event.prior.intervention_type, event.prior.version, event.in_effect) for event in events] == [("visit", 2, True)]
        assert (published, await effects_behind_catalogue(pool)) == (events, [])
        assert await renew_for_catalogue(pool, LINE, of_catalogue, publish) == []
        renewed = await current_priors(pool, LINE)
        for revision, is_withdrawn in enumerate((True, False)):
            state = {"withdrawn": is_withdrawn, "revision": revision}
            await add_experiment(pool, an_experiment("a", 0.01).model_copy(update=state), of_catalogue)
        again = await current_priors(pool, LINE)
    assert {name: prior.model_copy(update={"version": 0}) for name, prior in renewed.items()} == {
        name: prior.model_copy(update={"version": 0}) for name, prior in again.items()
    }
    assert renewed["visit"].borrowed


async def test_an_experiment_that_is_none_any_more_keeps_no_other_from_being_used(pool: Pool, owner_pool: Pool) -> None:
    for name, effect in (("a", 0.1), ("b", 0.3), ("c", 0.2)):
        await add_experiment(pool, an_experiment(name, effect), average)
    await owner_pool.execute(
        "UPDATE experiments SET body = jsonb_set(body, '{n_treated}', '18446744073709551616') WHERE experiment_id = 'b'"
    )
    assert {name: error.errors()[0]["loc"] for name, error in (await unusable_experiments(pool)).items()} == {"b": ("n_treated",)}
    assert [stored.experiment.experiment_id for stored in await experiments(pool, LINE)] == ["a", "c"]
    later = await add_experiment(pool, an_experiment("d", 0.6), average)
    assert (later.experiments, later.prior.n_experiments) == (("a", "c", "d"), 3)


async def test_withdrawing_an_experiment_makes_a_new_version_without_it(pool: Pool) -> None:
    a, b = an_experiment("a", 0.1), an_experiment("b", 0.3)
    first = await add_experiment(pool, a, average)
    await add_experiment(pool, b, average)
    without = await add_experiment(pool, withdrawn(b), average)
    assert (without.prior.version, without.prior.mean, without.experiments) == (3, first.prior.mean, ("a",))
    assert (await priors_at_version(pool, LINE, 2))[EMAIL].mean == 0.2
    assert [stored.experiment.withdrawn for stored in await experiments(pool, LINE)] == [False, True]
    nothing = await add_experiment(pool, withdrawn(a), average)
    assert (nothing.prior.version, nothing.prior.n_experiments, nothing.experiments) == (4, 0, ())


async def test_a_withdrawal_holds_whatever_arrives_again_or_first(pool: Pool) -> None:
    a, b = an_experiment("a", 0.1), an_experiment("b", 0.3)
    for result in (withdrawn(b), b, a, withdrawn(a), a, withdrawn(a)):
        effects = await add_experiment(pool, result, average)
    assert effects.experiments == ()
    assert await current_version(pool, LINE) == 2
    with pytest.raises(DifferentExperiment, match="'a'"):
        await add_experiment(pool, withdrawn(an_experiment("a", 0.2)), average)


@pytest.mark.parametrize("order", list(permutations(range(4))))
async def test_the_state_of_the_highest_revision_counts_in_whatever_order_they_arrive(pool: Pool, order: tuple[int, ...]) -> None:
    a = an_experiment("a", 0.1)
    restored = a.model_copy(update={"revision": 1})
    states = [a, withdrawn(a), restored, a]
    for number in order:
        await add_experiment(pool, states[number], average)
    (stored,) = await experiments(pool, LINE)
    assert stored.experiment == restored
    without = await add_experiment(pool, withdrawn(restored), average)
    assert (without.experiments, without.prior.n_experiments) == ((), 0)


async def test_taking_a_withdrawal_back_makes_a_new_version_with_the_same_prior(pool: Pool) -> None:
    a = an_experiment("a", 0.1)
    first = await add_experiment(pool, a, average)
    await add_experiment(pool, withdrawn(a), average)
    again = await add_experiment(pool, a.model_copy(update={"revision": 1}), average)
    assert again.prior == first.prior.model_copy(update={"version": 3})
    assert again.experiments == ("a",)


async def test_the_reach_of_an_experiment_is_used_for_every_later_version(pool: Pool) -> None:
    await add_experiment(pool, an_experiment("a", 0.3), average, Reach(mean=1.5, sd=0.1))
    later = await add_experiment(pool, an_experiment("b", 0.1), average)
    assert later.prior.mean == pytest.approx((0.2 + 0.1) / 2)
    assert (await experiments(pool, LINE))[0].reach == Reach(mean=1.5, sd=0.1)

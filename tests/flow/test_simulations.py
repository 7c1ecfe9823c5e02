"""Requests and their answers, on the real Kafka and the real Postgres."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import asyncpg
import pytest

from engine import SimulationEngine
from schemas import AnswerStatus, EffectsEvent, ExperimentResult, InterventionConfig, SimulationAnswer, SimulationRequest
from schemas.simulation_models import SimulationRecommendation, TrackRecord
from sql.experiment_store import experiments
from sql.ledger import Ledger
from sql.simulation_store import find_runs
from sql.twin_repository import TwinRepository
from streams.client.twin_client import NoAnswer
from streams.kafka.app import TwinApp
from streams.metrics import OUTAGES
from streams.services import Services
from streams.simulation import Simulator, reproduce

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
SPEAKERS = EMAIL.model_copy(update={"intervention_type": "speaker_program_invitation", "channel": "in_person"})
REQUESTS = "simulation-requests"


def a_request(**fields) -> SimulationRequest:
    defaults = {"simulation_id": uuid4(), "requested_at": datetime(2025, 3, 1, tzinfo=UTC), "twin_type": "hcp", "brand": "kisqali"}
    return SimulationRequest.model_validate({**defaults, "intervention": EMAIL, "twin_count": 1000, **fields})


def a_body(**fields) -> dict:
    return {**json.loads(a_request().model_dump_json(exclude_none=True)), **fields}


def an_intervention(**fields) -> dict:
    return {"intervention": {**EMAIL.model_dump(exclude_none=True), **fields}}


@pytest.fixture
def services(pool, settings) -> Services:
    app = TwinApp("simulation", settings)
    app.pool = pool
    return Services(app)


async def test_a_request_is_answered_by_the_champion_as_the_engine_would_answer(service, client, promoted, champion, pool):
    request = a_request(seed=7, confidence_level=0.9, alternatives=[SPEAKERS], filters={"min_decile": 5})
    async with service(["simulation"]):
        answer = await client.request(request)
    population = champion.generate(1000, {"min_decile": 5}, 7)
    expected = SimulationEngine(population, confidence_level=0.9, seed=7).simulate(
        EMAIL, {"min_decile": 5}, alternatives=[SPEAKERS], simulation_id=request.simulation_id
    )
    assert answer.status is AnswerStatus.COMPLETED
    assert (answer.model_id, answer.effects_version) == (promoted.champion, 0)
    assert answer.result.simulated_at > request.requested_at
    added_by_the_service = {"simulated_at": answer.result.simulated_at, "track_record": TrackRecord(n=0, n_inside=0, n_agreeing=0)}
    assert answer.result == expected.model_copy(update=added_by_the_service)
    row = await pool.fetchrow("SELECT * FROM simulation_runs WHERE simulation_id = $1", request.simulation_id)
    assert row["status"] == "completed"
    assert row["recommendation"] == expected.recommendation
    assert row["recommendation_reason"] == expected.recommendation_reason
    assert row["started_at"] < row["completed_at"]
    assert row["population_id"] == population.population_id


async def test_ten_thousand_twins_are_the_default(service, client, promoted, champion):
    async with service(["simulation"]):
        answer = await client.request(a_request(twin_count=None))
    assert answer.result.affected_twin_count == 10_000


async def test_the_same_request_again_has_the_same_answer_to_the_last_bit(service, client, promoted, listener):
    request = a_request()
    async with service(["simulation"]):
        first, second = await client.request(request), await client.request(request)
    async with service(["simulation"]):
        third = await client.request(request)
    assert first == second == third
    values = {record.value for record in await listener.records("simulation-results", 3)}
    assert len(values) == 1


async def test_recommendations_follow_the_thresholds_of_the_line_and_of_the_request_before_them(
    service, client, promoted, twinstream, pool
):
    strict = await twinstream("models", "thresholds", promoted.line, "--min-effect", "0.9", "--reason", "a small budget", "--json")
    assert [(change["version"], change["min_effect_threshold"]) for change in strict] == [(1, 0.9), (0, 0.05)]
    async with service(["simulation"]):
        by_line = (await client.request(a_request())).result
        by_request = (await client.request(a_request(min_effect_threshold=0.0001, confidence_threshold=0.6))).result
    assert (by_line.recommendation, by_line.min_effect_threshold, by_line.thresholds_version) == ("do_not_deploy", 0.9, 1)
    assert (by_request.recommendation, by_request.min_effect_threshold, by_request.confidence_threshold) == ("deploy", 0.0001, 0.6)
    assert "needs an effect of 90.0% with a probability of 90%" in await twinstream("models", "thresholds", promoted.line)


async def test_a_stored_answer_is_published_again_and_not_computed_again(service, client, promoted, monkeypatch):
    request, computed, compute = a_request(), [], Simulator.compute

    async def count_computation(self, pins, request):
        computed.append(request.simulation_id)
        return await compute(self, pins, request)

    monkeypatch.setattr(Simulator, "compute", count_computation)
    async with service(["simulation"]):
        assert await client.request(request) == await client.request(request)
    assert computed == [request.simulation_id]


async def test_a_pinned_request_keeps_its_pins_when_champion_and_effects_have_changed(
    service, client, promoted, champion, pool, services
):
    request = a_request(seed=3)
    pinned = await services.simulator.pin(request)
    successor = champion.card.model_copy(update={"model_id": uuid4()})
    await Ledger(pool).register_model(successor, "0" * 64)
    await Ledger(pool).promote(successor.line, successor.model_id, reason="a model whose files are nowhere")
    async with service(["simulation"]):
        answer = await client.request(request)
    assert answer.status is AnswerStatus.COMPLETED
    assert answer.model_id == pinned.model_id == promoted.champion


async def test_another_body_under_a_known_id_is_rejected_and_changes_nothing(service, client, promoted, pool):
    request = a_request()
    async with service(["simulation"]):
        first = await client.request(request)
        changed = await client.request(request.model_copy(update={"intervention": SPEAKERS}))
        again = await client.request(request)
    assert changed.status is AnswerStatus.REJECTED
    assert "other content" in changed.reason
    assert again == first


INVALID = [
    (an_intervention(intervention_type="hypnosis"), ["'hypnosis'", "email_campaign", "peer_to_peer_referral"]),
    (an_intervention(channel="fax"), ["'fax'", "in_person"]),
    (an_intervention(duration_weeks=0), ["duration_weeks", "0"]),
    ({"target": "overall_survival"}, ["'overall_survival'", "clinical", "prescribing_change"]),
    (an_intervention(intervention_type="dose_escalation"), ["'dose_escalation'", "clinical"]),
    ({"filters": {"tumour_stage": ["III"]}}, ["'tumour_stage'", "clinical"]),
    ({"filters": {"shoe_size": [43]}}, ["'shoe_size'", "specialty"]),
    ({"brand": "aspirin"}, ["'aspirin'", "kisqali"]),
    ({"twin_count": 3}, ["twin_count", "100", "3"]),
    ({"filters": {"min_decile": 2**64}}, ["'min_decile'", "18446744073709551616", "an integer between"]),
    ({"filters": {"tumour_" * 1_000_000: 1}}, ["exceeds 1048576", "TWIN_MAX_MESSAGE_BYTES"]),
    ({"twin_type": []}, ["twin_type", "'hcp', 'patient' or 'territory'", "[]"]),
    ({"confidence_level": 1e-300}, ["confidence_level", "1e-300", "0.001 to 0.999999"]),
    ({"surprise": 1}, ["surprise", "unknown field"]),
    ({"requested_at": "2025-03-01T00:00:00"}, ["requested_at", "timezone"]),
    ({"requested_by": "a\x00b"}, ["NUL"]),
]


async def test_an_invalid_request_is_rejected_with_the_value_and_the_allowed_ones(service, client, listener, promoted, pool):
    bodies = [a_body(**fields) for fields, _ in INVALID]
    async with service(["simulation"]):
        for body in bodies:
            await client.publish_bytes("simulation-requests", body["simulation_id"].encode(), json.dumps(body).encode())
        answers = {str(a.simulation_id): a for a in await listener.events(SimulationAnswer, len(bodies))}
    stored = await find_runs(pool, [answer.simulation_id for answer in answers.values()])
    for body, (fields, parts) in zip(bodies, INVALID, strict=True):
        answer = answers[body["simulation_id"]]
        assert answer.status is AnswerStatus.REJECTED, fields
        assert [part for part in parts if part not in answer.reason] == [], answer.reason
        assert stored[answer.simulation_id].answer == answer


async def test_a_filter_that_no_real_row_satisfies_is_rejected_with_one_that_some_do_and_leaves_no_population(
    service, client, promoted, pool
):
    async with service(["simulation"]):
        empty = await client.request(a_request(filters={"specialty": ["astrology"]}))
        narrow = await client.request(a_request(filters={"specialty": ["oncology"], "min_years_experience": 69}))
    assert empty.status is narrow.status is AnswerStatus.REJECTED
    assert "primary_care" in empty.reason
    assert "years_experience" in narrow.reason
    assert await pool.fetchval("SELECT count(*) FROM twin_populations") == 0
    runs = await find_runs(pool, [empty.simulation_id, narrow.simulation_id])
    assert [run.answer for run in runs.values()] in ([empty, narrow], [narrow, empty])


async def test_a_line_without_a_champion_is_rejected_by_name(service, client, promoted):
    async with service(["simulation"]):
        answer = await client.request(a_request(brand="fabhalta"))
    assert answer.status is AnswerStatus.REJECTED
    assert "hcp:fabhalta:prescribing_change" in answer.reason


async def test_a_stored_population_is_simulated_as_it_is_and_an_unknown_one_is_rejected(service, client, promoted, champion, pool):
    population = champion.generate(500, {"specialty": ["oncology"]}, seed=11)
    await TwinRepository(pool=pool).save_population(population)
    fields = {"twin_count": None, "population_id": population.population_id}
    request = a_request(**fields, seed=1)
    async with service(["simulation"]):
        answer = await client.request(request)
        unknown = await client.request(a_request(twin_count=None, population_id=UUID(int=5)))
        empty = await client.request(a_request(**fields, filters={"specialty": ["dermatology"]}))
    assert answer.result.affected_twin_count == 500
    assert answer.result.ate == SimulationEngine(population, seed=1).simulate(EMAIL).ate
    assert unknown.status is empty.status is AnswerStatus.REJECTED
    assert str(UUID(int=5)) in unknown.reason
    assert "oncology" in empty.reason


async def test_a_model_whose_files_are_gone_fails_the_request_and_the_service_goes_on(service, client, promoted, champion, pool):
    await pool.execute("UPDATE digital_twin_models SET artifact_sha256 = $1", "0" * 64)
    async with service(["simulation"]):
        failed = await client.request(a_request())
        rejected = await client.request(a_request(brand="fabhalta"))
    assert failed.status is AnswerStatus.FAILED
    assert failed.reason.startswith("UntrustedModel")
    assert rejected.status is AnswerStatus.REJECTED


UNREADABLE = {
    b"\xff\xfe not text": "no JSON",
    b'{"simulation_id": ': "no JSON",
    b"[1, 2]": "no JSON object, but a list",
    b'{"twin_type": "hcp"}': "no simulation_id",
    b'{"simulation_id": "seven"}': "'seven', which is no UUID",
    b'{"simulation_id": 7}': "7, which is no UUID",
    None: "no JSON",
}


async def test_a_record_without_a_simulation_id_becomes_a_dead_letter_unchanged(service, client, listener, promoted, pool):
    async with service(["simulation"]):
        for value in UNREADABLE:
            await client.publish_bytes(REQUESTS, b"its key", value, [("trace", b"\x01\x02")])
        records = await listener.dead_letters(len(UNREADABLE))
        assert (await client.request(a_request())).status is AnswerStatus.COMPLETED
    assert {record.value for record, _ in records} == set(UNREADABLE)
    for record, headers in records:
        assert record.key == b"its key"
        assert dict(record.headers)["trace"] == b"\x01\x02"
        assert UNREADABLE[record.value] in headers["twin_reason"]
        assert (headers["twin_topic"], headers["twin_attempt"]) == (REQUESTS, "1")
    assert sorted(int(headers["twin_offset"]) for _, headers in records) == list(range(len(UNREADABLE)))
    rows = await pool.fetch("SELECT * FROM refused_records")
    assert {row["value"]: row["kind"] for row in rows} == dict.fromkeys(UNREADABLE, "unreadable")
    assert all(row["sent_at"] is not None for row in rows)


async def test_a_replayed_dead_letter_counts_its_attempts(service, client, listener, promoted):
    async with service(["simulation"]):
        await client.publish_bytes(REQUESTS, b"k", b"nonsense")
        ((record, _),) = await listener.dead_letters(1)
        await client.publish_bytes(REQUESTS, record.key, record.value, list(record.headers))
        records = await listener.dead_letters(2)
    assert sorted(headers["twin_attempt"] for _, headers in records) == ["1", "2"]
    assert all(sorted(headers) == sorted(set(headers)) for _, headers in records)


async def test_without_a_worker_the_error_of_the_client_names_the_role(client, promoted):
    with pytest.raises(NoAnswer, match="role simulation"):
        await client.request(a_request(), timeout_s=0.5)


async def test_a_request_waits_in_the_topic_for_a_worker_that_starts_later(service, client, promoted):
    waiting = asyncio.create_task(client.request(a_request()))
    async with service(["simulation"]):
        assert (await waiting).status is AnswerStatus.COMPLETED


async def test_while_postgres_is_away_a_request_waits_and_is_neither_lost_nor_refused(
    service, client, listener, promoted, fresh_database, postgres_dsn
):
    name = fresh_database.rpartition("/")[2]
    outages = OUTAGES.labels(part="postgres")._value
    before = outages.get()
    admin = await asyncpg.connect(postgres_dsn)
    async with service(["simulation"]):
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        request = asyncio.create_task(client.request(a_request()))
        async with asyncio.timeout(30):
            while outages.get() < before + 3:  # noqa: ASYNC110  # a metric cannot be awaited
                await asyncio.sleep(0.05)
        published = await listener.count("simulation-results") + await listener.count("dead-letters")
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        answer = await request
    await admin.close()
    assert published == 0
    assert answer.status is AnswerStatus.COMPLETED


def an_experiment(**fields) -> ExperimentResult:
    defaults = {
        "experiment_id": "email 2024",
        "observed_at": datetime(2025, 1, 1, tzinfo=UTC),
        "twin_type": "hcp",
        "brand": "kisqali",
    }
    return ExperimentResult.model_validate(
        {**defaults, "intervention": EMAIL, "effect": 0.05, "standard_error": 0.004, "n_treated": 5000, "n_control": 5000, **fields}
    )


async def test_an_experiment_changes_the_prior_of_later_simulations_and_of_no_earlier_one(
    service, client, listener, promoted, pool
):
    experiment = an_experiment(effect=0.11)
    before, after = a_request(seed=1), a_request(seed=1)
    async with service(["simulation", "experiments"]):
        first = await client.request(before)
        await client.publish(experiment)
        await client.publish(experiment)
        await client.publish(experiment.model_copy(update={"effect": 0.9}))
        (effects,) = {event.model_dump_json(): event for event in await listener.events(EffectsEvent, 2)}.values()
        ((record, headers),) = await listener.dead_letters(1)
        second = await client.request(after)
        again = await client.request(before)
    assert effects.experiments == ("email 2024",)
    assert effects.prior.version == second.effects_version == 1
    assert 0.05 < effects.prior.mean < 0.11
    assert second.result.ate > first.result.ate
    assert second.result.prior.n_experiments == 1
    assert again == first
    assert headers["twin_kind"] == "conflict"
    assert json.loads(record.value)["effect"] == 0.9
    assert await pool.fetchval("SELECT count(*) FROM experiments") == 1


async def test_the_effect_of_an_experiment_with_filters_is_scaled_to_all_and_a_withdrawn_one_is_removed(
    service, client, listener, promoted, pool, settings
):
    request = a_request(filters={"min_decile": 9}, experiment_id="email 2024")
    experiment = an_experiment(filters={"min_decile": 9}, effect=0.08)
    async with service(["simulation", "experiments"]):
        first = await client.request(request)
        await client.publish(experiment)
        (effects,) = await listener.events(EffectsEvent, 1)
        second = await client.request(a_request())
        await client.publish(experiment.model_copy(update={"withdrawn": True}))
        withdrawn = (await listener.events(EffectsEvent, 2))[1]
        third = await client.request(a_request())
    reach = (await experiments(pool, experiment.line))[0].reach
    assert reach.mean == pytest.approx(first.result.ate / 0.05, rel=0.05)
    assert reach.mean > 1.05
    assert 0.05 < effects.prior.mean < 0.08 / reach.mean
    assert (first.result.track_record.n, second.result.track_record.n, third.result.track_record.n) == (0, 1, 0)
    assert second.result.track_record.n_inside == 1
    for answer in (first, second, third):  # the track record too is that of its time
        assert (await reproduce(settings, pool, answer.simulation_id)).differences == {}
    assert (withdrawn.prior.version, withdrawn.prior.mean, withdrawn.experiments) == (2, 0.05, ())
    assert (third.effects_version, third.result.prior.n_experiments) == (2, 0)


async def test_an_invalid_experiment_becomes_a_dead_letter_and_the_next_one_counts(service, client, listener, promoted):
    impossible = json.loads(an_experiment().model_dump_json()) | {"effect": 1.7e308}
    async with service(["experiments"]):
        for value in (b'{"experiment_id": "x"}', json.dumps(impossible).encode()):
            await client.publish_bytes("experiment-results", b"k", value)
        records = await listener.dead_letters(2)
        await client.publish(an_experiment())
        (effects,) = await listener.events(EffectsEvent, 1)
    assert [headers["twin_kind"] for _, headers in records] == ["invalid", "invalid"]
    assert "observed_at: missing" in records[0][1]["twin_reason"]
    assert records[1][1]["twin_reason"] == "effect: must be from -1000 to 1000, not 1.7e+308"
    assert effects.experiments == ("email 2024",)


async def test_a_result_in_percent_is_set_aside_and_counts_when_an_operator_accepts_it_as_a_surprise(
    service, client, listener, promoted, twinstream
):
    async with service(["experiments"]):
        await client.publish(an_experiment(effect=5.0, control_ratio=3.0))
        ((_, headers),) = await listener.dead_letters(1)
        await twinstream("dlq", "replay", "--kind", "set_aside", "--accept")
        (effects,) = await listener.events(EffectsEvent, 1)
    assert headers["twin_kind"] == "set_aside"
    assert "likely in percent (0.05)" in headers["twin_reason"]
    assert effects.experiments == ("email 2024",)
    assert effects.predictive_z > 3
    assert [warning.partition(":")[0].split(" is ")[0] for warning in effects.warnings] == ["experiment email 2024"] * 2
    assert "it is taken" in effects.warnings[0]
    assert "sample ratio mismatch" in effects.warnings[1]


async def test_twins_of_a_completed_simulation_are_found_with_their_expected_changes(service, client, promoted, services):
    request = a_request(seed=5)
    async with service(["simulation"]):
        answer = await client.request(request)
        rejected = await client.request(a_request(brand="fabhalta"))
    twins = await services.simulator.twins(request.simulation_id)
    assert twins.model_id == promoted.champion
    assert twins.changes.mean() == pytest.approx(answer.result.ate)
    assert twins.rows[uuid5(twins.population.population_id, "3")] == 3
    assert await services.simulator.twins(rejected.simulation_id) is None
    assert await services.simulator.twins(UUID(int=1)) is None


async def test_a_request_is_answered_by_another_process(service_apart, client, promoted, pool):
    request = a_request()
    async with service_apart(["simulation"]):
        answer = await client.request(request)
    assert answer.result.recommendation in set(SimulationRecommendation)
    assert (await find_runs(pool, [request.simulation_id]))[request.simulation_id].answer == answer

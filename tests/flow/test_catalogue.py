"""A brand and a campaign of one's own from ``apply`` to an answer, on workers that run on, with the real Kafka and Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import AnswerStatus, CatalogueEvent, OutcomeEvent, SimulationRequest, TwinType, in_effect
from sql.catalogue_store import apply_version
from sql.ledger import Ledger
from streams.catalogue import parse_catalogue
from streams.registry import MlflowRegistry
from streams.simulation import reproduce

OWN = """
brands:
  acmezumab: {label: Acmezumab}
campaigns:
  sample_drop:
    channel: in_person
    effect: {mean: 0.07, sd: 0.03}
moderators:
  tenure: {slope: {mean: 0.05, sd: 0.02}, center: 10, spread: 5}
twin_types:
  hcp:
    features:
      tenure: {kind: integer, low: 0, high: 60}
    segments: [specialty, region, priority_tier]
"""
LINE = "hcp:acmezumab:prescribing_change"


def a_request(text: str = OWN, **fields) -> SimulationRequest:
    drop = {"intervention_type": "sample_drop", "channel": "in_person", "frequency": "monthly", "duration_weeks": 12}
    with in_effect(parse_catalogue(text)):
        return SimulationRequest(
            simulation_id=uuid4(),
            requested_at=datetime.now(UTC),
            twin_type="hcp",
            intervention=drop,
            twin_count=1000,
            seed=1,
            **{"brand": "acmezumab", **fields},
        )


async def promote(settings, pool) -> None:
    """A champion of the own brand, with the own feature."""
    with in_effect(parse_catalogue(OWN).model_copy(update={"version": 1})):
        rng = np.random.default_rng(0)
        generator = TwinGenerator(TwinType.HCP, "acmezumab", n_jobs=1, seed=0)
        generator.train(sample_hcps(1000, rng).assign(tenure=rng.integers(0, 40, 1000)))
        artifact = MlflowRegistry(settings.mlflow_uri).save(generator.model)
        card = generator.model.card.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id})
        await Ledger(pool).register_model(card, artifact.sha256, pane_s=settings.pane_s, window_s=settings.window_s)
        await Ledger(pool).promote(LINE, card.model_id, reason="first model of the line")


async def count_outcomes(pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE line = $1 AND fate = 'counted'", LINE)


@pytest.fixture
def apply(twinstream, tmp_path):
    async def run(text: str, *options: str, status: int = 0):
        (tmp_path / "own.yaml").write_text(text)
        return await twinstream("catalogue", "apply", str(tmp_path / "own.yaml"), *options, status=status)

    return run


async def test_an_own_brand_and_campaign_are_answered_by_workers_that_run_on(
    service_apart, client, settings, pool, twinstream, apply, listener
):
    async with service_apart(["simulation", "outcomes"]) as pids:
        before = await client.request(a_request())
        assert before.status is AnswerStatus.REJECTED
        assert "unknown brand 'acmezumab': use one of fabhalta, kisqali, remibrutinib" in before.reason

        applied = await apply(OWN, "--reason", "our brand", "--json")
        assert (applied["version"]["version"], applied["version"]["reason"]) == (1, "our brand")
        assert "brands.acmezumab" in [change["path"] for change in applied["changes"]]
        await promote(settings, pool)
        first = await client.request(a_request())
        assert (first.status, first.catalogue_version) == (AnswerStatus.COMPLETED, 1), first.reason
        assert 0.03 < first.result.ate < 0.12

        with in_effect(parse_catalogue(OWN)):
            outcome = OutcomeEvent(
                event_id=uuid4(),
                observed_at=datetime.now(UTC),
                twin_type="hcp",
                brand="acmezumab",
                metric_type="prescribing_change",
                actual_value=0.1,
                predicted_value=0.12,
            )
        await client.publish_outcomes([outcome])
        async with asyncio.timeout(30):
            while await count_outcomes(pool) < 1:  # noqa: ASYNC110  # Postgres sends no event for it
                await asyncio.sleep(0.1)

        stronger = OWN.replace("mean: 0.07", "mean: 0.14")
        await apply(stronger)
        second = await client.request(a_request(stronger))
        assert second.catalogue_version == 2
        assert second.result.ate == pytest.approx(2 * first.result.ate, rel=0.05)
        assert pids  # the same processes: nothing was restarted

    reproduction = await reproduce(settings, pool, first.simulation_id)
    assert (reproduction.differences, reproduction.answer.result) == ({}, first.result)
    pins = "SELECT DISTINCT catalogue_version FROM {} ORDER BY 1"
    assert [row[0] for row in await pool.fetch(pins.format("digital_twin_models"))] == [1]
    assert [row[0] for row in await pool.fetch(pins.format("simulation_runs WHERE status = 'completed'"))] == [1, 2]
    events = await listener.events(CatalogueEvent, 2)
    assert [(event.version, event.changes) for event in events][1] == (
        2,
        ("~ campaigns.sample_drop.effect.mean: 0.07 -> 0.14",),
    )
    refused = await apply(OWN.replace("  acmezumab: {label: Acmezumab}", "  other: {}"), status=1)
    assert f"the brand acmezumab has the model line {LINE}: keep its entry" in refused
    other_kind = OWN.replace("kind: integer, low: 0, high: 60", "kind: category").replace(
        "{slope: {mean: 0.05, sd: 0.02}, center: 10, spread: 5}", "{levels: {a: {mean: 0.1, sd: 0.1}}}"
    )
    assert "has learned tenure as a integer, not as a category" in await apply(other_kind, status=1)
    assert [event["catalogue_version"] for event in await twinstream("models", "history", LINE, "--json")] == [1, 1]
    answered = await twinstream("models", "history", "--simulation", str(first.simulation_id))
    assert "effects version 0, catalogue version 1" in answered
    await twinstream("catalogue", "rollback", "1")
    history = await twinstream("catalogue", "history", "--json")
    assert [(entry["version"], entry["reason"]) for entry in history] == [(3, "rollback to version 1"), (2, ""), (1, "our brand")]
    assert history[0]["sha256"] == history[2]["sha256"]
    assert "version 3 is this catalogue" in await apply(OWN)


async def test_two_workers_never_mix_two_versions_in_an_answer_while_versions_change(
    service_apart, service, settings_beside, client, promoted, pool
):
    """Versions alternate between two effects meanwhile: each answer has the effect of the version that it names."""
    means = {1: 0.02, 2: 0.08, 3: 0.02, 4: 0.08}
    drop = "campaigns: {{sample_drop: {{channel: in_person, effect: {{mean: {}, sd: 0.01}}}}}}"
    texts = {version: drop.format(mean) for version, mean in means.items()}
    await apply_version(pool, parse_catalogue(texts[1]), applied_by="test")
    async with service_apart(["simulation"]), service(["simulation"], settings_beside):
        waiting: list[asyncio.Task] = []
        for version in (2, 3, 4):
            batch = [asyncio.create_task(client.request(a_request(texts[version], brand="kisqali"))) for _ in range(6)]
            await asyncio.wait(batch, return_when=asyncio.FIRST_COMPLETED)
            waiting += batch
            await apply_version(pool, parse_catalogue(texts[version]), applied_by="test")
        answers = [await task for task in waiting] + [await client.request(a_request(texts[4], brand="kisqali"))]
    assert answers[-1].catalogue_version == 4
    assert len({answer.catalogue_version for answer in answers}) > 1
    for answer in answers:
        mean = means[answer.catalogue_version]
        assert (answer.result.prior.mean, answer.reason) == (mean, None)
        assert mean / 2 < answer.result.ate < 2 * mean

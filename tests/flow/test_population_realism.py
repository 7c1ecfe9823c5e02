"""The realism of a stored population with filters, measured by the trainer and shown by the commands."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from schemas import InterventionConfig, SimulationRequest
from streams.simulation import reproduce
from tests import polling
from tests.outcomes import LINE

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
FIGURES = "SELECT realism FROM twin_populations WHERE filters_applied <> '{}'"


async def test_the_trainer_measures_the_population_of_a_request_and_its_answer_stays_the_same(
    service, client, settings, promoted, champion, pool, twinstream
):
    request = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=EMAIL,
        twin_count=500,
        filters={"min_decile": 5},
    )
    async with service(["simulation", "trainer"]):
        answer = await client.request(request)
        figures = await polling.until(lambda: pool.fetchval(FIGURES))
    expected = champion.assess({"min_decile": 5}, champion.seed)
    assert figures == expected.model_dump(mode="json")
    assert (await reproduce(settings, pool, answer.simulation_id)).differences == {}

    by_command = await twinstream("models", "realism", LINE, "--filter", "min_decile=5", "--json")
    assert (by_command["realism"], by_command["populations"]) == (figures, 1)
    (line,) = await twinstream("models", "list", "--json")
    assert line["realism"] == [{"filters": {"min_decile": 5}, **expected.verdict.model_dump(mode="json")}]
    few = await twinstream("models", "realism", LINE, "--filter", "min_decile=10", "--filter", "region=south", "--json")
    assert (few["realism"], few["verdict"]["similarity"]) == (None, "not assessed")

"""The role web over HTTP, on real Kafka and Postgres: ask, follow, hand over outcomes, add experiments, and who may do so."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from schemas import SimulationAnswer
from schemas.simulation_models import ANSWERED
from streams.api import examples
from streams.settings import Settings
from tests.outcomes import make_card, make_line, outcome
from tests.polling import until

ROLES = ["simulation", "outcomes", "experiments", "fidelity", "web"]
SIMULATION = {**examples.SIMULATIONS["Speaker programs in the south"], "twin_count": 500}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def api(service: Any, settings: Settings, promoted: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the API of a service whose roles all run."""
    async with service(ROLES), _session(settings) as session:
        yield session


@pytest.fixture
async def api_of_line(service: Any, settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """The same with a line that has a champion since before the outcomes of these tests."""
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())
    async with service(["outcomes", "web"]), _session(settings) as session:
        yield session


@asynccontextmanager
async def _session(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    host, port = settings.api_address
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, status: int = 200, **options: Any) -> Any:
    async with session.request(method, path, **options) as reply:
        text = await reply.text()
        assert reply.status == status, text
        return json.loads(text) if "json" in reply.content_type else text


async def test_a_campaign_is_asked_over_http_and_answered(api: aiohttp.ClientSession):
    answered = await ask(api, "POST", "/api/v1/simulations", json=SIMULATION, headers={"Prefer": "wait=30"})
    simulation_id = answered["simulation_id"]
    assert answered["status"] == "completed"
    assert answered["answer"]["result"]["recommendation"]
    assert answered["request"]["filters"] == {"region": ["south"], "min_decile": 8}
    assert await ask(api, "GET", f"/api/v1/simulations/{simulation_id}") == answered

    (listed,) = (await ask(api, "GET", "/api/v1/simulations?status=completed"))["items"]
    assert (listed["simulation_id"], listed["ate"]) == (simulation_id, answered["answer"]["result"]["ate"])

    already = await ask(api, "DELETE", f"/api/v1/simulations/{simulation_id}", 409)
    assert "is completed already: nothing to cancel" in already["detail"]
    unknown = await ask(api, "GET", f"/api/v1/simulations/{uuid4()}", 404)
    assert "there is no simulation" in unknown["detail"]


async def test_the_answer_is_a_cloud_event_in_both_modes(api: aiohttp.ClientSession):
    event = {"specversion": "1.0", "id": "1", "source": "/crm", "type": "twinstream.SimulationRequest.v1", "data": SIMULATION}
    headers = {"Content-Type": "application/cloudevents+json", "Prefer": "wait=30"}
    answered = await ask(api, "POST", "/api/v1/simulations", data=json.dumps(event), headers=headers)
    path = f"/api/v1/simulations/{answered['simulation_id']}/answer"
    async with api.get(path) as binary:
        body = await binary.read()
        attributes = {name.lower(): value for name, value in binary.headers.items() if name.lower().startswith("ce-")}
    structured = await ask(api, "GET", path, headers={"Accept": "application/cloudevents+json"})
    assert SimulationAnswer.model_validate_json(body, context={ANSWERED: True}).simulation_id == UUID(answered["simulation_id"])
    assert attributes["ce-type"] == structured["type"] == "twinstream.SimulationAnswer.v1"
    assert (attributes["ce-id"], json.loads(body)) == (structured["id"], structured["data"])


async def test_progress_and_result_come_as_server_sent_events(api: aiohttp.ClientSession):
    published = await ask(api, "POST", "/api/v1/simulations", 202, json=SIMULATION)
    async with api.get(f"/api/v1/simulations/{published['simulation_id']}/events") as stream, asyncio.timeout(60):
        assert stream.content_type == "text/event-stream"
        text = (await stream.read()).decode()
    events = dict(part.split("\n", 1) for part in text.strip().split("\n\n"))
    result = json.loads(events["event: result"].removeprefix("data: "))
    assert (result["simulation_id"], result["status"]) == (published["simulation_id"], "completed")


async def test_a_request_with_a_key_is_done_once(api: aiohttp.ClientSession, listener: Any):
    headers = {"Idempotency-Key": "spring-campaign"}
    first = await ask(api, "POST", "/api/v1/simulations", 202, json=SIMULATION, headers=headers)
    async with api.post("/api/v1/simulations", json=SIMULATION, headers=headers) as again:
        assert (again.status, again.headers["Idempotent-Replayed"], await again.json()) == (202, "true", first)
    other = await ask(api, "POST", "/api/v1/simulations", 422, json={**SIMULATION, "twin_count": 600}, headers=headers)
    assert "Idempotency-Key 'spring-campaign' was used for another request" in other["detail"]
    assert await listener.count("simulation-requests") == 1

    refused = {"Idempotency-Key": "with-a-slip"}
    await ask(api, "POST", "/api/v1/simulations", 422, json={**SIMULATION, "twin_count": 1}, headers=refused)
    await ask(api, "POST", "/api/v1/simulations", 202, json=SIMULATION, headers=refused)


async def test_campaigns_are_compared_and_a_pilot_is_planned(api: aiohttp.ClientSession):
    body = {**examples.COMPARISONS["Two campaigns"], "twin_count": 500}
    compared = await ask(api, "POST", "/api/v1/comparisons", json=body, headers={"Prefer": "wait=30"})
    (alternative,) = compared["answer"]["result"]["alternatives"]
    assert alternative["intervention"]["intervention_type"] == "speaker_program_invitation"
    plan = await ask(api, "POST", "/api/v1/designs", json=examples.DESIGNS["A pilot of 4,000 people"])
    assert [arm["name"] for arm in plan["arms"]] == ["email_campaign", "control"]
    single = await ask(api, "POST", "/api/v1/comparisons", 422, json={**body, "campaigns": []})
    assert "campaigns: a list of 2 to 11 campaigns, not []" in single["detail"]
    nobody = await ask(
        api, "POST", "/api/v1/designs", 404, json={**examples.DESIGNS["A pilot of 4,000 people"], "brand": "fabhalta"}
    )
    assert "fabhalta" in nobody["detail"]


async def test_counterfactuals_of_an_uploaded_table_come_as_averages_or_as_rows(api: aiohttp.ClientSession):
    table = sample_hcps(200, np.random.default_rng(1))
    data, path = table.to_csv(index=False).encode(), "/api/v1/counterfactuals?intervention=email_campaign"
    averages = await ask(api, "POST", path, data=data, headers=CSV)
    rows = pd.read_csv(io.StringIO(await ask(api, "POST", path, data=data, headers={**CSV, "Accept": "text/csv"})))
    assert averages["n"] == len(rows) == 200
    assert averages["average"]["difference"] == pytest.approx(rows["difference"].mean(), rel=1e-6)
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    same = await ask(api, "POST", path, data=parquet.getvalue(), headers={"Content-Type": "application/vnd.apache.parquet"})
    assert same["average"] == averages["average"]
    broken = await ask(api, "POST", path, 422, data=b"PAR1 is no table", headers={"Content-Type": "application/vnd.apache.parquet"})
    assert "cannot be read as Parquet" in broken["detail"]
    unknown = await ask(api, "POST", "/api/v1/counterfactuals?intervention=email_campain", 422, data=data, headers=CSV)
    assert "email_campaign" in unknown["detail"]


async def test_a_table_of_outcomes_is_checked_published_once_and_counted(api_of_line: aiohttp.ClientSession, listener: Any):
    api = api_of_line
    columns = ["brand", "metric_type", "twin_type", "segment"]
    table = pd.DataFrame([outcome(number) for number in range(50)]).drop(columns=columns, errors="ignore")
    data = table.to_csv(index=False).encode()
    published = await ask(api, "POST", "/api/v1/outcomes?name=march.csv", 202, data=data, headers=CSV)
    assert (published["rows"], published["published"]) == (50, 50)
    receipt = await ask(api, "GET", f"/api/v1/outcomes/receipts/{published['receipt']}?wait_s=30")
    assert (receipt["counted"], receipt["file"]) == (50, "march.csv")
    again = await ask(api, "POST", "/api/v1/outcomes", 202, data=data, headers=CSV)
    assert (again["receipt"], again["published"]) == (published["receipt"], 0)
    assert await listener.count("outcome-events") == 50
    listed = await ask(api, "GET", "/api/v1/outcomes/receipts")
    assert [item["publication_id"] for item in listed["items"]] == [published["receipt"]]

    bad = table.astype({"actual_value": object})
    bad.loc[3, "actual_value"] = "many"
    refused = await ask(api, "POST", "/api/v1/outcomes", 422, data=bad.to_csv(index=False).encode(), headers=CSV)
    assert "'many'" in refused["detail"]
    assert "partly=true" in refused["detail"]


async def test_outcomes_come_alone_as_an_array_and_as_cloud_events(api_of_line: aiohttp.ClientSession, pool: Any):
    api = api_of_line
    events = [outcome(number) for number in range(4)]
    alone = await ask(api, "POST", "/api/v1/outcomes", 202, json=events[0])
    array = await ask(api, "POST", "/api/v1/outcomes", 202, json=events[:2])
    batch = [
        {"specversion": "1.0", "id": str(n), "source": "/crm", "type": "twinstream.OutcomeEvent.v1", "data": event}
        for n, event in enumerate(events)
    ]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    batched = await ask(api, "POST", "/api/v1/outcomes", 202, data=json.dumps(batch), headers=headers)
    assert [reply["published"] for reply in (alone, array, batched)] == [1, 2, 4]
    counted = "SELECT count(*) FROM event_heads"
    await until(lambda: pool.fetchval(counted), lambda n: n == 4)

    bad = await ask(api, "POST", "/api/v1/outcomes", 422, json=[*events, {**events[0], "metric_type": "shoe_size"}])
    assert "outcome 4" in bad["detail"]
    assert "shoe_size" in bad["refused"][0]["reason"]
    partly = await ask(api, "POST", "/api/v1/outcomes?partly=true", 202, json=[events[0], {"event_id": "x"}])
    assert (partly["published"], [item["index"] for item in partly["refused"]]) == (1, [1])


async def test_an_experiment_is_added_listed_and_shown(api: aiohttp.ClientSession, pool: Any):
    body = examples.EXPERIMENTS["A trial of emails"]
    added = await ask(api, "POST", "/api/v1/experiments", 202, json=body)
    await until(lambda: pool.fetchval("SELECT count(*) FROM experiments"), lambda n: n == 1)
    shown = await ask(api, "GET", f"/api/v1/experiments/{added['experiment_id']}")
    assert shown["result"]["effect"] == 0.03
    listed = await ask(api, "GET", "/api/v1/experiments?limit=1")
    assert ([item["experiment_id"] for item in listed["items"]], listed["next"]) == (["spring"], None)
    doubtful = await ask(api, "POST", "/api/v1/experiments", 422, json={**body, "experiment_id": "summer", "effect": 30.0})
    assert "30" in doubtful["detail"]
    await ask(api, "GET", "/api/v1/experiments/winter", 404)


async def test_what_is_stored_is_read_page_by_page(api: aiohttp.ClientSession, promoted: Any):
    ids = [(await ask(api, "POST", "/api/v1/simulations", 202, json=SIMULATION))["simulation_id"] for _ in range(5)]
    for simulation_id in ids:
        await until(lambda: ask(api, "GET", f"/api/v1/simulations/{simulation_id}"), lambda state: state["status"] == "completed")  # noqa: B023
    listed, cursor = [], ""
    while cursor is not None:
        page = await ask(api, "GET", f"/api/v1/simulations?limit=2&line={promoted.line}{cursor}")
        listed += [item["simulation_id"] for item in page["items"]]
        cursor = None if page["next"] is None else f"&cursor={page['next']}"
    assert sorted(listed) == sorted(ids)
    assert len(set(listed)) == 5

    (model,) = (await ask(api, "GET", "/api/v1/models"))["items"]
    assert (model["line"], model["champion"]["model_id"]) == (promoted.line, str(promoted.model_id))
    ledger = await ask(api, "GET", f"/api/v1/models/{promoted.line}/ledger")
    assert ledger["items"][-1]["happened"] == "promoted"
    assert (await ask(api, "GET", f"/api/v1/models/{promoted.line}/retrains"))["items"] == []
    assert (await ask(api, "GET", f"/api/v1/model-cards/{promoted.model_id}"))["line"] == promoted.line
    assert [item["line"] for item in (await ask(api, "GET", "/api/v1/fidelity?brand=kisqali"))["items"]] == [promoted.line]
    assert (await ask(api, "GET", "/api/v1/dead-letters")) == {"items": [], "next": None}
    assert "email_campaign" in (await ask(api, "GET", "/api/v1/catalogue"))["campaigns"]
    assert "<title>Twinstream</title>" in await ask(api, "GET", "/")
    for path in ("models/hcp:kisqali:nothing/ledger", f"retrains/{uuid4()}", f"dead-letters/{uuid4()}", f"model-cards/{uuid4()}"):
        await ask(api, "GET", f"/api/v1/{path}", 404)


async def test_a_token_allows_what_its_scope_does_until_it_is_revoked(
    service: Any, settings: Settings, promoted: Any, twinstream: Any, pool: Any
):
    reader = await twinstream("tokens", "create", "report", "--json")
    asker = await twinstream("tokens", "create", "crm", "--scope", "ask", "--days", "1", "--json")
    assert "there is a token 'crm' already" in await twinstream("tokens", "create", "crm", status=1)
    exposed = settings.model_copy(update={"web_behind_proxy": True})
    read, write = ({"Authorization": f"Bearer {token['secret']}"} for token in (reader, asker))
    async with service(["web"], exposed), _session(exposed) as session:
        await ask(session, "GET", "/api/v1/models", 401)
        unknown = await ask(session, "GET", "/api/v1/models", 401, headers={"Authorization": "Bearer twin_guess"})
        await ask(session, "GET", "/api/v1/models", headers=read)
        denied = await ask(session, "POST", "/api/v1/simulations", 403, json=SIMULATION, headers=read)
        published = await ask(session, "POST", "/api/v1/simulations", 202, json=SIMULATION, headers=write)
        bytes_denied = await ask(session, "GET", f"/api/v1/dead-letters/{uuid4()}", 403, headers=write)
        await twinstream("tokens", "revoke", "crm")
        async with asyncio.timeout(30):
            while await _status(session, "/api/v1/models", write) == 200:  # noqa: ASYNC110  # until it is looked up again
                await asyncio.sleep(0.2)
        revoked = await _status(session, "/api/v1/models", write)
    assert unknown["detail"] == "the token is unknown, revoked or expired"
    assert (denied["missing_scope"], bytes_denied["missing_scope"]) == ("ask", "operate")
    assert denied["detail"] == "the token report lacks the scope ask: it has read"
    assert published["status"] == "published"
    assert revoked == 401
    stored = await pool.fetch("SELECT token_name AS name, sha256, last_used_on FROM api_tokens ORDER BY token_name")
    assert [(row["name"], row["last_used_on"] is not None) for row in stored] == [("crm", True), ("report", True)]
    assert not any(token["secret"] in str(dict(row)) for token in (reader, asker) for row in stored)
    listed = await twinstream("tokens", "list", "--json")
    assert [(token["name"], token["scopes"], token["revoked_at"] is None) for token in listed] == [
        ("report", ["read"], True),
        ("crm", ["read", "ask"], False),
    ]
    assert "there is no token 'crm'" in await twinstream("tokens", "revoke", "crm", status=1)


async def _status(session: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> int:
    async with session.get(path, headers=headers) as reply:
        return reply.status


@pytest.mark.timeout(300)
async def test_a_walk_over_the_openapi_document_meets_no_error_of_the_service(
    api: aiohttp.ClientSession, settings: Settings, tmp_path: Path
):
    host, port = settings.api_address
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
    arguments = ["run", f"http://{host}:{port}/openapi.json", "--checks", checks, "--phases", "examples,coverage,fuzzing"]
    limits = ["--max-examples", "5", "--max-time", "40", "--seed", "1", "--suppress-health-check", "all", "--request-timeout", "20"]
    walk = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments, *limits, "--no-color", "--continue-on-failure"),
        cwd=tmp_path,  # where it keeps what it has generated
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await walk.communicate()
    assert walk.returncode == 0, output.decode()[-8000:]

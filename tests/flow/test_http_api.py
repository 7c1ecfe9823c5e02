"""The role web over HTTP, on real Kafka and Postgres: ask, follow, hand over outcomes, add experiments, and who may do so."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from engine.twins import TwinModel
from schemas import ModelCard, ModelEvent, SimulationAnswer
from schemas.simulation_models import ANSWERED
from sql.database import open_pool
from sql.ledger import Ledger
from sql.model_card_rows import Artifact
from sql.retrain_store import enqueue
from streams.api import examples
from streams.api.server import serving_api
from streams.client import TwinClient
from streams.operations.operator import operator_name
from streams.settings import PORTS, Role, Settings
from streams.worker.supervisor import Workers
from tests.conftest import login_dsn, new_database
from tests.flow.conftest import READY_S, _free_ports, empty_topics
from tests.outcomes import outcome, retrain_event
from tests.polling import until

ROLES: list[Role] = ["simulation", "outcomes", "experiments", "fidelity", "web"]
SIMULATION = {**examples.SIMULATIONS["Speaker programs in the south"], "twin_count": 500}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture(scope="module")
def owned_database(postgres_dsn: str, migrated_template: str) -> Iterator[str]:
    """A database for all tests of this module, which share one service: starting its roles takes longer than most tests."""
    with asyncio.Runner() as runner:
        opened = new_database(postgres_dsn, f"TEMPLATE {migrated_template} STRATEGY FILE_COPY")
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def settings(
    kafka_bootstrap: str,
    owned_database: str,
    logins: Mapping[str, str],
    mlflow_store: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """Settings of the service that the tests share."""
    asyncio.run(empty_topics(kafka_bootstrap))
    return Settings(
        kafka_bootstrap=kafka_bootstrap,
        postgres_dsn=login_dsn(owned_database, logins["twinstream_writer"]),
        mlflow_uri=mlflow_store,
        home=tmp_path_factory.mktemp("http-api"),
        web_port=_free_ports(PORTS),
        session_timeout_s=20.0,
    )


@pytest.fixture(scope="module")
def promoted(settings: Settings, champion: TwinModel, saved: Artifact) -> ModelEvent:
    """The champion of its line."""
    return asyncio.run(_promote(settings, champion.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id}), saved.sha256))


async def _promote(settings: Settings, card: ModelCard, sha256: str) -> ModelEvent:
    async with await open_pool(settings) as pool:
        ledger = Ledger(pool)
        await ledger.register_model(card, sha256, pane_s=settings.pane_s, window_s=settings.window_s)
        return await ledger.promote(card.line, card.model_id, reason="first model of the line")


@pytest.fixture(scope="module")
def running(settings: Settings, promoted: ModelEvent) -> Iterator[None]:
    """All roles, in processes of their own, as ``twinstream up`` starts them."""
    with Workers(ROLES, settings, log_folder=settings.home / "logs") as workers:
        workers.wait_ready(READY_S)
        yield


@pytest.fixture
async def api(running: None, settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the API of the service."""
    async with _session(settings) as session:
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

    items = (await ask(api, "GET", "/api/v1/simulations?status=completed"))["items"]
    (listed,) = [item for item in items if item["simulation_id"] == simulation_id]
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
    headers, before = {"Idempotency-Key": "spring-campaign"}, await listener.count("simulation-requests")
    first = await ask(api, "POST", "/api/v1/simulations", 202, json=SIMULATION, headers=headers)
    async with api.post("/api/v1/simulations", json=SIMULATION, headers=headers) as again:
        assert (again.status, again.headers["Idempotent-Replayed"], await again.json()) == (202, "true", first)
    other = await ask(api, "POST", "/api/v1/simulations", 422, json={**SIMULATION, "twin_count": 600}, headers=headers)
    assert "Idempotency-Key 'spring-campaign' was used for another request" in other["detail"]
    assert await listener.count("simulation-requests") == before + 1

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


async def test_a_table_of_outcomes_is_checked_published_once_and_counted(api: aiohttp.ClientSession, listener: Any):
    columns = ["brand", "metric_type", "twin_type", "segment"]
    table = pd.DataFrame([outcome(number) for number in range(50)]).drop(columns=columns, errors="ignore")
    data, before = table.to_csv(index=False).encode(), await listener.count("outcome-events")
    published = await ask(api, "POST", "/api/v1/outcomes?name=march.csv", 202, data=data, headers=CSV)
    assert (published["rows"], published["published"]) == (50, 50)
    receipt = await ask(api, "GET", f"/api/v1/outcomes/receipts/{published['receipt']}?wait_s=30")
    assert (receipt["counted"], receipt["file"]) == (50, "march.csv")
    again = await ask(api, "POST", "/api/v1/outcomes", 202, data=data, headers=CSV)
    assert (again["receipt"], again["published"]) == (published["receipt"], 0)
    assert await listener.count("outcome-events") == before + 50
    listed = await ask(api, "GET", "/api/v1/outcomes/receipts")
    assert [item["publication_id"] for item in listed["items"]] == [published["receipt"]]

    bad = table.astype({"actual_value": object})
    bad.loc[3, "actual_value"] = "many"
    refused = await ask(api, "POST", "/api/v1/outcomes", 422, data=bad.to_csv(index=False).encode(), headers=CSV)
    assert "'many'" in refused["detail"]
    assert "partly=true" in refused["detail"]


async def test_outcomes_come_alone_as_an_array_and_as_cloud_events(api: aiohttp.ClientSession, pool: Any):
    events = [outcome(number) for number in range(100, 104)]
    alone = await ask(api, "POST", "/api/v1/outcomes", 202, json=events[0])
    array = await ask(api, "POST", "/api/v1/outcomes", 202, json=events[:2])
    batch = [
        {"specversion": "1.0", "id": str(n), "source": "/crm", "type": "twinstream.OutcomeEvent.v1", "data": event}
        for n, event in enumerate(events)
    ]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    batched = await ask(api, "POST", "/api/v1/outcomes", 202, data=json.dumps(batch), headers=headers)
    assert [reply["published"] for reply in (alone, array, batched)] == [1, 2, 4]
    counted, ids = "SELECT count(*) FROM event_heads WHERE event_id = ANY($1)", [event["event_id"] for event in events]
    await until(lambda: pool.fetchval(counted, ids), lambda n: n == 4)

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
    assert set(ids) <= set(listed)
    assert len(set(listed)) == len(listed)

    (model,) = (await ask(api, "GET", "/api/v1/models"))["items"]
    assert (model["line"], model["champion"]["model_id"]) == (promoted.line, str(promoted.model_id))
    ledger = await ask(api, "GET", f"/api/v1/models/{promoted.line}/ledger")
    assert {(item["happened"], item["champion"]) for item in ledger["items"]} >= {("promoted", str(promoted.model_id))}
    assert (await ask(api, "GET", f"/api/v1/model-cards/{promoted.model_id}"))["line"] == promoted.line
    assert [item["line"] for item in (await ask(api, "GET", "/api/v1/fidelity?brand=kisqali"))["items"]] == [promoted.line]
    assert "email_campaign" in (await ask(api, "GET", "/api/v1/catalogue"))["campaigns"]
    assert "<title>Lines · Twinstream</title>" in await ask(api, "GET", "/")
    for path in ("models/hcp:kisqali:nothing/ledger", f"retrains/{uuid4()}", f"dead-letters/{uuid4()}", f"model-cards/{uuid4()}"):
        await ask(api, "GET", f"/api/v1/{path}", 404)


async def test_a_token_allows_what_its_scope_does_until_it_is_revoked(
    settings: Settings, promoted: ModelEvent, twinstream: Any, pool: Any
):
    reader = await twinstream("tokens", "create", "report", "--json")
    asker = await twinstream("tokens", "create", "crm", "--scope", "ask", "--days", "1", "--json")
    assert "there is a token 'crm' already" in await twinstream("tokens", "create", "crm", status=1)
    exposed = settings.model_copy(update={"web_behind_proxy": True, "web_port": _free_ports(PORTS)})
    read, write = ({"Authorization": f"Bearer {token['secret']}"} for token in (reader, asker))
    async with serving_api(exposed), _session(exposed) as session:
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


async def test_decisions_about_a_line_are_stored_and_published_with_who_has_decided(
    api: aiohttp.ClientSession, pool: Any, promoted: ModelEvent, champion: TwinModel, saved: Artifact, listener: Any
):
    card = champion.card.model_copy(update={"model_id": uuid4(), "mlflow_run_id": saved.mlflow_run_id})
    await Ledger(pool).register_model(card, saved.sha256)
    line, first, second, who = f"/api/v1/models/{promoted.line}", str(promoted.model_id), str(card.model_id), operator_name()

    reply = await ask(api, "POST", f"{line}/promotions", json={"model_id": second, "champion": first, "reason": "smaller error"})
    event = reply["event"]
    assert (event["happened"], event["champion"], event["decided_by"], event["reason"]) == (
        "promoted",
        second,
        who,
        "smaller error",
    )
    assert reply["pending"] == ["shown by the alias champion in MLflow"]
    stale = await ask(api, "POST", f"{line}/rollbacks", 409, json={"champion": first})
    assert f"{second} became champion" in stale["detail"]
    key = {"Idempotency-Key": "back"}
    back = await ask(api, "POST", f"{line}/rollbacks", json={"champion": second}, headers=key)
    assert (back["event"]["happened"], back["event"]["champion"]) == ("rolled_back", first)
    assert await ask(api, "POST", f"{line}/rollbacks", json={"champion": second}, headers=key) == back
    nobody = await ask(api, "POST", f"{line}/rollbacks", 409, json={})
    assert "has no champion before" in nobody["detail"]

    assert (await ask(api, "PUT", f"{line}/policy", json={"policy": "approve"}))["event"]["decided_by"] == who
    await enqueue(pool, request := retrain_event(promoted.model_id))
    retrain = f"/api/v1/retrains/{request.retrain_id}"
    refused = await ask(api, "POST", f"{retrain}/refusal", json={"reason": "the quarter is odd"})
    assert (refused["status"], refused["outcome"]) == ("refused", f"refused; by {who}; the quarter is odd")
    assert (await ask(api, "POST", f"{retrain}/approval"))["status"] == "queued"
    await ask(api, "PUT", f"{line}/policy", json={"policy": "off"})
    off = await ask(api, "POST", f"{retrain}/approval", 409)
    assert "choose another one first" in off["detail"]

    ledger = (await ask(api, "GET", f"{line}/ledger"))["items"]
    decided = [item["happened"] for item in ledger if item["decided_by"] == who]
    assert decided == ["promoted", "rolled_back", "policy", "refused", "approved", "policy"]
    published = await listener.events(ModelEvent, len(ledger))
    assert [(event.happened, event.decided_by) for event in published] == [
        (item["happened"], item["decided_by"]) for item in ledger
    ]
    for path in ("models/hcp:fabhalta:nothing/rollbacks", f"retrains/{uuid4()}/approval", f"dead-letters/{uuid4()}/replays"):
        await ask(api, "POST", f"/api/v1/{path}", 404, json={})


async def test_thresholds_are_changed_with_who_and_why(api: aiohttp.ClientSession, promoted: ModelEvent):
    path = f"/api/v1/models/{promoted.line}/thresholds"
    changed = await ask(
        api, "PATCH", path, json={**examples.THRESHOLDS["A smaller effect, with a test"], "reason": "a noisy quarter"}
    )
    first, standard = changed["items"]
    assert (first["min_effect_threshold"], first["drift_limits"]) == (0.03, {"mae_increase": 0.3})
    assert (first["changed_by"], first["reason"], standard["changed_by"]) == (operator_name(), "a noisy quarter", "the catalogue")
    assert await ask(api, "GET", path) == changed
    back = await ask(
        api, "PATCH", path, json={"drift_limits": {"mae_increase": None}, "min_effect_threshold": 0.05, "require_test": False}
    )
    assert (back["items"][0]["version"], back["items"][0]["drift_limits"]) == (2, {})
    unknown = await ask(api, "PATCH", path, 422, json={"drift_limits": {"mae": 0.1}})
    assert "unknown drift rule 'mae': use one of" in unknown["detail"]


async def test_a_refused_record_is_corrected_and_counted(api: aiohttp.ClientSession, client: TwinClient, pool: Any):
    body = outcome(200)
    await client.publish_bytes("outcome-events", b"key", json.dumps({**body, "surprise": 1, "actual_value": "many"}).encode())
    (listed,) = (await until(lambda: ask(api, "GET", "/api/v1/dead-letters?waiting=true"), lambda page: page["items"]))["items"]
    path = f"/api/v1/dead-letters/{listed['refusal_id']}"
    again = await ask(api, "POST", f"{path}/replays", 422, json={})
    assert "nothing is published: would be refused again" in again["detail"]
    correction = {"set": {"actual_value": 0.1}, "drop": ["surprise"]}
    checked = await ask(api, "POST", f"{path}/replays", json={**correction, "dry_run": True})
    assert (json.loads(checked["value"])["actual_value"], checked["last"]) == (0.1, None)
    key = {"Idempotency-Key": "correction"}
    done = await ask(api, "POST", f"{path}/replays", json=correction, headers=key)
    assert await ask(api, "POST", f"{path}/replays", json=correction, headers=key) == done
    (replay,) = (await ask(api, "GET", path))["replays"]
    assert (replay["by"], replay["change"]) == (operator_name(), "actual_value = 0.1, without surprise")
    assert (replay["as"], replay["came_of_it"]) == (done["last"], done["state"])
    assert not done["state"].startswith("refused")
    assert "actual_value" not in str(await pool.fetchval("SELECT answer FROM api_requests WHERE request_key = 'correction'"))
    assert await pool.fetchval("SELECT count(*) FROM event_heads WHERE event_id = $1", UUID(body["event_id"])) == 1

    position = {name: listed[name] for name in ("topic", "partition", "offset")}
    parked = await ask(api, "POST", "/api/v1/parked-records", 409, json=position)
    assert "was processed already: refused (" in parked["detail"]
    nowhere = await ask(api, "POST", "/api/v1/parked-records", 422, json={**position, "offset": 10**9})
    assert "has no record at offset 1000000000: its records have the offsets" in nowhere["detail"]


@pytest.mark.timeout(300)
async def test_a_walk_over_the_openapi_document_meets_no_error_of_the_service(
    api: aiohttp.ClientSession, settings: Settings, tmp_path: Path
):
    host, port = settings.api_address
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
    arguments = ["run", f"http://{host}:{port}/openapi.json", "--checks", checks, "--phases", "examples,coverage,fuzzing"]
    limits = ["--max-examples", "3", "--max-time", "25", "--seed", "1", "--suppress-health-check", "all", "--request-timeout", "20"]
    walk = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *arguments, *limits, "--no-color", "--continue-on-failure"),
        cwd=tmp_path,  # where it keeps what it has generated
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await walk.communicate()
    assert walk.returncode == 0, output.decode()[-8000:]

"""The HTTP API without servers behind it, over real HTTP: what is refused, how, and that nothing else is served."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter

from schemas import ExperimentResult, OutcomeEvent, SimulationRequest
from streams.api import corrections, decisions, examples
from streams.api.planning import PilotBody
from streams.api.server import require_safe_exposure, serving_api
from streams.api.trainings import TrainingBody
from streams.settings import Settings
from tests.http_api import JSON, NOWHERE, Api, running


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as api:
        yield api


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api/v1/campaigns", 404, "there is nothing at this address: /openapi.json lists the addresses"),
        ("GET", "/docs", 404, "there is nothing at this address"),
        ("PUT", "/api/v1/simulations", 405, "does not take this method"),
        ("GET", "/api/v1/simulations/latest", 422, "simulation_id: input should be a valid UUID"),
        ("GET", "/api/v1/simulations?limit=0", 422, "limit: input should be greater than or equal to 1, not '0'"),
        ("GET", "/api/v1/simulations?cursor=abc", 422, "cursor 'abc' is not the next of an earlier answer"),
        ("GET", "/api/v1/simulations?status=done", 422, "'queued', 'running', 'completed', 'rejected', 'failed' or 'cancelled'"),
        ("GET", "/api/v1/catalogue?version=-1", 422, "version: input should be greater than or equal to 0"),
        ("GET", "/api/v1/simulations", 503, "Postgres does not answer for now"),
        ("GET", "/api/v1/tables/latest", 422, "table_id: input should be a valid UUID"),
        ("GET", "/api/v1/trainings", 503, "Postgres does not answer for now"),
        ("GET", "/api/v1/models", 503, "Postgres does not answer for now"),
    ],
)
async def test_an_error_names_the_value_and_what_is_allowed(api: Api, method: str, path: str, status: int, detail: str):
    reply = await api.ask(method, path)
    assert (reply.status, reply.body["status"]) == (status, status)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert detail in reply.body["detail"]
    assert reply.body["type"] == "about:blank"
    assert reply.body["title"]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"{", 400, "the body is no JSON that can be stored"),
        (b'{"brand": "kisqali", "brand": "fabhalta"}', 400, "the field 'brand' is there more than once"),
        (b'{"brand": "a\\u0000b"}', 400, "the character NUL"),
        (b"[" * 100_000, 400, "the body is no JSON that can be stored"),
        (b"[]", 422, "a simulation request is a JSON object, not []"),
        (b'{"brand": "kisqali"}', 422, "twin_type: missing; intervention: missing"),
        (
            json.dumps({**examples.SIMULATIONS["Speaker programs in the south"], "surprise": 1}).encode(),
            422,
            "surprise: unknown field",
        ),
    ],
)
async def test_a_body_that_is_no_request_is_refused(api: Api, body: bytes, status: int, detail: str):
    reply = await api.ask("POST", "/api/v1/simulations", body, **JSON)
    assert reply.status == status
    assert detail in reply.body["detail"]


async def test_a_body_of_another_type_is_refused_with_those_that_are_taken(api: Api):
    reply = await api.ask("POST", "/api/v1/simulations", b"<x/>", Content_Type="text/xml")
    assert reply.status == 415
    assert reply.headers["Accept-Post"] == "application/json, application/cloudevents+json"


@pytest.mark.parametrize(
    ("headers", "body", "status", "detail"),
    [
        ({"Content-Type": "application/cloudevents+json"}, {"specversion": "1.0", "id": "1"}, 400, "no CloudEvent of version 1.0"),
        (
            {"Content-Type": "application/cloudevents+json"},
            {"specversion": "1.0", "id": "1", "source": "/crm", "type": "twinstream.OutcomeEvent.v1", "data": {}},
            422,
            "this address takes twinstream.SimulationRequest.v1",
        ),
        (
            {"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/crm", "ce-type": "other"},
            {},
            422,
            "the type of the CloudEvent is 'other'",
        ),
        (
            {"Content-Type": "application/cloudevents+json"},
            {
                "specversion": "1.0",
                "id": "1",
                "source": "/crm",
                "type": "twinstream.SimulationRequest.v1",
                "data": {"brand": "kisqali"},
            },
            422,
            "twin_type: missing",
        ),
    ],
)
async def test_a_cloud_event_is_read_in_both_modes(api: Api, headers: dict[str, str], body: Any, status: int, detail: str):
    reply = await api.ask("POST", "/api/v1/simulations", json.dumps(body).encode(), **headers)
    assert reply.status == status
    assert detail in reply.body["detail"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_page_of_somebody_else_may_not_send_requests(api: Api, headers: dict[str, str]):
    reply = await api.post("/api/v1/simulations", {}, **headers)
    assert reply.status == 403
    assert "may not send requests to this service" in reply.body["detail"]
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_form_of_somebody_elses_page_decides_nothing(api: Api, site: str):
    """As browsers send it: without asking before, as a form has a type that needs no permission."""
    sent = {"Origin": f"http://localhost:{api.port + 1}", "Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate"}
    for path in (f"/api/v1/retrains/{uuid4()}/approval", "/login", "/logout"):
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            reply = await api.ask("POST", path, b"", Content_Type=kind, **sent)
            assert reply.status == 403
            assert "may not send requests to this service" in reply.body["detail"]


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {}])
async def test_the_own_page_may_send_requests(api: Api, headers: dict[str, str]):
    reply = await api.post("/api/v1/simulations", {}, **({"Origin": f"http://127.0.0.1:{api.port}"} | headers))
    assert reply.status == 422


async def test_another_host_name_is_refused(api: Api):
    reply = await api.ask("GET", "/", Host="evil.example")
    assert reply.status == 421
    assert "name the host in TWIN_ALLOWED_HOSTS" in reply.body["detail"]


async def test_every_answer_forbids_browsers_to_frame_cache_or_reinterpret_it(api: Api):
    for path in ("/", "/openapi.json", "/api/v1/none"):
        headers = (await api.ask("GET", path)).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


async def test_a_body_that_is_too_large_is_refused_whether_or_not_it_tells_its_length():
    async with running(api_max_body_mb=0.01, api_max_upload_mb=0.02) as api:

        async def blocks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000

        told = await api.ask("POST", "/api/v1/simulations", b"x" * 20_000, **JSON)
        streamed = await api.ask("POST", "/api/v1/simulations", blocks(), **JSON)  # type: ignore[arg-type]
        table = await api.ask("POST", "/api/v1/outcomes", blocks(), Content_Type="text/csv")  # type: ignore[arg-type]
    assert [reply.status for reply in (told, streamed, table)] == [413, 413, 413]
    assert "0.01 MB (TWIN_API_MAX_BODY_MB)" in streamed.body["detail"]
    assert "0.02 MB (TWIN_API_MAX_UPLOAD_MB)" in table.body["detail"]


async def test_a_body_that_does_not_come_is_not_waited_for():
    async with running(web_idle_s=0.2) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = [
            "POST /api/v1/simulations HTTP/1.1",
            f"Host: 127.0.0.1:{api.port}",
            "Content-Type: application/json",
            "Content-Length: 9",
        ]
        writer.write("\r\n".join([*head, "", "{"]).encode())
        async with asyncio.timeout(20):
            assert b" 408 " in await reader.readline()
        writer.close()


async def test_a_connection_without_a_request_is_closed():
    async with running(web_idle_s=1) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_more_requests_than_the_limit_are_told_when_to_try_again():
    async with running(api_rate_per_s=0.2) as api:  # two at once
        statuses = [(await api.ask("GET", "/openapi.json")).status for _ in range(3)]
        refused = await api.ask("GET", "/openapi.json")
    assert statuses == [200, 200, 429]
    assert int(refused.headers["Retry-After"]) > 0
    assert "TWIN_API_RATE_PER_S" in refused.body["detail"]


async def test_the_page_is_there_also_without_servers(api: Api):
    reply = await api.ask("GET", "/")
    assert reply.status == 200
    assert "<title>Lines · Twinstream</title>" in reply.body
    assert "The figures cannot be read now" in reply.body
    scripts = re.findall(r'src="(/static/[^"]+)"', reply.body)
    assert scripts
    for path in scripts:
        loaded = await api.ask("GET", path)
        assert (loaded.status, loaded.headers["Content-Encoding"]) == (200, "gzip")
        assert loaded.headers["Content-Type"].startswith("text/javascript")
    assert (await api.ask("GET", "/static/0/page.css")).status == 404
    for path in ("/lines/hcp:kisqali:prescribing_change", "/simulations", "/models/00000000-0000-0000-0000-000000000001"):
        reply = await api.ask("GET", path)
        assert (reply.status, "script-src 'self'" in reply.headers["Content-Security-Policy"]) == (200, True)
    assert (await api.ask("GET", "/nothing")).status == 404
    assert (await api.ask("GET", "/simulations?odd=1")).status == 400


async def test_the_form_that_asks_is_there_without_servers_and_takes_only_forms_of_its_own_page(api: Api):
    shown = await api.ask("GET", "/ask")
    assert shown.status == 200
    assert "The form is shown as soon as the models can be read" in shown.body
    assert shown.headers["Referrer-Policy"] == "same-origin"  # else browsers send forms without their origin
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    sent = await api.ask("POST", "/ask", b"campaign=email_campaign", Origin=f"http://127.0.0.1:{api.port}", **form)
    foreign = await api.ask("POST", "/ask", b"campaign=email_campaign", Origin="https://evil.example", **form)
    other = await api.ask("POST", "/ask", b"{}", **JSON)
    broken = [await api.ask("POST", "/ask", body, **form) for body in (b"a=%ff", b"variant=a%00b")]
    assert [reply.status for reply in (sent, foreign, other, *broken)] == [200, 403, 415, 400, 400]
    assert other.headers["Accept-Post"] == "application/x-www-form-urlencoded"
    assert "is no id" in (await api.ask("GET", "/simulations/latest/pilot")).body
    assert (await api.ask("GET", "/simulations/00000000-0000-0000-0000-000000000001/report.html")).status == 503


async def test_a_port_that_is_taken_is_refused_with_the_setting_that_changes_it(api: Api):
    with pytest.raises(OSError, match="set TWIN_API_HOST or TWIN_API_PORT"):
        async with serving_api(Settings(**NOWHERE, api_port=api.port)):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "twins.example"])
def test_an_address_of_a_network_needs_tls_or_a_proxy(host: str):
    with pytest.raises(ValueError, match=rf"TWIN_API_HOST={host} opens the API to a network: set TWIN_API_CERTIFICATE_FILE"):
        require_safe_exposure(Settings(api_host=host))
    require_safe_exposure(Settings(api_host=host, web_behind_proxy=True))
    require_safe_exposure(Settings(api_host=host, api_certificate_file="c.pem", api_key_file="k.pem"))


def test_a_certificate_needs_its_key():
    with pytest.raises(ValueError, match="TWIN_API_CERTIFICATE_FILE and TWIN_API_KEY_FILE belong together"):
        require_safe_exposure(Settings(api_certificate_file="c.pem"))


async def test_behind_a_proxy_every_address_needs_a_token():
    async with running(web_behind_proxy=True) as api:
        document = Settings(**NOWHERE, api_port=api.port)
        replies = {path: await api.ask("GET", path) for path in ("/", "/openapi.json", "/api/v1/models", "/api/v1/simulations")}
        malformed = await api.ask("GET", "/api/v1/models", Authorization="Basic YTpi")
    assert document.is_api_on_loopback
    assert {path: reply.status for path, reply in replies.items()} == dict.fromkeys(replies, 401)
    assert replies["/"].headers["WWW-Authenticate"] == 'Bearer realm="twinstream"'
    assert "`twinstream tokens create` makes one" in replies["/"].body["detail"]
    assert "not of the form Bearer TOKEN" in malformed.body["detail"]


async def test_the_document_describes_every_endpoint_with_its_errors_and_its_scope(api: Api):
    document = (await api.ask("GET", "/openapi.json")).body
    references = {text.split('"')[0] for text in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= document["components"]["schemas"].keys()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], f"{method} {path}"
            assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyCookie": []}], f"{method} {path}"
            assert {"401", "403", "422", "429", "503"} <= operation["responses"].keys(), f"{method} {path}"
    bodies = [
        operation["requestBody"]
        for methods in document["paths"].values()
        for operation in methods.values()
        if "requestBody" in operation
    ]
    assert len(bodies) == 16


FILLED_IN = {"simulation_id": "7f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11", "requested_at": "2026-11-02T12:00:00Z"}


@pytest.mark.parametrize(
    ("model", "values", "filled_in"),
    [
        (SimulationRequest, examples.SIMULATIONS, FILLED_IN),
        (OutcomeEvent, examples.OUTCOMES, {}),
        (ExperimentResult, examples.EXPERIMENTS, {}),
        (PilotBody, examples.DESIGNS, {}),
        (decisions.Promotion, examples.PROMOTIONS, {}),
        (decisions.Rollback, examples.ROLLBACKS, {}),
        (decisions.PolicyChoice, examples.POLICIES, {}),
        (decisions.ThresholdChoice, examples.THRESHOLDS, {}),
        (decisions.RetrainDecision, examples.RETRAIN_DECISIONS, {}),
        (corrections.Replay, examples.REPLAYS, {}),
        (corrections.ParkRequest, examples.PARKED_RECORDS, {}),
        (TrainingBody, examples.TRAININGS, {}),
    ],
)
def test_an_example_is_valid(model: Any, values: dict[str, Any], filled_in: dict[str, str]):
    for value in values.values():
        TypeAdapter(model).validate_json(json.dumps({**filled_in, **value}))

"""A table is uploaded over HTTP, its columns are mapped, and a line is trained on it, also when the trainer is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from schemas import TrainingRequest
from sql.ledger import Ledger
from sql.park_store import pending_park_requests
from sql.training_store import find_training
from streams.metrics import SOURCE_LAG
from streams.settings import Settings
from streams.worker.supervisor import Workers
from tests.outcomes import LINE
from tests.polling import until

CSV = {"Content-Type": "text/csv"}
RUNNING = {"published", "queued", "running"}
ANSWERS = ["Provider=entity_id", "Fachgebiet=specialty", "Notiz="]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A lease that ends soon after a kill."""
    return settings.model_copy(update={"lease_s": 3.0})


def hcps(n: int, seed: int = 3) -> pd.DataFrame:
    """Prescribers under headers of somebody's own."""
    table = sample_hcps(n, np.random.default_rng(seed))
    table.insert(0, "Provider", [f"hcp-{number}" for number in range(n)])
    return table.assign(Notiz="x").rename(columns={"specialty": "Fachgebiet"})


async def ask(session: aiohttp.ClientSession, method: str, path: str, status: int = 200, **options: Any) -> Any:
    async with session.request(method, path, **options) as reply:
        text = await reply.text()
        assert reply.status == status, text
        return json.loads(text) if text else None


async def upload(session: aiohttp.ClientSession, table: pd.DataFrame, name: str = "hcps.csv") -> Any:
    return await ask(session, "POST", f"/api/v1/tables?name={name}", 201, data=table.to_csv(index=False).encode(), headers=CSV)


def trainings_under(pid: int) -> list[int]:
    processes = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in processes.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and "-m streams.training " in row[2]]


async def test_a_table_is_uploaded_mapped_and_trained_on_though_the_trainer_is_killed(service, settings, pool, tmp_path):
    host, port = settings.api_address
    async with service(["web"]), aiohttp.ClientSession(f"http://{host}:{port}") as session:
        uploaded = await upload(session, hcps(1200))
        table_id = uploaded["table_id"]
        assert (uploaded["n_rows"], uploaded["name"], uploaded["twin_type"]) == (1200, "hcps.csv", "hcp")
        shown = await ask(session, "GET", f"/api/v1/tables/{table_id}?" + urlencode([("map", answer) for answer in ANSWERS]))
        assert shown["mapping"]["columns"]["specialty"]["column"] == "Fachgebiet"
        assert shown["check"]["problems"] == []
        assert {column["role"] for column in shown["check"]["columns"]} >= {"id", "target", "feature"}
        body = {"table_id": table_id, "brand": "kisqali", "answers": ANSWERS}
        accepted = await ask(session, "POST", "/api/v1/trainings", 202, json=body)
        path = f"/api/v1/trainings/{accepted['training_id']}"
        assert (await ask(session, "GET", path))["status"] == "published"

        workers = await asyncio.to_thread(Workers(["trainer"], settings, log_folder=tmp_path / "logs").__enter__)
        try:
            trainer = workers.pids["trainer"]
            await until(lambda: asyncio.to_thread(trainings_under, trainer), bool)
            os.kill(trainer, signal.SIGKILL)
            ended = await until(lambda: ask(session, "GET", path), lambda training: training["status"] not in RUNNING)
        finally:
            await asyncio.to_thread(workers.stop)

        assert (ended["status"], ended["tries"], ended["line"]) == ("promoted", 2, LINE)
        assert "first champion of the line, trained on hcps.csv" in ended["reason"]
        card = await ask(session, "GET", f"/api/v1/model-cards/{ended['model_id']}")
        assert (card["line"], card["training_samples"]) == (LINE, 1200)
        assert [item["training_id"] for item in (await ask(session, "GET", "/api/v1/trainings"))["items"]] == [ended["training_id"]]
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted"]


async def test_what_cannot_be_trained_on_is_refused_before_and_behind_the_topic(service, settings, pool, client, listener):
    host, port = settings.api_address
    async with service(["web", "trainer"]), aiohttp.ClientSession(f"http://{host}:{port}") as session:
        few = await upload(session, hcps(20), "few.csv")
        body = {"table_id": few["table_id"], "brand": "kisqali", "answers": ANSWERS}
        refused = await ask(session, "POST", "/api/v1/trainings", 422, json=body)
        assert "a training would refuse the table" in refused["detail"]
        assert refused["problems"]
        gone = await ask(session, "POST", "/api/v1/trainings", 404, json={**body, "table_id": str(uuid4())})
        assert "there is no uploaded table" in gone["detail"]
        assert await listener.count("training-requests") == 0

        mapping = (await ask(session, "GET", f"/api/v1/tables/{few['table_id']}"))["mapping"]
        request = TrainingRequest(
            training_id=uuid4(),
            requested_at="2026-03-01T00:00:00Z",
            table_id=few["table_id"],
            twin_type="hcp",
            brand="kisqali",
            mapping=mapping,
        )
        other = request.model_copy(update={"table_id": uuid4(), "training_id": uuid4()})
        unfit = request.model_copy(update={"mapping": {"name": "x"}, "training_id": uuid4()})
        for event in (other, unfit, request, request):
            await client.publish(event)
        await client.publish_bytes("training-requests", b"k", b"{broken")
        letters = await listener.dead_letters(3)
        assert sorted(headers["twin_kind"] for _, headers in letters) == ["invalid", "table", "unfit"]
        training = await until(partial(find_training, pool, request.training_id), lambda training: training.status == "refused")
    assert "are too few" in training.reason or "are needed" in training.reason
    assert await pool.fetchval("SELECT count(*) FROM trainings") == 1


async def test_a_requested_training_is_parked_before_its_trainer_has_read_it(
    service, promoted, pool, client, twinstream, monkeypatch
):
    monkeypatch.setattr("streams.operations.record_parking._PICKED_UP_S", 0.5)  # no role runs that would pick it up
    for _ in range(2):
        await client.publish_bytes("training-requests", b"k", b"{broken")
    parked = await twinstream("dlq", "park", "training-requests", "0", "0", "--why", "not wanted", "--json")
    assert parked["state"] == "requested"
    kinds = "SELECT source_offset, kind FROM refused_records WHERE topic = 'training-requests' ORDER BY 1"
    async with service(["trainer"]):
        rows = await until(lambda: pool.fetch(kinds), lambda rows: len(rows) == 2)
        lag = SOURCE_LAG.labels(topic="training-requests", partition=0)._value
        await until(lambda: asyncio.sleep(0, lag.get()), lambda waiting: waiting == 0)
        processed = await twinstream("dlq", "park", "training-requests", "0", "1", status=1)
    assert [tuple(row) for row in rows] == [(0, "parked"), (1, "invalid")]
    assert "the record at training-requests:0:1 was processed already: refused (invalid)" in processed
    assert await pending_park_requests(pool) == []

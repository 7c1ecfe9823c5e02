"""Outages of a real MLflow server: each shows within 15 s wherever an operator looks, and what needs no model goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas import ModelEvent
from sql.database import Pool
from streams.registry import prepare_store
from streams.settings import Settings
from streams.web.dashboard import serve_dashboard
from streams.worker.supervisor import Workers
from tests.flow.test_outages import count_ingested, is_ingested, publish, read_state, shows_no_outage, shows_outage
from tests.mlflow_server import MlflowServer
from tests.polling import until

PATIENCE_S = 60.0
SHOWN_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server of this module, whose test stops it."""
    with MlflowServer(tmp_path_factory.mktemp("server")) as server:
        prepare_store(server.uri)
        yield server


async def test_an_outage_of_the_mlflow_server_shows_everywhere_within_15_s_in_one_line_with_a_count(
    settings: Settings, pool: Pool, promoted: ModelEvent, mlflow: MlflowServer, tmp_path: Path
):
    settings = settings.model_copy(update={"mlflow_uri": mlflow.uri})
    log = tmp_path / "logs" / "outcomes.log"
    with Workers(["outcomes", "simulation"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        async with serve_dashboard(settings) as page:
            pids = dict(workers.pids)
            for number, (begin, end) in enumerate(((mlflow.suspend, mlflow.resume), (mlflow.stop, mlflow.start))):
                log_start = len(log.read_text())
                await until_shown(settings, page, begin)
                n_before = await count_ingested(settings)
                await publish(settings, range(200 * number, 200 * number + 200))
                await until(lambda n=n_before: is_ingested(settings, n + 200))  # type: ignore[misc]  # mypy cannot infer it
                await asyncio.to_thread(end)
                await until(lambda: shows_no_outage(settings, page, "mlflow"))
                lines = log.read_text()[log_start:].splitlines()
                outage = [line for line in lines if "mlflow is out" in line]
                assert len(outage) == 1
                assert "attempts failed" in outage[0]
                assert sum("mlflow answers again after" in line for line in lines) == 1
                assert len(lines) <= 60
            assert workers.pids == pids  # no process was restarted


async def until_shown(settings: Settings, page: str, begin: Callable[[], None]) -> None:
    """Begin an outage, and wait until metric, readiness and page of it are there."""
    start_s = time.monotonic()
    await asyncio.to_thread(begin)
    while not await shows_outage(settings, page, "mlflow"):
        assert time.monotonic() - start_s < SHOWN_WITHIN_S, await read_state(settings, page)
        await asyncio.sleep(0.2)

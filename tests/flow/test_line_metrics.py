"""The gauges of a line stand in the metrics of the worker that reads it, and in no other."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid5

import aiohttp
import pytest

from schemas import TWIN_TYPES, Brand, ModelCard, SourceId, TwinType
from sql.database import Pool
from sql.ledger import Ledger
from sql.source_position_store import begin_source
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.monitoring.pane_table import partition_of
from streams.settings import PORTS, Settings
from streams.worker.supervisor import Workers
from tests.flow.conftest import READY_S, _free_ports
from tests.outcomes import SPACE, TOPIC, make_card, outcome, poll_batches, record
from tests.polling import until

PANE_S, WINDOW_S = 60.0, 300.0
CARDS = [
    make_card().model_copy(
        update={"twin_type": kind, "brand": brand, "target": entry.targets[0].name, "model_id": uuid5(SPACE, f"{kind} {brand}")}
    )
    for kind, entry in TWIN_TYPES.items()
    for brand in Brand
]
LINES = {card.line for card in CARDS}


@pytest.fixture
async def lines(settings: Settings, pool: Pool) -> None:
    """Nine lines with outcomes, as an outcomes role would have stored them."""
    ledger = Ledger(pool)
    for card in CARDS:
        await ledger.register_model(card, "0" * 64, pane_s=PANE_S, window_s=WINDOW_S)
        await ledger.promote(card.line, card.model_id, reason="first")
    await begin_source(pool, SourceId(topic=TOPIC, partition=0))
    pipeline = OutcomePipeline(pool, ContextLoader(pool, None, None), 300.0, 86_400.0)  # type: ignore[arg-type]  # no model is needed
    outcomes = [outcome_of(card, number) for card in CARDS for number in range(60)]
    for batch in poll_batches([record(offset, values) for offset, values in enumerate(outcomes)], 200):
        await pipeline.ingest(batch)


def outcome_of(card: ModelCard, number: int) -> dict[str, object]:
    dimension = TWIN_TYPES[TwinType(card.twin_type)].segments[0]
    fields = {"twin_type": card.twin_type, "brand": card.brand, "metric_type": card.target, "segment": {dimension: "west"}}
    return outcome(number, **fields, event_id=str(uuid5(card.model_id, str(number))))


@asynccontextmanager
async def fidelity_worker(settings: Settings, folder: Path) -> AsyncIterator[int]:
    """A fidelity role in a process of its own; yields the port of its metrics."""
    own = settings.model_copy(update={"web_port": _free_ports(PORTS), "home": folder})
    workers = await asyncio.to_thread(Workers(["fidelity"], own, log_folder=folder / "logs").__enter__)
    try:
        await asyncio.to_thread(workers.wait_ready, READY_S)
        yield own.port_of("fidelity")
    finally:
        await asyncio.to_thread(workers.stop)


async def series_by_line(port: int) -> dict[str, set[str]]:
    """The names of the gauges that a worker shows, by line; counters stay where they were counted."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as reply:
        text = await reply.text()
    names: defaultdict[str, set[str]] = defaultdict(set)
    for name, line in re.findall(r'^(twin_\w+)\{[^}]*line="([^"]+)"', text, flags=re.MULTILINE):
        if not name.endswith(("_total", "_created")):
            names[line].add(name)
    return names


async def lag_partitions_of(*ports: int) -> list[set[str]]:
    """The partitions whose lag each of the workers shows."""
    shown = []
    for port in ports:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as reply:
            shown.append(set(re.findall(r'^twin_source_lag_records\{partition="(\d+)"', await reply.text(), flags=re.MULTILINE)))
    return shown


async def until_lines_are_split(*ports: int) -> list[dict[str, set[str]]]:
    """Wait until each line is shown by exactly one of the workers, and all of them by some."""
    async with asyncio.timeout(READY_S):
        while True:
            shown = [await series_by_line(port) for port in ports]
            lines = [line for one_worker in shown for line in one_worker]
            if sorted(lines) == sorted(LINES) and all("twin_window_mae" in names for part in shown for names in part.values()):
                return shown
            await asyncio.sleep(0.2)


@pytest.mark.usefixtures("lines")
async def test_two_workers_show_no_line_both_and_a_worker_that_gets_lines_back_shows_them_again(settings: Settings, tmp_path: Path):
    async with fidelity_worker(settings, tmp_path / "first") as first:
        (alone,) = await until_lines_are_split(first)
        assert all({"twin_baseline_mae", "twin_window_mae", "twin_segment_values"} <= names for names in alone.values())

        async with fidelity_worker(settings, tmp_path / "second") as second:
            mine, theirs = await until_lines_are_split(first, second)
            assert mine
            assert theirs
            await until(partial(lag_partitions_of, first, second), lambda shown: all(shown) and not set.intersection(*shown))
            assert not {partition_of(line) for line in mine} & {partition_of(line) for line in theirs}

        (again,) = await until_lines_are_split(first)
        assert again.keys() == LINES

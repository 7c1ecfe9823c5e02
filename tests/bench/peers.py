"""The outcome path beside Quix Streams and a bare aiokafka: the same records on the same broker, in the same run.

Quix Streams keeps tumbling windows of the moments in its own state with a changelog, on a topic that is keyed by region already. It
has no database, and an event that is sent twice counts twice. It runs in an environment of its own, from ``deploy/locks/quix.txt``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sql.database import connect
from streams.kafka.topics import PARTITIONS
from streams.settings import Settings
from tests.bench.measure import Aim, Figure
from tests.bench.outcomes import AIM, CONSUMER, TOPIC, InArrays, Rate, decode, drained, ends, publish, read_counted
from tests.bench.tables import Measured, promote_first
from tests.bench.unstored import without_transaction

__all__ = ["peer_figures"]

ROOT = Path(__file__).parents[2]
INSTALL = "deploy/locks/install_extra.sh"
QUIX = "Quix Streams: tumbling windows of the same moments, state and changelog, no database, topic keyed by region"
SINGLE = "the same as single events"
ARRAY = 100
IN_MEMORY_TIMES = 4.0
STORED_TIMES = {1: 2.0, ARRAY: 3.0}
ARRAY_TIMES = 1.5


class _Rates(NamedTuple):
    """Outcomes a second of one shape of records, and processor seconds for a million."""

    bare: float
    in_memory: tuple[float, float]
    quix: tuple[float, float]
    stored: Rate


def peer_figures(measured: Measured, settings: Settings, seconds: float) -> list[Figure]:
    """Single events and arrays of them."""
    python = _environment()
    with asyncio.Runner() as runner:
        connection = runner.run(connect(settings.postgres_dsn.get_secret_value()))
        runner.run(promote_first(connection, measured.model.card, settings))
        rates: dict[int, _Rates] = {}
        for size in STORED_TIMES:
            outcomes, peer = InArrays(measured, round(seconds * AIM), size), f"bench-peer-{size}"
            runner.run(_create(settings, peer))
            begin = runner.run(ends(settings))
            n_records = runner.run(publish(settings, outcomes, TOPIC, peer))
            bare = runner.run(decode(settings, begin, n_records)) * outcomes.count / n_records
            before = runner.run(read_counted(connection))
            stored = runner.run(drained(connection, settings, outcomes.count))
            counted = runner.run(read_counted(connection)) - before
            if counted != outcomes.count:
                raise AssertionError(f"published {outcomes.count} outcomes, counted {counted}")
            in_memory = without_transaction(settings, begin, outcomes.count)  # it commits the group's offsets, so it comes later
            quix = _quix(python, settings, measured, peer, n_records, outcomes.count)
            rates[size] = _Rates(bare, in_memory, quix, stored)
        runner.run(connection.close())
    return [figure for size in rates for figure in _figures(measured.name, rates, size)]


def _figures(data: str, rates: dict[int, _Rates], size: int) -> Iterator[Figure]:
    name = "single events" if size == 1 else f"arrays of {size}"
    bare, (in_memory, own_s), (quix, quix_s), stored = rates[size]
    cost = f"{own_s:.1f} s of processor time for a million, Quix Streams {quix_s:.1f} s"
    kept = f"{stored.cpu_s:.1f} s of processor time for a million, and {stored.postgres_s:.1f} s of PostgreSQL"
    yield Figure(f"{name}, windows in memory", data, "outcomes/s", in_memory, bare, CONSUMER, 1)
    yield Figure(f"{name}, windows in memory", data, "outcomes/s", in_memory, quix, QUIX, 1, Aim("times", IN_MEMORY_TIMES), cost)
    yield Figure(
        f"{name}, all kept exactly", data, "outcomes/s", stored.rate, quix, QUIX, 1, Aim("times", STORED_TIMES[size]), kept
    )
    if size > 1:
        yield Figure(
            f"{name}, all kept exactly", data, "outcomes/s", stored.rate, rates[1].stored.rate, SINGLE, 1, Aim("times", ARRAY_TIMES)
        )


def _environment() -> Path:
    """The interpreter of the environment of Quix Streams, which is made the first time."""
    home = ROOT / ".venv" / "extras" / "quix"
    subprocess.run([INSTALL, "quix", home], cwd=ROOT, check=True)
    return home / "bin" / "python"


async def _create(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS[TOPIC], 1)])
    finally:
        await admin.close()


def _quix(python: Path, settings: Settings, measured: Measured, topic: str, n_records: int, count: int) -> tuple[float, float]:
    """Outcomes a second, and processor seconds for a million of them."""
    baseline = measured.model.card.baseline
    arguments = (settings.kafka_bootstrap, topic, n_records, settings.pane_s, baseline.center, baseline.scale)
    command = [python, Path(__file__).with_name("quix_windows.py"), *map(str, arguments)]
    spent = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return count / spent["seconds"], 1e6 * spent["cpu"] / count

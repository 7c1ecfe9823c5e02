"""A run: set the stage, publish, break, mend, wait, and judge."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import Baseline, Brand, ModelCard, TwinType
from sql.database import open_pool
from sql.ledger import Ledger
from sql.migrate import migrate
from streams.kafka.topics import PARTITIONS, create_topics
from streams.registry import MlflowRegistry, prepare_store
from streams.settings import Role, Settings
from tests.chaos.environment import ROOT, WORKER, Stage, environment, on_stage
from tests.chaos.expected import Truth, truth_of
from tests.chaos.faults import break_it
from tests.chaos.invariants import breaches
from tests.chaos.observed import (
    NUMBER,
    Found,
    TopicReader,
    answers_of,
    books,
    copies_of,
    is_read_to_end,
    published_of,
    view_of,
)
from tests.chaos.plan import OUTCOMES, REQUESTS, Said, Scenario, plan
from tests.chaos.schedule import KILLS, Fault

__all__ = ["FIRE", "Champion", "Orders", "Verdict", "a_champion", "burn"]

Say = Callable[[str], None]

_LIMITS = dict.fromkeys(("statement", "lock", "idle_in_transaction", "tcp_user"), 5.0)
FIRE = Settings.model_construct().model_copy(
    update={
        "pane_s": 10.0,
        "window_s": 60.0,
        "skew_s": 60.0,
        "grace_s": 5.0,
        "restatement_s": 7200.0,
        "session_timeout_s": 7.0,
        "slice_records": 200,
        **{f"postgres_{name}_timeout_s": seconds for name, seconds in _LIMITS.items()},
    }
)
"""Short panes and sessions, so that everything that can happen happens within minutes."""

_SERVERS = ("kafka", "postgres")
_UNANSWERED = 2000
_AGAIN_S = 1.0
_GLANCE_S = 2.0
_READY_S = 120.0


@dataclass(frozen=True)
class Orders:
    """What a run is made of.

    Attributes:
        seconds: of the stream; ``patience_s`` is how long the service may take after it to come right.
    """

    seed: int
    seconds: float
    outcomes: int
    requests: int
    faults: Sequence[Fault]
    roles: Sequence[Role] = ("outcomes", "fidelity", "simulation")
    command: Sequence[str] = WORKER
    workers: int = 2
    patience_s: float = 240.0


@dataclass
class Verdict:
    """What came of a run.

    Attributes:
        breaches: of each invariant that does not hold.
        done: what was broken when, in words.
        counts: of what was published and found, by its name.
        facts: throughput, disk and memory, in words.
    """

    breaches: Mapping[str, Sequence[str]]
    done: list[str] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    kills: int = 0


@dataclass(frozen=True)
class Champion:
    """The model that is asked and scored: its card, and where its files are."""

    card: ModelCard
    sha256: str
    mlflow_uri: str


def a_champion(mlflow_uri: str) -> Champion:
    """A small model of sample prescribers, kept in an MLflow store that is made where there is none."""
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI, n_jobs=1, seed=0)
    generator.train(sample_hcps(1500, np.random.default_rng(0)))
    prepare_store(mlflow_uri)
    saved = MlflowRegistry(mlflow_uri).save(generator.model)
    return Champion(generator.model.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id}), saved.sha256, mlflow_uri)


async def burn(home: Path, orders: Orders, champion: Champion, say: Say) -> Verdict:
    """Run it; everything that was started ends with it, and ``home`` keeps data and logs."""
    wanted = FIRE.model_copy(update={"mlflow_uri": champion.mlflow_uri})
    async with on_stage(home, wanted, orders.roles, orders.command) as stage:
        await _prepare(stage.settings, champion)
        keeping = asyncio.create_task(stage.keep())
        try:
            say("starting the workers")
            stage.scale(orders.workers)
            await stage.all_play(_READY_S)
            return await _Run(stage, orders, champion.card.baseline, say).go()
        finally:
            keeping.cancel()


async def _prepare(settings: Settings, champion: Champion) -> None:
    await migrate(settings.postgres_dsn.get_secret_value())
    await create_topics(settings)
    pool = await open_pool(settings)
    try:
        ledger = Ledger(pool)
        await ledger.register_model(champion.card, champion.sha256, pane_s=settings.pane_s, window_s=settings.window_s)
        await ledger.promote(champion.card.line, champion.card.model_id, reason="the first one")
    finally:
        await pool.close()


@dataclass
class _Run:
    stage: Stage
    orders: Orders
    baseline: Baseline
    say: Say
    done: list[str] = field(default_factory=list)
    kills: int = 0

    async def go(self) -> Verdict:
        """Publish and break at the same time, then mend everything and judge."""
        scenario = self._scenario()
        records = plan(scenario)
        disk, began = self._disk(), time.monotonic()
        self.say(f"publishing {len(records):,} records in {self.orders.seconds:g} s")
        breaking = [asyncio.create_task(self._break(fault, time.monotonic())) for fault in self.orders.faults]
        publisher = _Publisher(self.stage.settings.kafka_bootstrap, records)
        await publisher.publish()
        await asyncio.gather(*breaking)
        self.stage.scale(self.orders.workers)
        self.say(f"everything is published ({publisher.again} again) and mended: waiting until it is taken in")
        published_s = time.monotonic() - began
        truth, found = await self._settled(scenario, records, publisher.acknowledged)
        settled_s = time.monotonic() - began
        if not breaches(truth, found):
            found.mismatches = await self._verify()
        grown = {part: size - disk[part] for part, size in self._disk().items()}
        facts = self._facts(len(truth.fates), published_s, settled_s, grown)
        return Verdict(breaches(truth, found), self.done, _counts(truth, found), facts, self.kills)

    def _scenario(self) -> Scenario:
        base, at, orders = self.baseline, self.stage.settings, self.orders
        times = {name: getattr(at, name) for name in ("pane_s", "window_s", "skew_s", "restatement_s")}
        size = {"seconds": orders.seconds, "outcomes": orders.outcomes, "requests": orders.requests}
        reference = {"center": base.center, "scale": base.scale, "rmse": base.rmse}
        return Scenario(seed=orders.seed, begins=datetime.now(UTC), **size, **reference, **times)

    async def _break(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        at_s = time.monotonic() - began
        told = await break_it(self.stage, fault)
        self.kills += fault.kind in KILLS
        self.done.append(f"{at_s:7.1f} s  {fault.kind}: {told}")
        self.say(self.done[-1])

    async def _settled(self, scenario: Scenario, records: Sequence[Said], acknowledged: Iterable[int]) -> tuple[Truth, Found]:
        """The truth, and what is found as soon as it agrees, or when patience ends."""
        ends_at = time.monotonic() + self.orders.patience_s
        dsn, bootstrap = self.stage.settings.postgres_dsn.get_secret_value(), self.stage.settings.kafka_bootstrap
        async with AsyncExitStack() as held:
            topics = (OUTCOMES, REQUESTS, "fidelity-windows", "simulation-results", "dead-letters")
            outcomes, requests, windows, answers, letters = [
                await held.enter_async_context(TopicReader(bootstrap, topic, PARTITIONS[topic])) for topic in topics
            ]
            published = published_of(records, [*await outcomes.read(), *await requests.read()])
            truth = await asyncio.to_thread(truth_of, scenario, published)
            unsent = set(acknowledged) - {record.number for record in published}
            ends = await outcomes.ends()
            while True:
                late = time.monotonic() > ends_at
                if late or await is_read_to_end(dsn, ends):
                    found = await books(dsn, scenario.pane_s)
                    found.unsent = sorted(unsent)
                    found.view = view_of(await windows.read())
                    found.answers = answers_of(await answers.read())
                    found.letters = copies_of(await letters.read())
                    if late or not breaches(truth, found):
                        return truth, found
                await asyncio.sleep(_GLANCE_S)

    async def _verify(self) -> list[str]:
        """What the command says, run as anybody would."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "streams", "verify", "--json"),
            cwd=ROOT,
            env=os.environ | environment(self.stage.settings),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        mismatches = json.loads(said)["mismatches"] if said else []
        return mismatches or ([f"verify ended with status {process.returncode}"] if process.returncode else [])

    def _disk(self) -> dict[str, float]:
        home = self.stage.settings.home
        return {part: sum(path.stat().st_blocks / 2048 for path in (home / part).rglob("*") if path.is_file()) for part in _SERVERS}

    def _facts(self, elements: int, published_s: float, settled_s: float, grown: Mapping[str, float]) -> list[str]:
        workers = [_resident(process) for worker in self.stage.workers for process in worker.processes()]
        servers = {part.name: sum(map(_resident, _family(part.pid))) for part in (self.stage.kafka, self.stage.postgres)}
        return [
            f"{elements:,} elements published in {published_s:.0f} s, all said {settled_s - published_s:.0f} s later",
            f"{elements / settled_s:,.0f} elements a second from the first to the last word",
            f"disk grew by: {_megabytes(grown)}, {sum(grown.values()) * 2**20 / elements:,.0f} bytes an element",
            f"memory of {len(workers)} processes of workers: {sum(workers):,.0f} MB, the largest {max(workers):,.0f} MB",
            f"memory of servers: {_megabytes(servers)}",
            f"{self.kills} processes or workers killed, {sum(worker.starts for worker in self.stage.workers)} starts of workers",
        ]


def _megabytes(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f} MB" for name, size in sizes.items())


@dataclass
class _Publisher:
    """Sends records when they are due, again where the broker did not say that it has them.

    Attributes:
        acknowledged: records that the broker has, by their place in the plan; ``again`` counts repetitions.
    """

    bootstrap: str
    records: Sequence[Said]
    acknowledged: list[int] = field(default_factory=list)
    again: int = 0

    async def publish(self) -> None:
        """All of them."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", linger_ms=20, request_timeout_ms=10_000)
        await producer.start()
        began, room = time.monotonic(), asyncio.Semaphore(_UNANSWERED)
        try:
            async with asyncio.TaskGroup() as sending:
                for number, said in enumerate(self.records):
                    await asyncio.sleep(max(0.0, began + said.due_s - time.monotonic()))
                    await room.acquire()  # what piles up while the broker is away must not time out again and again after it
                    sending.create_task(self._send(producer, number)).add_done_callback(lambda _: room.release())
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, number: int) -> None:
        said = self.records[number]
        while True:
            try:
                await producer.send_and_wait(said.topic, said.value, said.key, headers=[(NUMBER, b"%d" % number)])
            except KafkaError:
                self.again += 1
                await asyncio.sleep(_AGAIN_S)
            else:
                self.acknowledged.append(number)
                return


def _counts(truth: Truth, found: Found) -> Mapping[str, int]:
    fates = Counter(fate for each in found.fates.values() for fate in each)
    return {**fates, "panes": len(truth.panes), "windows": len(truth.windows), "answers": len(truth.answers)}


def _family(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _resident(process: psutil.Process) -> float:
    """Megabytes; of pages that processes share each has its part."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0

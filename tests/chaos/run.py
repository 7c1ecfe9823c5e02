"""Runs chaos: starts the environment, publishes and injects faults at the same time, waits, and checks the invariants."""

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
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from schemas import Baseline, ModelCard
from sql.database import connect, open_pool
from sql.ledger import Ledger
from sql.migrate import migrate
from streams.kafka import create_topics
from streams.registry import MlflowRegistry, prepare_store
from streams.settings import Role, Settings
from tests.chaos.environment import ROOT, WORKER_COMMAND, Environment, environment_variables, open_environment
from tests.chaos.expected import ExpectedState, expected_state
from tests.chaos.faults import inject_fault
from tests.chaos.invariants import violations
from tests.chaos.observed import (
    ObservedState,
    TopicReader,
    answers_by_request,
    dead_letter_copies,
    foreign_positions,
    is_read_to_end,
    match_published,
    newest_windows,
    read_tables,
)
from tests.chaos.plan import OUTCOMES, REQUESTS, PlannedRecord, Scenario, with_history
from tests.chaos.publisher import Publisher
from tests.chaos.role_watch import RoleWatch
from tests.chaos.schedule import KILLS, Fault
from tests.hostile.batches import hostile_batches, send_batches
from tests.hostile.line_watch import LineWatch, add_other_line
from tests.hostile.traces import READERS, Position, refused_positions, requested_simulation, without_trace
from tests.mlflow_server import MlflowServer
from tests.models import hcp_model

__all__ = ["Champion", "RunOptions", "RunReport", "run_chaos", "train_champion"]

Notify = Callable[[str], None]

_POSTGRES_TIMEOUTS = dict.fromkeys(("statement", "lock", "idle_in_transaction", "tcp_user"), 5.0)
_SETTINGS = Settings.model_construct().model_copy(
    update={
        "pane_s": 10.0,
        "window_s": 60.0,
        "skew_s": 60.0,
        "grace_s": 5.0,
        "idle_s": 5.0,
        "restatement_s": 7200.0,
        "session_timeout_s": 7.0,
        "slice_records": 200,
        **{f"postgres_{name}_timeout_s": seconds for name, seconds in _POSTGRES_TIMEOUTS.items()},
    }
)
"""Short panes, windows and sessions, so that windows close and sessions expire within minutes."""

_SERVERS = ("kafka", "postgres")
_RESULTS = ("fidelity-windows", "simulation-results", "dead-letters")
_POLL_S = 2.0
_READY_S = 120.0
_HISTORY_S = 600.0


@dataclass(frozen=True)
class RunOptions:
    """Size of a run, its faults and its workers.

    Attributes:
        seconds: length of the stream.
        hostile, batches: number of hostile records and of hostile batches beside the stream.
        history: number of outcomes that are stored, and with which all workers start again, before the stream and the faults.
        patience_s: how long the service may store nothing more after the stream while a count is not right yet; at most four times
            that in all.
        command: Python arguments that start a worker.
    """

    seed: int
    seconds: float
    outcomes: int
    requests: int
    faults: Sequence[Fault]
    roles: Sequence[Role] = ("outcomes", "fidelity", "simulation")
    command: Sequence[str] = WORKER_COMMAND
    workers: int = 2
    hostile: int = 0
    batches: int = 0
    history: int = 0
    patience_s: float = 240.0


@dataclass
class RunReport:
    """The result of a run.

    Attributes:
        violations: sentences for each invariant that does not hold.
        faults: texts of the faults that were injected, with their times.
        counts: numbers of rows, panes, windows and answers, and of hostile records and batches.
        measurements: texts about throughput, disk and memory.
        kills: number of processes or workers killed.
    """

    violations: Mapping[str, Sequence[str]]
    faults: list[str] = field(default_factory=list)
    counts: Mapping[str, int] = field(default_factory=dict)
    measurements: list[str] = field(default_factory=list)
    kills: int = 0


@dataclass(frozen=True)
class Champion:
    """The model that simulates and by which outcomes are scored: its card, where its files are, and the server of that store."""

    card: ModelCard
    sha256: str
    mlflow_uri: str
    server: MlflowServer | None = None


def train_champion(mlflow_uri: str, server: MlflowServer | None = None) -> Champion:
    """Train a small model on sample prescribers and save it to this MLflow store, which is created if needed."""
    prepare_store(mlflow_uri)
    artifact = MlflowRegistry(mlflow_uri).save(hcp_model())
    card = hcp_model().card.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id})
    return Champion(card, artifact.sha256, mlflow_uri, server)


async def run_chaos(home: Path, options: RunOptions, champion: Champion, notify: Notify) -> RunReport:
    """Run chaos with its data and logs in ``home``; all processes that it starts end with it."""
    settings = _SETTINGS.model_copy(update={"mlflow_uri": champion.mlflow_uri})
    async with open_environment(home, settings, options.roles, options.command, champion.server) as environment:
        await _prepare(environment.settings, champion)
        supervision = asyncio.create_task(environment.supervise())
        try:
            notify("starting the workers")
            environment.scale(options.workers)
            began = time.monotonic()
            await environment.wait_until_ready(_READY_S)
            start_s = time.monotonic() - began
            return await _ChaosRun(environment, options, champion.card.baseline, notify, start_s).run()
        finally:
            supervision.cancel()


async def _prepare(settings: Settings, champion: Champion) -> None:
    """Create tables and topics, and promote the champion."""
    await migrate(settings.migrate_dsn)
    await create_topics(settings)
    pool = await open_pool(settings)
    try:
        ledger = Ledger(pool)
        await ledger.register_model(champion.card, champion.sha256, pane_s=settings.pane_s, window_s=settings.window_s)
        await ledger.promote(champion.card.line, champion.card.model_id, reason="the first one")
        await add_other_line(pool, champion.card.model_id)
    finally:
        await pool.close()


@dataclass
class _ChaosRun:
    environment: Environment
    options: RunOptions
    baseline: Baseline
    notify: Notify
    start_s: float
    faults: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)
    roles: RoleWatch = field(default_factory=RoleWatch)
    accepted: dict[Position, str] = field(default_factory=dict)
    kills: int = 0

    @cached_property
    def other_line(self) -> LineWatch:
        """Watches that outcomes of another line are stored whenever Postgres, Kafka and the role run."""
        lock = self.environment.servers_lock
        return LineWatch(self.environment.settings, lambda: lock.locked() or not self.roles.is_alive("outcomes"))

    async def run(self) -> RunReport:
        """Publish and inject faults at the same time, wait for the result, and check it."""
        scenario = self._scenario()
        history, stream = with_history(scenario, self.options.history)
        records = [*history, *stream]
        publisher = Publisher(self.environment.settings.kafka_bootstrap, records)
        if history:
            await self._start_again_with_history(publisher, len(history))
        disk_before, began = self._disk_mb(), time.monotonic()
        await self._publish_under_faults(publisher, len(history))
        acknowledged = publisher.acknowledged
        published_s = time.monotonic() - began
        expected, observed = await self._wait_for_result(scenario, records, acknowledged)
        settled_s = time.monotonic() - began
        if not violations(expected, observed):
            observed.mismatches = await self._verify()
        disk_growth = {server: size - disk_before[server] for server, size in self._disk_mb().items()}
        measurements = self._measurements(len(expected.fates), published_s, settled_s, disk_growth)
        return RunReport(violations(expected, observed), self.faults, _counts(expected, observed), measurements, self.kills)

    def _scenario(self) -> Scenario:
        baseline, settings, options = self.baseline, self.environment.settings, self.options
        return Scenario(
            seed=options.seed,
            begins=datetime.now(UTC),
            seconds=options.seconds,
            outcomes=options.outcomes,
            requests=options.requests,
            center=baseline.center,
            scale=baseline.scale,
            rmse=baseline.rmse,
            pane_s=settings.pane_s,
            window_s=settings.window_s,
            skew_s=settings.skew_s,
            restatement_s=settings.restatement_s,
            hostile=options.hostile,
            topics=self._read_topics(),
        )

    def _read_topics(self) -> tuple[str, ...]:
        """Topics that the roles of this run read."""
        return tuple(topic for topic, role in READERS.items() if role in self.options.roles)

    async def _start_again_with_history(self, publisher: Publisher, count: int) -> None:
        """Publish the history, wait until it is stored, and start all workers again."""
        self.notify(f"publishing {count:,} records of history")
        settings = self.environment.settings
        await publisher.publish(0, count)
        async with TopicReader(settings, OUTCOMES) as outcomes:
            ends = await outcomes.ends()
        async with asyncio.timeout(_HISTORY_S):
            while not await is_read_to_end(settings.postgres_dsn.get_secret_value(), ends):  # noqa: ASYNC110  # other processes read
                await asyncio.sleep(_POLL_S)
        began = time.monotonic()
        for worker in self.environment.workers:
            worker.kill()
        await self.environment.wait_until_ready(_READY_S)
        self.starts.append(f"all workers started again with {count:,} records of history in {time.monotonic() - began:.0f} s")
        self.notify(self.starts[-1])

    async def _publish_under_faults(self, publisher: Publisher, first: int) -> None:
        """Publish the stream while faults are injected; afterwards the usual number of workers runs again."""
        count = len(publisher.records) - first
        self.notify(f"publishing {count:,} records in {self.options.seconds:g} s")
        watching = [asyncio.create_task(work) for work in (self.roles.watch(self.environment.processes), self.other_line.run())]
        injections = [asyncio.create_task(self._inject(fault, time.monotonic())) for fault in self.options.faults]
        sending = asyncio.create_task(self._send_batches())
        await publisher.publish(first, len(publisher.records))
        await asyncio.gather(*injections)
        for task in (*watching, sending):
            if task.done():
                task.result()  # raises what has ended it
            task.cancel()
        self.environment.scale(self.options.workers)
        self.notify(f"all records are published ({publisher.retries} sent again) and all faults are over: waiting for the counts")

    async def _send_batches(self) -> None:
        """Send hostile batches, evenly over the stream; those that are late at its end are not sent."""
        options = self.options
        batches = hostile_batches(options.seed, options.batches)
        interval_s = options.seconds / max(options.batches, 1)
        await send_batches(self.environment.settings.kafka_bootstrap, batches, self._read_topics(), interval_s, self.accepted)

    async def _inject(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(max(0.0, began + fault.start_s - time.monotonic()))
        start_s = time.monotonic() - began
        target = await inject_fault(self.environment, fault)
        self.kills += fault.kind in KILLS
        self.faults.append(f"{start_s:7.1f} s  {fault.kind}: {target}")
        self.notify(self.faults[-1])

    async def _wait_for_result(
        self, scenario: Scenario, records: Sequence[PlannedRecord], acknowledged: Iterable[int]
    ) -> tuple[ExpectedState, ObservedState]:
        """The expected state, and the observed one as soon as it agrees, or at the end of the patience."""
        patience_s = self.options.patience_s
        latest, deadline, stored = time.monotonic() + 4 * patience_s, time.monotonic() + patience_s, 0
        settings = self.environment.settings
        dsn = settings.postgres_dsn.get_secret_value()
        async with AsyncExitStack() as stack:
            sources = [await stack.enter_async_context(TopicReader(settings, topic)) for topic in READERS]
            results = [await stack.enter_async_context(TopicReader(settings, topic)) for topic in _RESULTS]
            on_topics = [record for source in sources for record in await source.read()]
            published = match_published(records, on_topics)
            expected = await asyncio.to_thread(expected_state, scenario, published)
            foreign = {key: record for key, record in foreign_positions(records, on_topics).items() if key[0] in scenario.topics}
            expected.foreign = set(foreign)
            expected.foreign_requests = {
                requested_simulation(record.value) for key, record in foreign.items() if key[0] == REQUESTS
            }
            missing = sorted(
                {index for index in acknowledged if records[index].topic in READERS} - {item.index for item in published}
            )
            ends = await sources[0].ends()
            while True:
                began = time.monotonic()
                if began > deadline or await is_read_to_end(dsn, ends):
                    observed = await _observe(dsn, scenario.pane_s, results, missing)
                    observed.start_s, observed.downtimes = self.start_s, self.roles.longest_down_s
                    observed.standstill_s, observed.unstored = (
                        self.other_line.longest_standstill_s,
                        frozenset(await self.other_line.unstored()),
                    )
                    if not violations(expected, observed):
                        observed.traceless = await self._traceless(foreign.values())
                    if observed.size > stored:
                        stored, deadline = observed.size, min(began + patience_s, latest)
                    if began > deadline or not violations(expected, observed):
                        return expected, observed
                await asyncio.sleep(max(_POLL_S, time.monotonic() - began))  # the service needs the processors

    async def _traceless(self, foreign: Iterable[Any]) -> list[str]:
        """Hostile records without a trace, and accepted hostile batches whose last record is not refused."""
        settings = self.environment.settings
        connection = await connect(settings.postgres_dsn.get_secret_value())
        try:
            refused = await refused_positions(connection)
            batches = [f"{kind} at {position}" for position, kind in self.accepted.items() if position not in refused]
            return [*await without_trace(settings, connection, foreign), *batches]
        finally:
            await connection.close()

    async def _verify(self) -> list[str]:
        """Mismatches that ``twinstream verify`` reports, run as a command."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "streams", "verify", "--json"),
            cwd=ROOT,
            env=os.environ | environment_variables(self.environment.settings),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        mismatches = json.loads(output)["mismatches"] if output else []
        return mismatches or ([f"verify ended with status {process.returncode}"] if process.returncode else [])

    def _disk_mb(self) -> dict[str, float]:
        home = self.environment.settings.home
        files = {server: [path for path in (home / server).rglob("*") if path.is_file()] for server in _SERVERS}
        return {server: sum(path.stat().st_blocks / 2048 for path in paths) for server, paths in files.items()}

    def _measurements(self, elements: int, published_s: float, settled_s: float, disk_growth: Mapping[str, float]) -> list[str]:
        environment = self.environment
        workers = [_memory_mb(process) for worker in environment.workers for process in worker.processes()]
        servers = {part.name: sum(map(_memory_mb, _process_tree(part.pid))) for part in (environment.kafka, environment.postgres)}
        n_starts = sum(worker.n_starts for worker in environment.workers)
        return [
            f"{elements:,} elements published in {published_s:.0f} s, all results complete {settled_s - published_s:.0f} s later",
            f"{elements / settled_s:,.0f} elements a second from the first record to the last result",
            f"disk grew by: {_sizes_text(disk_growth)}, {sum(disk_growth.values()) * 2**20 / elements:,.0f} bytes an element",
            f"memory of {len(workers)} worker processes: {sum(workers):,.0f} MB, the largest {max(workers):,.0f} MB",
            f"memory of servers: {_sizes_text(servers)}",
            *self.starts,
            f"longest time without a living process: {self.roles.format_text()}",
            f"longest time without an outcome of another line, while all ran: {self.other_line.longest_standstill_s:.0f} s",
            f"{len(self.accepted)} of {self.options.batches} hostile batches accepted by the broker",
            f"{self.kills} processes or workers killed, {n_starts} starts of workers",
        ]


async def _observe(dsn: str, pane_s: float, results: Sequence[TopicReader], missing: Sequence[int]) -> ObservedState:
    """The present state of the tables and of the topics of windows, answers and dead letters."""
    windows, answers, dead_letters = results
    observed = await read_tables(dsn, pane_s)
    observed.missing = list(missing)
    observed.windows = newest_windows(await windows.read())
    observed.answers = answers_by_request(await answers.read())
    observed.copies = dead_letter_copies(await dead_letters.read())
    return observed


def _counts(expected: ExpectedState, observed: ObservedState) -> Mapping[str, int]:
    fates = Counter(fate for rows in observed.fates.values() for fate in rows)
    return {
        **fates,
        "hostile records": len(expected.foreign),
        "panes": len(expected.panes),
        "windows": len(expected.windows),
        "answers": len(expected.answers),
    }


def _sizes_text(megabytes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f} MB" for name, size in megabytes.items())


def _process_tree(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _memory_mb(process: psutil.Process) -> float:
    """Proportional set size: pages that several processes share are divided among them."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0

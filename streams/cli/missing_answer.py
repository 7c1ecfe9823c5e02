"""Finds out what an answer waits for that does not come in time: Kafka, Postgres, a worker, or only more time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from streams.cli.failures import address_of
from streams.cli.server_watch import Server, silent_servers

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from streams.settings import Role, Settings

__all__ = ["describe_silence", "explained_silence"]

_CHECK_S = 2.0
_PAUSE_S = 0.1
_SHARE = 0.9
"""Of the time of the check, so that it is done when the wait ends."""


@asynccontextmanager
async def explained_silence(settings: Settings, simulation_id: UUID, timeout_s: float) -> AsyncIterator[float]:
    """Yield the time on the monotonic clock at which the wait inside ends; what the answer waits for is checked shortly before.

    Raises:
        NoAnswer: in place of one from the block, with the name of what does not answer.
    """
    from streams.client import KafkaUnavailable, NoAnswer

    check_s = min(_CHECK_S, timeout_s / 2)
    check = asyncio.create_task(_check(settings, timeout_s - check_s, check_s * _SHARE))
    try:
        yield time.monotonic() + timeout_s
    except KafkaUnavailable:  # which names it
        raise
    except NoAnswer:
        raise NoAnswer(f"no answer to simulation {simulation_id} within {timeout_s:g} s: {await check}") from None
    finally:
        check.cancel()


async def _check(settings: Settings, wait_s: float, seconds: float) -> str:
    """Wait, then find out within so many seconds what does not answer."""
    await asyncio.sleep(wait_s)
    return await describe_silence(settings, "simulation", seconds)


async def describe_silence(settings: Settings, role: Role, seconds: float = _CHECK_S) -> str:
    """Find out within so many seconds what does not answer: a server, or the worker of a role."""
    servers: list[Server] = ["kafka", "postgres"]
    silent, worker = await asyncio.gather(silent_servers(settings, servers, seconds), _describe_worker(settings, role, seconds))
    if not silent:
        return worker
    names = " and ".join("{} ({})".format(*address_of(settings, server)) for server in silent)
    return f"{names} {'does' if len(silent) == 1 else 'do'} not answer"


async def _describe_worker(settings: Settings, role: Role, seconds: float) -> str:
    """Whether a worker with a role reads its topics, by the members of its consumer group."""
    from streams.kafka import open_admin

    try:
        async with asyncio.timeout(seconds), open_admin(settings) as admin:
            while (state := await _group_state(admin, role)) is None:  # noqa: ASYNC110  # the broker makes it ready
                await asyncio.sleep(_PAUSE_S)
    except Exception:  # noqa: BLE001  # whatever the client raises, nothing is known
        return f"is a worker with the role {role} running?"
    if state in {"Empty", "Dead"}:
        return f"no worker with the role {role} is running (twinstream worker --role {role})"
    return f"a worker with the role {role} is running and has not finished it: raise --timeout, or see the log of the worker"


async def _group_state(admin: AIOKafkaAdminClient, role: Role) -> str | None:
    """State of the group; None while a new broker has no coordinator yet."""
    from aiokafka.errors import GroupCoordinatorNotAvailableError

    try:
        (reply,) = await admin.describe_consumer_groups([f"twinstream-{role}"])
    except GroupCoordinatorNotAvailableError:
        return None
    error_code, _, state, *_ = reply.groups[0]
    return None if error_code else str(state)

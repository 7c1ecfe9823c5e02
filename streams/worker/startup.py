"""Watches the start of roles: it may take as long as it advances, and fails when nothing has changed for too long."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from streams.settings import Role, Settings

__all__ = ["Activity", "StartStalled", "Startup", "describe_roles", "read_activity"]

_REPEAT_S = 10.0
_MIN_PAUSE_S = 3.0
_NUMBERS = re.compile(r"[\d.,]+")
_DURATIONS = re.compile(r"[\d.,]+ s\b")


class Activity(NamedTuple):
    """What a role does that is not ready, in plain words, and whether it waits for a server."""

    text: str
    waits_for_server: bool = False


class StartStalled(RuntimeError):
    """No role has made progress for too long."""


class Startup:
    """Progress of a start, by what the roles that are not ready report.

    A report that a role has not made before is progress: another step, or a count that has changed; a duration that grows is none.
    A role that ends and starts over repeats its reports, and so makes none. The time of a wait for a server does not count.

    Args:
        stall_s: the start fails after this many seconds in which no role made progress.
        clock: returns the monotonic time.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s, self._clock = stall_s, clock
        self._advanced_at = clock()
        self._reports: dict[Role, set[str]] = {}
        self._shown = ""
        self._shown_at = clock()

    def update(self, activities: Mapping[Role, Activity]) -> str | None:
        """Compare with earlier reports; return a line to show when the roles do something else, every 3 s at most, else every 10 s.

        Args:
            activities: what each role that is not ready does.

        Raises:
            StartStalled: when no role made progress for ``stall_s``.
        """
        now = self._clock()
        for role, activity in activities.items():
            report, reports = _DURATIONS.sub("", activity.text), self._reports.setdefault(role, set())
            if activity.waits_for_server or report not in reports:
                reports.add(report)
                self._advanced_at = now
        if now - self._advanced_at > self._stall_s:
            raise StartStalled(f"no progress for {self._stall_s:g} s (TWIN_START_STALL_S)")
        return self._line(activities, now)

    def _line(self, activities: Mapping[Role, Activity], now: float) -> str | None:
        line = describe_roles({role: activity.text for role, activity in activities.items()})
        kind = _NUMBERS.sub("", line)
        if not line or now - self._shown_at < (_REPEAT_S if kind == self._shown else _MIN_PAUSE_S):
            return None
        self._shown, self._shown_at = kind, now
        return f"starting: {line}"


def describe_roles(activities: Mapping[Role, str]) -> str:
    """Describe what roles do on one line; roles that do the same are named together.

    >>> describe_roles({"simulation": "starts", "fidelity": "restores 3 of 7 lines", "trainer": "starts"})
    'simulation, trainer: starts; fidelity: restores 3 of 7 lines'
    """
    roles_by_activity: dict[str, list[str]] = {}
    for role, activity in activities.items():
        roles_by_activity.setdefault(activity, []).append(role)
    return "; ".join(f"{', '.join(roles)}: {activity}" for activity, roles in roles_by_activity.items())


def read_activity(settings: Settings, role: Role) -> Activity | None:
    """Ask a role what it does, None for one that is ready."""
    listens_everywhere = settings.web_host in ("0.0.0.0", "::", "")  # noqa: S104  # compared, not bound
    host = "127.0.0.1" if listens_everywhere else settings.web_host
    connection = http.client.HTTPConnection(host, settings.port_of(role), timeout=1.0)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        if response.status == 200:
            return None
        body = json.loads(response.read())
        return Activity(str(body["reason"]), bool(body["waits_for_server"]))
    except (OSError, http.client.HTTPException):
        return Activity("starts its process")
    except (ValueError, LookupError, TypeError):  # another program listens on this port
        return Activity("no valid answer from its port")
    finally:
        connection.close()

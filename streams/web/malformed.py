"""Logs requests that are no HTTP on few lines; aiohttp answers each with status 400, and logs a traceback."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from schemas.base import shorten

__all__ = ["MALFORMED_REQUESTS", "MalformedRequests"]

LOG = logging.getLogger(__name__)
PAUSE_S = 60.0


class MalformedRequests(logging.Filter):
    """A filter of aiohttp's log: of malformed requests one line a minute is left, without a traceback and with their number.

    Args:
        clock: the monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_s = -math.inf
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether aiohttp logs a record itself."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            return True
        self._log(error, record.args[0] if isinstance(record.args, tuple) and record.args else "a client")
        return False

    def _log(self, error: BaseException, sender: object) -> None:
        if self._clock() - self._logged_s < PAUSE_S:
            self._left_out += 1
            return
        more = f"; {self._left_out:,} more since the last such line" if self._left_out else ""
        self._logged_s, self._left_out = self._clock(), 0
        reason = shorten(" ".join(str(getattr(error, "message", error)).split()))
        LOG.warning("a request of %s is no valid HTTP, and is answered with status 400 (%s)%s", sender, reason, more)


MALFORMED_REQUESTS = MalformedRequests()
"""The filter of this process."""

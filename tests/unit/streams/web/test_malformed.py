"""Requests that are no HTTP: each is answered with status 400, and many of them leave one line in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from streams.web.health import HealthProbe, health_app, serve_app
from streams.web.malformed import PAUSE_S, MalformedRequests

HOST = b"Host: localhost\r\n"
REQUESTS = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an unknown version": b"GET /live HTTP/9.9\r\n" + HOST + b"\r\n",
    "an unknown method": b"FROB /live HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a long address": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long header": b"GET /live HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET /live HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 2_000 + b"\r\n",
    "a folded header": b"GET /live HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n",
    "a blank before the colon": b"GET /live HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "a NUL in a header": b"GET /live HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
    "a negative length": b"GET /live HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "an absurd length": b"GET /live HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "two lengths": b"GET /live HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "no chunk size": b"GET /live HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    "an unknown transfer encoding": b"GET /live HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: frob\r\n\r\n",
    "a body that is no gzip": b"GET /live HTTP/1.1\r\n" + HOST + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "an address that is none": b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n",
}


async def test_each_is_answered_with_status_400_and_all_leave_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    statuses = {}
    async with serve_app(health_app(HealthProbe("simulation", list, list)), "127.0.0.1", 0) as port:
        for name, request in REQUESTS.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            statuses[name] = (await reader.readline()).split()[1:2]
            writer.close()
    assert statuses == {name: [b"400"] for name in REQUESTS}
    assert len(caplog.records) <= 1, "a test before this one may have caused the line of this minute"
    assert not any(record.exc_info for record in caplog.records)


@pytest.fixture
def record() -> logging.LogRecord:
    error = BadHttpMessage("Bad status line:\n  Invalid method:\n\n  b'FROB'")
    values = ("aiohttp.server", logging.ERROR, __file__, 1, "Error handling request from %s", ("10.0.0.7",), (None, error, None))
    return logging.LogRecord(*values)  # type: ignore[arg-type]  # no traceback


def test_a_line_has_sender_reason_and_the_number_of_those_before_it(record: logging.LogRecord, caplog: pytest.LogCaptureFixture):
    now = 100.0
    malformed = MalformedRequests(lambda: now)
    assert not any(malformed.filter(record) for _ in range(1000))
    now += PAUSE_S
    assert not malformed.filter(record)
    reason = """of 10.0.0.7 is no valid HTTP, and is answered with status 400 ("Bad status line: Invalid method: b'FROB'")"""
    assert [line.getMessage() for line in caplog.records] == [
        f"a request {reason}",
        f"a request {reason}; 999 more since the last such line",
    ]


def test_other_errors_keep_their_traceback(record: logging.LogRecord, caplog: pytest.LogCaptureFixture):
    record.exc_info = (ValueError, ValueError("a fault of a page"), None)
    assert MalformedRequests().filter(record)
    assert caplog.records == []

"""What a command that waits tells: what it waits for, for how long, and that it ends."""

from __future__ import annotations

from uuid import UUID

from streams.monitoring import SeriesKey, WindowKey
from streams.operations.findings import Findings
from streams.operations.recomputation import LineWindow
from streams.operations.wait_notices import WaitNotices
from streams.operations.window_audit import Lag, WindowAudit


def test_a_wait_is_told_at_once_and_not_again_a_moment_later():
    lines: list[str] = []
    notices = WaitNotices(lines.append, 150.0)
    for number in (3, 2, 1):
        notices.update("windows", f"{number} windows")
    notices.update("copies", "the copies of 7 refused records")

    assert lines == [
        "waiting for 3 windows: 0 s of at most 150 s",
        "waiting for the copies of 7 refused records: 0 s of at most 150 s",
    ]


def test_a_wait_without_patience_is_over_at_once():
    assert (WaitNotices(print, -1.0).is_over, WaitNotices(print, 1000.0).is_over) == (True, False)


def test_windows_that_lag_are_described_by_their_number_their_lines_and_the_first_reason():
    audit = WindowAudit({}, {}, Findings())
    for name in "edcba":
        key = LineWindow(f"hcp:{name}:target", WindowKey(SeriesKey(UUID(int=1), "all"), 300.0))
        audit.lagging[key] = Lag("was not published", needs_snapshot=False)

    text = audit.describe_lag()

    assert text.startswith("5 windows of hcp:a:target, hcp:b:target, hcp:c:target and 2 more (the first: ")
    assert text.endswith(" was not published)")

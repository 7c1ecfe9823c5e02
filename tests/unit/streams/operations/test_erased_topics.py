"""How long a topic holds a record follows from its settings on the broker."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streams.operations.erased_topics import _hold

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY_MS = 86_400_000
WITHOUT_LIMIT = str(2**63 - 1)


@pytest.mark.parametrize(
    ("policy", "retention", "lag", "expected"),
    [
        ("delete", str(30 * DAY_MS), WITHOUT_LIMIT, f"until 2026-04-07 (retention.ms={30 * DAY_MS})"),
        ("delete", "-1", WITHOUT_LIMIT, "without a limit (retention.ms is not set)"),
        ("compact,delete", str(DAY_MS), WITHOUT_LIMIT, f"until 2026-03-09 (retention.ms={DAY_MS})"),
        (
            "compact",
            "-1",
            str(7 * DAY_MS),
            f"until 2026-03-08 (max.compaction.lag.ms={7 * DAY_MS}), once a newer record of its key has replaced it",
        ),
        (
            "compact",
            str(DAY_MS),
            WITHOUT_LIMIT,
            "without a limit (max.compaction.lag.ms is not set), once a newer record of its key has replaced it",
        ),
    ],
)
def test_a_record_is_held_as_long_as_the_settings_of_its_topic_allow(policy: str, retention: str, lag: str, expected: str) -> None:
    configuration = {
        "cleanup.policy": policy,
        "retention.ms": retention,
        "max.compaction.lag.ms": lag,
        "segment.ms": str(7 * DAY_MS),
    }

    assert _hold(configuration, NOW).format_text() == expected

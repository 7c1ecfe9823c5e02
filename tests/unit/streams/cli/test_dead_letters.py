"""Text of the commands on dead letters."""

from __future__ import annotations

from datetime import timedelta

from schemas import SourceId
from sql.dead_letter_store import PastReplay, RefusedRecord, refusal_id
from streams.cli.dead_letters import ReplayOutcome, _dead_letters_table, _no_match_text, _replay_text
from streams.operations import DeadLetter, SentReplay, SkippedReplay
from tests.outcomes import START, TOPIC

SOURCE = SourceId(topic=TOPIC, partition=2)
REFUSED = RefusedRecord(
    refusal_id(SOURCE, 7, START), SOURCE, 7, 0, START, None, b"{}", [], "invalid", "r" * 100, "ValidationError", START
)
ID = str(REFUSED.refusal_id)[:8]
COUNTED = PastReplay(REFUSED.refusal_id, TOPIC, 2, 9, START + timedelta(hours=1), "ann@host", "without a", "counted")


def test_the_table_has_counts_by_kind_and_a_line_for_each_record_with_its_reason_shortened() -> None:
    counts = [{"count": 1200, "kind": "invalid", "topic": TOPIC}]
    total, header, line = _dead_letters_table(counts, [DeadLetter(REFUSED, (COUNTED,))]).format_text().splitlines()
    assert total == f"refused: 1,200 invalid on {TOPIC}"
    assert header.split() == ["ID", "REFUSED", "AT", "WHERE", "KIND", "REPLAYED", "REASON"]
    assert line.split() == [ID, f"{START:%Y-%m-%d}", f"{START:%H:%M:%S}", f"{TOPIC}:2:7", "invalid", "counted", f"{'r' * 77}..."]


def test_a_filter_that_matches_nothing_shows_what_was_refused() -> None:
    assert _no_match_text([]) == "nothing was refused"
    counts = [{"count": 1200, "kind": "invalid", "topic": TOPIC}, {"count": 1, "kind": "json", "topic": TOPIC}]
    assert _no_match_text(counts) == f"no refused record matches; refused are 1,200 invalid on {TOPIC}, 1 json on {TOPIC}"


def test_a_replay_shows_what_became_of_each_record() -> None:
    outcome = ReplayOutcome(
        [SentReplay(REFUSED, b"{}", (2, 9))], [SkippedReplay(REFUSED, "too large")], [DeadLetter(REFUSED, (COUNTED,))]
    )
    assert _replay_text(outcome, dry_run=False).splitlines() == [
        f"{ID} as {TOPIC}:2:9: counted",
        "1 replayed, 1 not replayed",
    ]


def test_a_dry_run_shows_what_would_be_published() -> None:
    outcome = ReplayOutcome([SentReplay(REFUSED, b'{"a": 1}', None)], [], [DeadLetter(REFUSED, ())])
    assert _replay_text(outcome, dry_run=True).splitlines() == [
        f'{ID} would be replayed as {{"a": 1}}',
        "1 would be replayed, 0 would not",
    ]

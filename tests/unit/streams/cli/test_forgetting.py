"""The command that erases a person refuses what cannot be meant before it connects to anything, and asks before it erases."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner, Result

from schemas.readings import SEARCHED_FORMS, UNSEARCHED_FORMS
from streams.cli.app import app
from streams.operations.erased_topics import TopicHold
from streams.operations.erasure_report import ForgetReport, RemainingValues


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=answer, prog_name="twinstream")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["", "--yes"], "entity id '' is empty"),
        (["a\0b", "--yes"], "contains the character NUL"),
        (["7", "--twin-type", "robot", "--yes"], "twin type 'robot' does not exist: use hcp, patient, territory"),
    ],
)
def test_what_cannot_be_erased_is_refused_with_the_reason(arguments: list[str], reason: str) -> None:
    result = run("forget", *arguments)

    assert result.exit_code == 1
    assert reason in result.stderr


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_without_yes_nothing_is_erased_unless_the_question_is_answered(answer: str) -> None:
    result = run("forget", "hcp-7", answer=answer)

    assert result.exit_code == 1
    assert "Erase 'hcp-7' for ever?" in result.stderr


def test_a_report_names_what_was_done_and_what_was_not_reached() -> None:
    model = {"model_id": "m1", "line": "hcp:kisqali:x", "trained_at": "2026-01-01", "is_champion": True}
    holds = {
        "outcome-events": TopicHold(datetime(2026, 4, 7, tzinfo=UTC), "retention.ms=1", compacted=False),
        "effect-priors": TopicHold(None, "max.compaction.lag.ms is not set", compacted=True),
    }
    report = ForgetReport(
        "hcp-7",
        "",
        dry_run=False,
        counts={"fidelity_tracking": 1234, "replays": 0},
        models=[model],
        remains=[RemainingValues("model_ledger.reason", 2, "it only grows")],
        kafka=holds,
        republished=["effect-priors hcp:kisqali:x:email_campaign"],
    )

    text = report.format_text()

    assert "fidelity_tracking         1,234 rows erased" in text
    assert "replays" not in text
    assert "model m1 of hcp:kisqali:x (champion) learned from rows of this id and cannot forget them" in text
    assert "model_ledger.reason keeps the id in 2 rows: it only grows" in text
    assert "published again without the id: effect-priors hcp:kisqali:x:email_campaign" in text
    assert "outcome-events       until 2026-04-07 (retention.ms=1)\n" in text
    assert all(f"\n  {form}\n" in text for form in (*SEARCHED_FORMS, *UNSEARCHED_FORMS))
    assert "effect-priors        without a limit (max.compaction.lag.ms is not set), once a newer record of its key" in text
    assert json.loads(json.dumps(report.to_dict()))["models"] == [model]

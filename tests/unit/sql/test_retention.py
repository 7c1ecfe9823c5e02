"""A retention that would delete what is still needed is refused, with the setting and its bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sql.retention import LEAST_DAYS, RetentionSettings
from streams.kafka.topics import TOPICS
from streams.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
FIELDS = [name for name in RetentionSettings.model_fields if name.startswith("keep_")]
_SEGMENT_DAYS = 7  # Kafka's default, after which it closes a segment


def test_nothing_ages_out_that_kafka_may_deliver_again() -> None:
    assert max(topic.retention_days for topic in TOPICS if not topic.compacted) + _SEGMENT_DAYS < LEAST_DAYS


@pytest.mark.parametrize("name", FIELDS)
def test_a_retention_is_for_ever_or_longer_than_kafka_holds_records(name: str) -> None:
    assert getattr(Settings(**{name: 0}), name) == 0
    assert getattr(Settings(**{name: LEAST_DAYS}), name) == LEAST_DAYS
    for days in (1, LEAST_DAYS - 1):
        with pytest.raises(ValueError, match=rf"TWIN_{name.upper()} is {days}: it must be 0, .* or at least {LEAST_DAYS}"):
            Settings(**{name: days})
    for days in (-1, 40_000):
        with pytest.raises(ValueError, match=name):
            Settings(**{name: days})


@pytest.mark.parametrize("name", ["keep_outcomes_days", "keep_windows_days"])
def test_outcomes_and_windows_outlive_the_restatement_span_and_the_refusal_names_both_settings(name: str) -> None:
    Settings(**{name: 101}, restatement_s=100 * 86_400)
    Settings(**{name: 0}, restatement_s=100 * 86_400)
    with pytest.raises(ValueError, match=rf"TWIN_{name.upper()} is 100.*TWIN_RESTATEMENT_S, 8640000 s"):
        Settings(**{name: 100}, restatement_s=100 * 86_400)


def test_training_rows_and_the_ledger_never_age_by_default() -> None:
    assert RetentionSettings.model_fields["keep_history_days"].default == 0
    assert not any("ledger" in name or "model" in name for name in FIELDS)


def test_compose_and_the_runbook_have_the_defaults_of_the_settings() -> None:
    environment = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["trainer"]["environment"]
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    example = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")
    for name in FIELDS:
        setting, default = f"TWIN_{name.upper()}", RetentionSettings.model_fields[name].default
        assert environment[setting] == f"${{{setting}:-{default}}}"
        assert f"| `{setting}` | {default} |" in runbook
        assert f"# {setting}={default}\n" in example

"""What roles decode of hostile records: each is accepted or refused by a rule, and none trips an error that parks it."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from pydantic import ValidationError

from schemas import ExperimentResult, RetrainEvent, TrainingRequest
from streams.bounds import OutOfBounds, check_message
from streams.errors import ContainsNul, require_clear
from streams.ingestion.decoding import decode
from streams.ingestion.scoring import score
from streams.ingestion.scoring_context import ScoringContext
from streams.kafka.batch_consumer import PollBatch
from streams.monitoring.sums_check import decode_sums
from streams.repeated_keys import RepeatedKey
from streams.settings import Settings
from streams.simulation import ImplausibleExperiment, UnreadableRequest, decode_request, require_observed
from streams.simulation.effect_updates import require_plausible
from streams.training.table_training import UnfitTraining, require_fit
from tests.hostile.messages import DAMAGES, TEMPLATES, HostileRecord, hostile_records
from tests.outcomes import LINE, START, make_card

CARD = make_card()
CONTEXT = ScoringContext(champions={LINE: [(START - timedelta(days=9), CARD.model_id)]}, cards={CARD.model_id: CARD})
SETTINGS = Settings()
NOW = datetime(2026, 3, 4, tzinfo=UTC)
REFUSALS = (ValidationError, ContainsNul, OutOfBounds, RepeatedKey, UnreadableRequest, ImplausibleExperiment, UnfitTraining)


def decode_outcomes(record: HostileRecord, offset: int) -> None:
    stamp = int(NOW.timestamp() * 1000)
    polled: Any = ConsumerRecord("outcome-events", 0, offset, stamp, 1, record.key, record.value, None, 0, 0, record.headers)
    batch = score(decode(PollBatch("outcome-events", 0, 0, [polled]), 300.0), CONTEXT)
    parked = [element.refusal for element in batch.decoded.refused if element.refusal.kind == "parked"]
    assert [*parked, *(refusal for refusal in batch.scores.refused.values() if refusal.kind == "parked")] == []
    assert batch.decoded.n_elements >= 1


def process(record: HostileRecord, offset: int) -> None:
    """What the role of the topic does to a record before it reads anything else."""
    if record.topic == "outcome-events":
        decode_outcomes(record, offset)
        return
    if record.topic == "fidelity-errors":
        decode_sums(record.key, record.value, SETTINGS)
        return
    check_message(record.key, record.value, SETTINGS)
    match record.topic:
        case "simulation-requests":
            decode_request(record.value)
        case "experiment-results":
            experiment = ExperimentResult.model_validate_json(require_clear(record.value))
            require_observed(experiment, NOW, SETTINGS.skew_s)
            require_plausible(experiment)
        case "retrain-events":
            RetrainEvent.model_validate_json(require_clear(record.value))
        case "training-requests":
            require_fit(TrainingRequest.model_validate_json(require_clear(record.value)))


@pytest.mark.parametrize("seed", range(2))
def test_every_hostile_record_is_accepted_or_refused_by_a_rule(seed: int):
    kinds, refused = set(), 0
    for offset, record in enumerate(hostile_records(seed, 1500)):
        kinds.add(record.kind)
        try:
            process(record, offset)
        except REFUSALS as error:
            refused += 1
            assert str(error)  # noqa: PT017  # some records are accepted
    assert kinds == set(DAMAGES)
    assert refused > 300


def test_what_the_records_are_made_from_is_accepted():
    for topic, template in TEMPLATES.items():
        process(HostileRecord("none", topic, b"key", json.dumps(template(random.Random(1))).encode()), 0)

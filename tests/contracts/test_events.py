"""What every event must do on the wire; a new topic is tested the day it is declared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import (
    EVENTS,
    AnswerStatus,
    CatalogueEvent,
    DriftEvent,
    EffectPrior,
    EffectsChoice,
    EffectsEvent,
    Event,
    ExperimentResult,
    FidelityErrors,
    FidelityMetrics,
    FidelityWindow,
    InterventionConfig,
    ModelEvent,
    OutcomeEvent,
    PaneRow,
    RetrainEvent,
    SimulationAnswer,
    SimulationProgress,
    SimulationRequest,
    SimulationResult,
    SourceId,
    TrainingRequest,
    Verdict,
)
from schemas.events import SUM_FIELDS, canonical_digest

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
ONE, TWO, THREE = (UUID(int=0xABCDEF0000 + i) for i in range(3))
LINE = "hcp:kisqali:prescribing_change"
SPEAKERS = InterventionConfig(
    intervention_type="speaker_program_invitation", channel="email", frequency="monthly", duration_weeks=12
)
METRICS = FidelityMetrics(
    n=300, mae=0.12, correlation=0.61, n_interval=290, standard_errors={"mae": 0.004}, missing={"bias": "none"}
)
VERDICT = Verdict(rule="mae_increase", action="retrain", fired=True, value=0.12, limit=0.11, baseline=0.09, n=300, reason="above")
RESULT = SimulationResult(
    simulation_id=ONE,
    ate=0.08,
    ate_ci_lower=0.02,
    ate_ci_upper=0.14,
    recommendation="test_further",
    recommendation_reason="neither is likely enough",
    affected_twin_count=1200,
    intervention=SPEAKERS,
)
ROW = PaneRow(
    model_id=ONE,
    segment="region=south",
    pane=1_772_366_400.0,
    width_s=300,
    version=3,
    last_offset=17,
    sums=tuple(range(len(SUM_FIELDS))),
)

EXAMPLES: dict[str, list[Event]] = {
    "simulation-requests": [
        SimulationRequest(
            simulation_id=ONE,
            requested_at=AT,
            twin_type="hcp",
            brand="kisqali",
            intervention=SPEAKERS,
            filters={"specialty": ["oncology"], "tier": [1, 2], "min_decile": 5, "max_practice_size": 20},
            twin_count=5000,
            seed=7,
            alternatives=(SPEAKERS,),
        ),
        SimulationRequest(
            simulation_id=ONE, requested_at=AT, twin_type="patient", brand="fabhalta", intervention=SPEAKERS, population_id=TWO
        ),
    ],
    "simulation-results": [
        SimulationAnswer(simulation_id=ONE, status=AnswerStatus.COMPLETED, result=RESULT, model_id=TWO, effects_version=0),
        SimulationAnswer(simulation_id=ONE, status=AnswerStatus.REJECTED, reason="unknown channel 'fax'"),
        SimulationAnswer(simulation_id=ONE, status=AnswerStatus.CANCELLED, reason="cancelled before it was computed"),
    ],
    "simulation-progress": [SimulationProgress(simulation_id=ONE, twins_done=262_144, twin_count=10_000_000)],
    "experiment-results": [
        ExperimentResult(
            experiment_id="trial-7",
            observed_at=AT,
            twin_type="territory",
            brand="remibrutinib",
            intervention=SPEAKERS,
            filters={"region": ["north"]},
            effect=-0.01,
            standard_error=0.02,
            n_treated=120,
            n_control=130,
        ),
        ExperimentResult(
            experiment_id="letters",
            observed_at=AT,
            twin_type="hcp",
            brand="remibrutinib",
            intervention=SPEAKERS,
            effect=0.4,
            standard_error=0.02,
            n_treated=120,
            n_control=130,
            outcome="visit",
            unit="relative",
            population="customers",
            variant="self",
            channels=(SPEAKERS.channel, "mail"),
        ),
    ],
    "outcome-events": [
        OutcomeEvent(
            event_id=ONE,
            observed_at=AT,
            twin_type="hcp",
            brand="kisqali",
            metric_type="prescribing_change",
            actual_value=0.031,
            predicted_value=0.02,
            predicted_lower=-0.2,
            predicted_upper=0.3,
            model_id=TWO,
            segment={"region": "south", "specialty": "oncology"},
        ),
        OutcomeEvent(
            event_id=ONE,
            observed_at=AT,
            twin_type="patient",
            brand="kisqali",
            metric_type="journey_progression_days",
            actual_value=None,
            revision=2,
            simulation_id=TWO,
            twin_id=THREE,
            treated=False,
        ),
        OutcomeEvent(
            event_id=ONE,
            observed_at=AT,
            twin_type="hcp",
            brand="kisqali",
            metric_type="prescribing_change",
            actual_value=0.0,
            entity_id="hcp-1",
            features={"specialty": "oncology", "decile": 7, "digital_engagement_score": 0.25, "adoption_stage": None},
        ),
    ],
    "fidelity-errors": [
        FidelityErrors(line=LINE, source=SourceId(topic="outcome-events", partition=3, incarnation=1), watermark=AT, rows=(ROW,)),
        FidelityErrors(line=LINE, source=SourceId(topic="outcome-events", partition=3), watermark=None),
    ],
    "fidelity-windows": [
        FidelityWindow(
            line=LINE,
            model_id=ONE,
            metric_type="prescribing_change",
            segment="all",
            window_start=AT,
            window_end=AT,
            status="final",
            version=9,
            metrics=METRICS,
            state="warning",
            evidence_ratio=0.3,
        )
    ],
    "drift-events": [
        DriftEvent(
            line=LINE,
            model_id=ONE,
            segment="all",
            window_start=AT,
            window_end=AT,
            state="alarm",
            previous="ok",
            metrics=METRICS,
            verdicts=(VERDICT,),
            evidence=2e6,
            evidence_limit=1e6,
            reason="the error has grown",
        )
    ],
    "retrain-events": [
        RetrainEvent(
            retrain_id=TWO,
            line=LINE,
            model_id=ONE,
            attempt=0,
            requested_at=AT,
            cause="drift",
            reason="the error has grown",
            evidence={"ratio": 1.5, "windows": [1, 2]},
        )
    ],
    "training-requests": [
        TrainingRequest(
            training_id=ONE,
            requested_at=AT,
            table_id=TWO,
            twin_type="hcp",
            brand="kisqali",
            mapping={"name": "hcps", "twin_type": "hcp", "columns": {"entity_id": {"column": "NPI"}}},
            requested_by="an analyst",
        )
    ],
    "model-events": [
        ModelEvent(
            line=LINE,
            generation=4,
            happened="promoted",
            at=AT,
            model_id=TWO,
            champion=TWO,
            effective_from=AT,
            retrain_id=THREE,
            comparison={"mae": [0.12, 0.10]},
        )
    ],
    "effect-priors": [
        EffectsEvent(
            line=LINE,
            prior=EffectPrior(intervention_type="email_campaign", mean=0.04, sd=0.01, between_sd=0.01, version=2, n_experiments=2),
            experiments=("trial-1", "trial-2"),
            in_effect=False,
        ),
        EffectsEvent(
            line=LINE,
            prior=EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.01, between_sd=0.01, version=1, n_experiments=1),
            experiments=("trial-1",),
            choice=EffectsChoice(version=1, chosen_at=AT, chosen_by="ana@host", reason="trial-2 is doubted"),
        ),
    ],
    "catalogue-versions": [
        CatalogueEvent(version=3, sha256="ab" * 32, applied_at=AT, applied_by="ana@host", changes=("- brands.kisqali",))
    ],
}
CASES = [pytest.param(event, id=f"{topic}-{i}") for topic, events in EXAMPLES.items() for i, event in enumerate(events)]
TIME = re.compile(r"^\d{4}-\d{2}-\d{2}T[\d:.]+Z$")
each_event = pytest.mark.parametrize("event", CASES)


def to_json(event: Event) -> dict[str, Any]:
    return json.loads(event.model_dump_json())


def from_json(event: Event, **changed: Any) -> Event:
    return type(event).model_validate_json(json.dumps(to_json(event) | changed))


def times(event: Event) -> dict[str, str]:
    return {name: value for name, value in to_json(event).items() if isinstance(value, str) and TIME.match(value)}


def test_every_topic_has_an_example_of_its_event():
    assert set(EXAMPLES) == set(EVENTS)
    assert all(type(event) is EVENTS[topic] for topic, events in EXAMPLES.items() for event in events)


@each_event
def test_an_event_is_read_as_it_was_written(event):
    again = type(event).model_validate_json(event.model_dump_json())
    assert again == event
    assert canonical_digest(again) == canonical_digest(event)


@each_event
def test_an_unknown_field_is_refused_by_name(event):
    with pytest.raises(ValidationError, match="surprise"):
        from_json(event, surprise=1)


@each_event
def test_every_required_field_is_missed_by_name(event):
    for name, field in type(event).model_fields.items():
        if field.is_required():
            partial = to_json(event)
            del partial[name]
            with pytest.raises(ValidationError, match=name):
                type(event).model_validate_json(json.dumps(partial))


@each_event
def test_a_time_without_its_zone_is_refused_by_name(event):
    for name, value in times(event).items():
        with pytest.raises(ValidationError, match=rf"{name}\n.*timezone"):
            from_json(event, **{name: value.removesuffix("Z")})


@each_event
def test_it_has_its_schema_version_and_refuses_another(event):
    assert to_json(event)["schema_version"] == 1
    with pytest.raises(ValidationError, match="schema_version"):
        from_json(event, schema_version=2)


@each_event
def test_equal_content_in_another_form_has_the_same_digest(event):
    rewritten = dict(reversed(to_json(event).items()))
    for name, value in times(event).items():
        rewritten[name] = datetime.fromisoformat(value).astimezone().isoformat()
    for name in ("simulation_id", "event_id", "model_id", "retrain_id"):
        if isinstance(rewritten.get(name), str):
            rewritten[name] = rewritten[name].upper()
    for name in ("features", "segment"):
        if isinstance(rewritten.get(name), dict):
            rewritten[name] = dict(reversed(rewritten[name].items()))
    again = type(event).model_validate_json(json.dumps(rewritten, indent=3))
    assert again == event
    assert canonical_digest(again) == canonical_digest(event)


@each_event
def test_different_content_has_a_different_digest(event):
    for name, value in times(event).items():
        later = value.replace("2026", "2027")
        assert canonical_digest(from_json(event, **{name: later})) != canonical_digest(event)
    for name in ("line", "reason", "requested_by"):
        if isinstance(to_json(event).get(name), str):
            assert canonical_digest(from_json(event, **{name: "other"})) != canonical_digest(event)


@each_event
def test_an_event_never_changes(event):
    with pytest.raises(ValidationError, match="frozen"):
        event.schema_version = 1


@each_event
@pytest.mark.parametrize("bytes_", [b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff\xfe", b"{}"])
def test_bytes_that_are_no_such_event_are_refused(event, bytes_):
    with pytest.raises(ValidationError):
        type(event).model_validate_json(bytes_)


def test_a_time_is_converted_to_utc():
    (event, *_) = EXAMPLES["outcome-events"]
    shifted = from_json(event, observed_at="2026-03-01T14:30:15.250000+02:00")
    assert shifted.observed_at == AT
    assert to_json(shifted)["observed_at"] == "2026-03-01T12:30:15.250000Z"


REQUEST, FROM_POPULATION = EXAMPLES["simulation-requests"]
PREDICTED, OF_A_TWIN, OF_AN_ENTITY = EXAMPLES["outcome-events"]
EXPERIMENT, _ = EXAMPLES["experiment-results"]
ANSWER, REFUSAL, _ = EXAMPLES["simulation-results"]
(ERRORS, _) = EXAMPLES["fidelity-errors"]
(WINDOW,) = EXAMPLES["fidelity-windows"]
(RETRAIN,) = EXAMPLES["retrain-events"]
PRIORS, _ = EXAMPLES["effect-priors"]


@pytest.mark.parametrize(
    ("event", "changed", "named"),
    [
        (REQUEST, {"twin_type": "nurse"}, "twin_type"),
        (REQUEST, {"brand": "aspirin"}, "brand"),
        (REQUEST, {"target": "overall_survival"}, "unknown target of hcp twins 'overall_survival': use one of prescribing_change"),
        (REQUEST, {"filters": {"market_share": 1}}, "hcp twins cannot be filtered by 'market_share'"),
        (REQUEST, {"filters": {"min_specialty": 1}}, "'specialty' is a category"),
        (REQUEST, {"filters": {"specialty": []}}, "empty list"),
        (REQUEST, {"filters": {"tier": ["high"]}}, "filters.tier"),
        (REQUEST, {"twin_count": 99}, "twin_count"),
        (REQUEST, {"twin_count": 1_000_000_001}, "twin_count"),
        (REQUEST, {"population_id": str(TWO)}, "population_id and twin_count exclude each other"),
        (REQUEST, {"confidence_level": 1.0}, "confidence_level"),
        (REQUEST, {"confidence_level": 0.0}, "confidence_level"),
        (REQUEST, {"seed": -1}, "seed"),
        (REQUEST, {"seed": 2**63}, "seed"),
        (REQUEST, {"alternatives": [SPEAKERS.model_dump()] * 11}, "alternatives"),
        (REQUEST, {"intervention": SPEAKERS.model_dump() | {"channel": "fax"}}, "unknown channel 'fax': use one of email"),
        (REQUEST, {"intervention": SPEAKERS.model_dump() | {"frequency": "daily"}}, "unknown frequency 'daily'"),
        (
            REQUEST,
            {"intervention": SPEAKERS.model_dump() | {"intervention_type": "surgery"}},
            "unknown intervention_type 'surgery'",
        ),
        (REQUEST, {"intervention": SPEAKERS.model_dump() | {"duration_weeks": 0}}, "intervention.duration_weeks"),
        (REQUEST, {"simulation_id": "not-a-uuid"}, "simulation_id"),
        (FROM_POPULATION, {"filters": {"specialty": ["oncology"]}}, "patient twins cannot be filtered by 'specialty'"),
        (
            PREDICTED,
            {"predicted_value": None, "predicted_lower": None, "predicted_upper": None, "model_id": None},
            "exactly one source",
        ),
        (PREDICTED, {"simulation_id": str(ONE), "twin_id": str(TWO)}, "exactly one source of the prediction"),
        (PREDICTED, {"predicted_upper": None}, "belong together"),
        (PREDICTED, {"predicted_lower": 0.4}, "lies outside of its interval"),
        (PREDICTED, {"metric_type": "mortality"}, "unknown target of hcp twins 'mortality'"),
        (PREDICTED, {"segment": {"decile": "7"}}, r"segment dimensions \['decile'\] are not declared: use specialty, region"),
        (PREDICTED, {"revision": -1}, "revision"),
        (PREDICTED, {"revision": 2**31}, "revision"),
        (PREDICTED, {"actual_value": "much"}, "actual_value"),
        (OF_A_TWIN, {"twin_id": None}, "simulation_id and twin_id belong together"),
        (OF_A_TWIN, {"simulation_id": None}, "simulation_id and twin_id belong together"),
        (OF_A_TWIN, {"model_id": str(ONE)}, "model_id is the model of predicted_value"),
        (OF_A_TWIN, {"predicted_lower": 1, "predicted_upper": 2}, "an interval needs its predicted_value"),
        (OF_AN_ENTITY, {"entity_id": None}, "features need an entity_id"),
        (OF_AN_ENTITY, {"entity_id": ""}, "entity_id"),
        (OF_AN_ENTITY, {"features": {"decile": [1]}}, "features.decile"),
        (EXPERIMENT, {"standard_error": 0.0}, "standard_error"),
        (EXPERIMENT, {"n_treated": 1}, "n_treated"),
        (EXPERIMENT, {"n_control": 0}, "n_control"),
        (EXPERIMENT, {"experiment_id": ""}, "experiment_id"),
        (EXPERIMENT, {"target": "prescribing_change"}, "unknown target of territory twins 'prescribing_change'"),
        (EXPERIMENT, {"filters": {"specialty": ["oncology"]}}, "territory twins cannot be filtered by 'specialty'"),
        (ANSWER, {"result": None}, "a completed answer needs a result"),
        (ANSWER, {"reason": "because"}, "a completed answer has no reason"),
        (REFUSAL, {"reason": None}, "any other needs one"),
        (REFUSAL, {"status": "completed", "reason": None}, "a completed answer needs a result"),
        (REFUSAL, {"status": "lost"}, "status"),
        (ERRORS, {"source": {"topic": "outcome-events", "partition": -1}}, "source.partition"),
        (ERRORS, {"rows": [to_json(ERRORS)["rows"][0] | {"version": 0}]}, r"rows.0.version"),
        (ERRORS, {"rows": [to_json(ERRORS)["rows"][0] | {"width_s": 0}]}, r"rows.0.width_s"),
        (ERRORS, {"rows": [to_json(ERRORS)["rows"][0] | {"sums": [1, 2]}]}, r"rows.0.sums"),
        (ERRORS, {"rows": [to_json(ERRORS)["rows"][0] | {"sums": [0.5] * len(SUM_FIELDS)}]}, r"rows.0.sums.0"),
        (WINDOW, {"status": "ajar"}, "status"),
        (WINDOW, {"state": "panic"}, "state"),
        (WINDOW, {"metrics": to_json(WINDOW)["metrics"] | {"n": -1}}, "metrics.n"),
        (RETRAIN, {"attempt": -1}, "attempt"),
        (RETRAIN, {"cause": "boredom"}, "cause"),
        (PRIORS, {"prior": to_json(PRIORS)["prior"] | {"sd": -0.1}}, "prior.sd"),
    ],
)
def test_an_impossible_value_is_refused_by_name(event, changed, named):
    with pytest.raises(ValidationError, match=named):
        from_json(event, **changed)


@pytest.mark.parametrize("endless", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("event", "name"),
    [
        (PREDICTED, "actual_value"),
        (PREDICTED, "predicted_value"),
        (PREDICTED, "predicted_lower"),
        (EXPERIMENT, "effect"),
        (EXPERIMENT, "standard_error"),
        (WINDOW, "evidence_ratio"),
    ],
)
def test_what_is_no_finite_number_is_refused_by_name(event, name, endless):
    text = json.dumps(to_json(event) | {name: "HERE"}).replace('"HERE"', endless)
    with pytest.raises(ValidationError, match=name):
        type(event).model_validate_json(text)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize(
    ("event", "name"),
    [(PREDICTED, "actual_value"), (PREDICTED, "predicted_value"), (PREDICTED, "predicted_lower"), (EXPERIMENT, "effect")],
)
def test_a_flag_is_no_measured_number(event, name, flag):
    text = json.dumps(to_json(event) | {name: flag})
    with pytest.raises(ValidationError, match=f"{name}\n.*{str(flag).lower()} is no number: write 1 or 0 where that is meant"):
        type(event).model_validate_json(text)


def test_sums_of_any_size_keep_every_digit():
    large = ERRORS.model_copy(
        update={"rows": (ROW.model_copy(update={"sums": (10**40 + 1, -(10**40)) + (0,) * (len(SUM_FIELDS) - 2)}),)}
    )
    assert type(ERRORS).model_validate_json(large.model_dump_json()) == large


FREE_FORM = {"features", "evidence", "comparison", "specialty", "region"}
"""Fields whose values may be flags, or levels that can be written as flags."""


def numbers_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where a JSON value has numbers, but for the fields that are free in what they have."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from numbers_in(item, (*path, name)) if name not in FREE_FORM else ()
    elif isinstance(value, list):
        for index, item in enumerate(value[:3]):
            yield from numbers_in(item, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def optional_numbers(event: Event) -> Iterator[tuple[str | int, ...]]:
    """Fields that an event leaves out and that would be numbers, by its JSON schema."""
    properties = type(event).model_json_schema()["properties"]
    for name, field in properties.items():
        kinds = {option.get("type") for option in field.get("anyOf", [field])}
        if kinds & {"integer", "number"} and to_json(event).get(name) is None:
            yield (name,)


def with_value(event: Event, path: tuple[str | int, ...], value: Any) -> str:
    document = to_json(event)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document)


@each_event
@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_is_refused_wherever_a_number_is_asked(event: Event, flag: bool):
    paths = {*numbers_in(to_json(event)), *optional_numbers(event)}
    assert ("schema_version",) in paths
    for path in paths:
        with pytest.raises(ValidationError, match=re.escape(str(path[-1]))):
            type(event).model_validate_json(with_value(event, path, flag))


NAMES = {"entity_id", "experiment_id", "variant", "population", "outcome"}


@each_event
@given(blanks=st.text(" \t\n\r\x0b\x1c\x1f\x85\xa0\u2003\u2029\u3000", max_size=5))
def test_an_id_of_nothing_but_blanks_is_refused(event: Event, blanks: str):
    for name in NAMES & type(event).model_fields.keys():
        with pytest.raises(ValidationError, match=f"{name}\n.*nothing but blanks|variant .* differ"):
            type(event).model_validate_json(with_value(event, (name,), blanks))


@each_event
@given(data=st.data())
def test_an_id_that_is_no_uuid_is_refused_whatever_it_is(event: Event, data: st.DataObject):
    ids = [name for name, value in to_json(event).items() if isinstance(value, str) and UUID_TEXT.fullmatch(value)]
    for name in ids:
        other = data.draw(st.text(max_size=40).filter(lambda text: not UUID_TEXT.fullmatch(text)) | st.booleans() | st.integers())
        try:
            again = from_json(event, **{name: other})
        except ValidationError:
            continue
        assert isinstance(getattr(again, name), UUID), "another way to write an id"


UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

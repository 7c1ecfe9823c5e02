"""Text reports of a line."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from engine.fidelity.drift_rules import Detection, comparison_text, evaluate_rules
from engine.fidelity.error_sums import add_sums, contributions, fidelity_metrics
from engine.simulation_engine import SimulationEngine
from schemas import BUILT_IN, DriftState, SimulationAnswer, TwinType, in_effect
from sql.feature_count_store import FeatureCount
from streams.reporting import number
from streams.reporting.overview import LineOverview, SegmentWindow
from streams.reporting.text import WINDOW_COLUMNS, feature_sentences, line_text, simulation_text, window_cells, windows_text
from tests.outcomes import LINE, make_card
from tests.populations import intervention, population


def line_of(n: int) -> LineOverview:
    """A line whose only window holds ``n`` outcomes, all of them inside their intervals."""
    card, rng = make_card(), np.random.default_rng(1)
    predicted = rng.normal(size=n)
    actual = predicted + 0.5 * rng.normal(size=n)
    sums = add_sums(contributions(predicted, actual, predicted - 9, predicted + 9, card.baseline))
    metrics = fidelity_metrics(sums, card.baseline)
    verdicts = evaluate_rules(metrics, card.baseline)
    window = SegmentWindow("all", metrics, DriftState.OK, 0.25, verdicts, comparison_text(verdicts, Detection.NONE))
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return LineOverview(LINE, "auto", card, card, (window,), now, 3600.0, (), (), (), None, (), {"all": sums})


def test_a_window_has_the_precision_of_each_of_its_metrics():
    line = line_of(400)
    assert line.overall is not None
    low, high = line.overall.metrics.intervals["correlation"]
    errors = line.overall.metrics.standard_errors
    text = windows_text(line)
    assert f"± {errors['mae']:.2g}" in text
    assert f"all: RMSE ± {errors['rmse']:.2g}, bias ± {errors['bias']:.2g}" in text
    assert f"correlation {number(low, 3)} to {number(high, 3)} at 95%, coverage 99.0% to 100.0% at 95%" in text
    assert line.overall.comparison in text


def test_missing_unseen_and_unused_features_are_told():
    counts = [
        FeatureCount(LINE, UUID(int=1), "region", outcomes=3400, missing=40, unseen=7),
        FeatureCount(LINE, UUID(int=1), "decile", outcomes=3400, missing=1200),
        FeatureCount(LINE, UUID(int=1), "trx_growth", unused=5),
    ]
    assert feature_sentences([]) == []
    assert feature_sentences([counts[0]._replace(missing=0, unseen=0)]) == []
    assert feature_sentences(counts) == [
        "features missing, of 3,400 outcomes predicted from features: decile 1,200, region 40",
        "features with a level that the champion never saw, of 3,400 outcomes predicted from features: region 7",
        "features sent and not used by the champion, of 3,400 outcomes predicted from features: trx_growth 5",
    ]
    assert "decile 1,200, region 40" in windows_text(replace(line_of(400), features=tuple(counts)))


def test_a_single_outcome_has_no_standard_errors():
    text = windows_text(line_of(1))
    assert "± -" in text
    assert "correlation" not in text
    assert "the rule cannot be evaluated yet: 1 outcomes are too few to judge, 200 are needed" in text


@pytest.mark.parametrize("n", [1, 400, 30_000])
def test_columns_of_windows_never_touch_and_numbers_are_aligned_to_the_right(n: int):
    line = line_of(n)
    wide = replace(line.windows[0], segment="preferred_channel=" + "long " * 10)
    _, heading, *rows = windows_text(replace(line, windows=(*line.windows, wide))).splitlines()
    for text, cells in zip([heading, *rows[:2]], [WINDOW_COLUMNS, *map(window_cells, (*line.windows, wide))], strict=True):
        assert re.split(r"  +", text.strip()) == [cell.strip() for cell in cells]
    assert len({row.index(window_cells(wide)[1]) + len(window_cells(wide)[1]) for row in rows[:2]}) == 1


def answer_of(twin_type: TwinType) -> SimulationAnswer:
    result = SimulationEngine(population(500, twin_type)).simulate(intervention())
    return SimulationAnswer(simulation_id=result.simulation_id, status="completed", result=result)


def test_each_effect_is_written_with_its_unit_and_as_a_change_of_the_outcome():
    text = simulation_text(answer_of(TwinType.PATIENT))
    assert re.search(r"^effect \+12\.0% of the expected days saved, 95% interval", text, re.MULTILINE)
    assert re.search(
        r"^in the unit of the outcome \(days to the next stage\): -7\.\d+ \(-.* to \+.*\); outcomes have a", text, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("confidence", "mark"), [(0.75, "deploy (on an assumption): the effect"), (0.99, "test further: the effect")]
)
def test_a_deployment_of_an_untested_effect_is_marked_and_variants_are_named(confidence: float, mark: str):
    engine = SimulationEngine(population(500, TwinType.PATIENT), confidence_threshold=confidence)
    campaign = intervention("speaker_program_invitation", variant="A")
    result = engine.simulate(campaign, alternatives=[campaign.model_copy(update={"variant": "B"})])
    text = simulation_text(SimulationAnswer(simulation_id=UUID(int=1), status="completed", result=result))
    assert mark in text
    assert "alternative speaker_program_invitation, variant B:" in text


def test_subgroups_without_a_moderator_have_a_word_instead_of_equal_numbers():
    patients = simulation_text(answer_of(TwinType.PATIENT)).splitlines()
    assert "  geographic_region: no moderator: same effect by assumption" in patients
    assert not [line for line in patients if line.startswith("  geographic_region ")]
    hcps = simulation_text(answer_of(TwinType.HCP))
    assert re.search(r"^  specialty dermatology: no moderator: same effect by assumption, \d+ twins$", hcps, re.MULTILINE)
    assert re.search(r"^  specialty oncology: \+\d+\.\d% of last year's prescriptions \(", hcps, re.MULTILINE)


def test_a_champion_and_an_answer_name_the_version_of_the_catalogue_that_they_were_made_under():
    line = replace(line_of(10), catalogue_version=7)
    assert ", catalogue version 7, retraining policy: auto" in line_text(line).splitlines()[1]
    answer = answer_of(TwinType.HCP).model_copy(update={"effects_version": 2, "catalogue_version": 7})
    assert simulation_text(answer).endswith("effects version 2, catalogue version 7")
    assert "catalogue version" not in simulation_text(answer_of(TwinType.HCP))


def test_an_answer_tells_what_was_simulated_with_the_label_of_the_campaign():
    answer = answer_of(TwinType.HCP)
    name = answer.result.intervention.intervention_type
    with in_effect(BUILT_IN.with_entries({"campaigns": {name: {"label": "Brief \N{EM DASH} \u201eNeu\u201c"}}})):
        assert f"campaign {name} (Brief \N{EM DASH} \u201eNeu\u201c), " in simulation_text(answer)

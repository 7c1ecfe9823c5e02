"""Estimates before outcomes arrive, from the rows of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
import pytest

from engine.fidelity.baseline import HoldoutRows, compute_baseline
from schemas.thresholds import DEFAULT_THRESHOLDS
from sql.database import Pool, open_pool
from sql.pending_label_store import estimate_of
from streams.monitoring.performance_estimation import (
    EXPIRE_S,
    estimate_from_newest_rows,
    estimate_performance,
    is_worse,
    latest_cohorts,
    level_weights,
    pending_labels,
)
from streams.reporting.overview import read_overview
from streams.reporting.text import weighted_error, windows_dict, windows_text
from tests.outcomes import LINE, SPACE, make_card, make_line

NOW = datetime.now(UTC)
POPULATION = uuid5(SPACE, "population")


def features_of(n: int, seed: int, *, decile: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"decile": rng.normal(decile, 1, n), "region": rng.choice(["west", "east"], n)})


def card_with_inputs():
    rng = np.random.default_rng(0)
    rows = HoldoutRows(rng.normal(size=4000), np.zeros(4000), np.full(4000, -2.0), np.full(4000, 2.0))
    return make_card().model_copy(update={"baseline": compute_baseline(rows, features_of(4000, 1), ["region"])})


CARD = card_with_inputs()


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, CARD, pane_s=60.0, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    yield opened
    await opened.close()


_TRACK = """
INSERT INTO fidelity_tracking (tracking_id, twin_id, population_id, simulation_id, predicted_value, actual_value, predicted_lower,
                               predicted_upper, metric_type, tracked_at, event_id, revision, digest, fate, line, model_id, segments,
                               observed_at, source, source_offset, element, features)
VALUES ($1, $2, $3, $4, 0, $5, $6, $7, 'prescribing_change', $8, $1, 0, '', 'counted', $9, $10, $11, $8,
        'outcome-events:0:0', $12, 0, $13)"""


async def predict(pool: Pool, frame: pd.DataFrame, half_width: float) -> None:
    """Store predictions with their features, whose outcomes are pending."""
    at = NOW + timedelta(seconds=half_width)
    rows = [
        (uuid5(SPACE, f"{at} {row}"), *[None] * 4, -half_width, half_width, at, LINE, CARD.model_id, ["all"], row, features)
        for row, features in enumerate(frame.to_dict("records"))
    ]
    await pool.executemany(_TRACK, rows)


async def simulate(pool: Pool, name: str, age: timedelta, *, west: int, east: int) -> UUID:
    """Store a completed simulation with so many twins of each region."""
    simulation = uuid5(SPACE, name)
    groups = [{"group": "west", "n": west}, {"group": "east", "n": east}]
    await pool.execute(
        "INSERT INTO twin_populations (population_id, model_id, name, twin_count, seed) VALUES ($1, $2, '', 1, 0)"
        " ON CONFLICT DO NOTHING",
        POPULATION,
        CARD.model_id,
    )
    await pool.execute(
        "INSERT INTO simulation_runs (simulation_id, population_id, status, results, completed_at, line, model_id, body_hash)"
        " VALUES ($1, $2, 'completed', $3, $4, $5, $6, '')",
        simulation,
        POPULATION,
        {"affected_twin_count": west + east, "heterogeneity": {"by_dimension": {"region": groups}}},
        NOW - age,
        LINE,
        CARD.model_id,
    )
    return simulation


async def report(pool: Pool, simulation: UUID, region: str, *values: float | None) -> None:
    """Store outcomes, each of another twin."""
    twins = [uuid5(simulation, f"{region} {number}") for number in range(len(values))]
    await pool.executemany(
        "INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior) VALUES ($1, $2, 'hcp', '{}', 0)",
        [(twin, CARD.model_id) for twin in twins],
    )
    await pool.executemany(
        _TRACK,
        [
            (
                twin,
                twin,
                POPULATION,
                simulation,
                value,
                None,
                None,
                NOW,
                LINE,
                CARD.model_id,
                ["all", f"region={region}"],
                row,
                None,
            )
            for row, (twin, value) in enumerate(zip(twins, values, strict=True))
        ],
    )


async def test_a_shift_of_inputs_is_reported_before_any_outcome(pool):
    assert await estimate_from_newest_rows(pool, CARD) is None
    await predict(pool, features_of(800, 2), 2.0)
    unshifted = await estimate_performance(pool, CARD)
    assert unshifted.moved == ()
    assert unshifted.mae == pytest.approx(CARD.baseline.mae)
    await predict(pool, features_of(2000, 3, decile=1.0), 3.0)
    shifted = await estimate_performance(pool, CARD)
    assert shifted.moved == ("decile",)
    assert shifted.mae == pytest.approx(1.5 * CARD.baseline.mae)
    assert is_worse(shifted, DEFAULT_THRESHOLDS.rule("mae_increase"))
    assert not is_worse(unshifted, DEFAULT_THRESHOLDS.rule("mae_increase"))
    assert await estimate_of(pool, LINE, CARD.model_id) == shifted
    (line,) = (await read_overview(pool, 200)).lines
    assert windows_dict(line)["estimated"]["columns"][0]["name"] == "decile"
    assert "moved inputs: decile" in windows_text(line)


async def test_predictions_are_matured_missing_pending_or_expired(pool):
    young = await simulate(pool, "young", timedelta(days=2), west=60, east=40)
    old = await simulate(pool, "old", timedelta(seconds=EXPIRE_S + 60), west=60, east=40)
    await simulate(pool, "without outcomes", timedelta(days=1), west=60, east=40)
    await report(pool, young, "west", *[0.5] * 30, None)
    await report(pool, old, "east", *[1.0] * 10)
    labels = pending_labels(await latest_cohorts(pool, LINE))
    assert set(labels) == {young, old}
    assert (labels[young].matured, labels[young].missing, labels[young].pending, labels[young].expired) == (30, 1, 69, 0)
    assert (labels[old].matured, labels[old].missing, labels[old].pending, labels[old].expired) == (10, 0, 0, 90)
    since_s = (datetime.now(UTC) - NOW).total_seconds()  # this module may have been read long before
    assert labels[young].age_s == pytest.approx(2 * 86_400 + since_s, rel=0.01)


async def test_levels_that_report_rarely_get_a_larger_weight(pool):
    simulation = await simulate(pool, "one", timedelta(days=2), west=50, east=50)
    await report(pool, simulation, "west", *[0.5] * 40)
    await report(pool, simulation, "east", *[2.0] * 10)
    assert level_weights(await latest_cohorts(pool, LINE), "region") == {"region=west": 0.625, "region=east": 2.5}
    (line,) = (await read_overview(pool, 200)).lines
    assert weighted_error(line, "region") is None

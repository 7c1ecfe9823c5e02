"""What is known before outcomes arrive, from the rows of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
import pytest

from engine.fidelity.baseline import HoldoutRows, compute_baseline
from sql.database import Pool, open_pool
from sql.pending_label_store import estimate_of
from streams.monitoring.performance_estimation import (
    EXPIRE_S,
    estimate,
    estimate_performance,
    followed,
    is_worse,
    pending_labels,
    weights_of,
)
from streams.reporting.overview import read_overview
from streams.reporting.text import weighted_error, windows_dict, windows_text
from tests.outcomes import LINE, SPACE, make_card, make_line

NOW = datetime.now(UTC)
POPULATION = uuid5(SPACE, "population")


def asked(n: int, seed: int, *, decile: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"decile": rng.normal(decile, 1, n), "region": rng.choice(["west", "east"], n)})


def made_card():
    rng = np.random.default_rng(0)
    rows = HoldoutRows(rng.normal(size=4000), np.zeros(4000), np.full(4000, 2.0))
    return make_card().model_copy(update={"baseline": compute_baseline(rows, asked(4000, 1), ["region"])})


CARD = made_card()


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


async def ask(pool: Pool, frame: pd.DataFrame, half_width: float) -> None:
    """Outcomes that tell features, and whose value is not known yet."""
    at = NOW + timedelta(seconds=half_width)
    rows = [
        (uuid5(SPACE, f"{at} {row}"), *[None] * 4, -half_width, half_width, at, LINE, CARD.model_id, ["all"], row, features)
        for row, features in enumerate(frame.to_dict("records"))
    ]
    await pool.executemany(_TRACK, rows)


async def simulate(pool: Pool, name: str, age: timedelta, *, west: int, east: int) -> UUID:
    """A completed simulation of as many twins of each region."""
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
    """An outcome of one twin each."""
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


async def test_a_shift_of_inputs_is_told_before_any_outcome(pool):
    assert await estimate(pool, CARD) is None
    await ask(pool, asked(800, 2), 2.0)
    quiet = await estimate_performance(pool, CARD)
    assert quiet.moved == ()
    assert quiet.mae == pytest.approx(CARD.baseline.mae)
    await ask(pool, asked(2000, 3, decile=1.0), 3.0)
    shifted = await estimate_performance(pool, CARD)
    assert shifted.moved == ("decile",)
    assert shifted.mae == pytest.approx(1.5 * CARD.baseline.mae)
    assert is_worse(shifted)
    assert not is_worse(quiet)
    assert await estimate_of(pool, LINE, CARD.model_id) == shifted
    (line,) = (await read_overview(pool, 200)).lines
    assert windows_dict(line)["estimated"]["columns"][0]["name"] == "decile"
    assert "moved inputs: decile" in windows_text(line)


async def test_predictions_are_matured_missing_pending_or_expired(pool):
    young = await simulate(pool, "young", timedelta(days=2), west=60, east=40)
    old = await simulate(pool, "old", timedelta(seconds=EXPIRE_S + 60), west=60, east=40)
    await simulate(pool, "nobody follows", timedelta(days=1), west=60, east=40)
    await report(pool, young, "west", *[0.5] * 30, None)
    await report(pool, old, "east", *[1.0] * 10)
    found = pending_labels(await followed(pool, LINE))
    assert set(found) == {young, old}
    assert (found[young].matured, found[young].missing, found[young].pending, found[young].expired) == (30, 1, 69, 0)
    assert (found[old].matured, found[old].missing, found[old].pending, found[old].expired) == (10, 0, 0, 90)
    assert found[young].age_s == pytest.approx(2 * 86_400, rel=0.01)


async def test_levels_that_report_rarely_are_weighted_up(pool):
    simulation = await simulate(pool, "one", timedelta(days=2), west=50, east=50)
    await report(pool, simulation, "west", *[0.5] * 40)
    await report(pool, simulation, "east", *[2.0] * 10)
    assert weights_of(await followed(pool, LINE), "region") == {"region=west": 0.625, "region=east": 2.5}
    (line,) = (await read_overview(pool, 200)).lines
    assert weighted_error(line, "region") is None

"""Training rows on a real PostgreSQL: history as of a time, and outcomes with features."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest

from schemas.levels import levels_of, numbers_of
from sql.database import Pool
from sql.training_data_store import CHANGE, add_history, count_since, simulated_rows, training_rows

LINE, OTHER = "hcp:kisqali:prescribing_change", "hcp:fabhalta:prescribing_change"
START = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def history(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "entity_id": [f"hcp-{row}" for row in range(n)],
            "observed_at": pd.to_datetime([day(row) for row in range(n)]),
            "specialty": rng.choice(["oncology", "neurology"], n),
            "decile": rng.integers(1, 11, n),
            "digital_engagement_score": np.where(np.arange(n) == 1, np.nan, rng.random(n)),
            "prescribing_change": rng.normal(size=n),
        }
    )


async def outcome(pool: Pool, event_id: UUID | None = None, **more: Any) -> None:
    fields: dict[str, Any] = {
        "tracking_id": uuid4(),
        "event_id": event_id or uuid4(),
        "revision": 0,
        "digest": b"",
        "fate": "counted",
        "line": LINE,
        "metric_type": "prescribing_change",
        "observed_at": day(1),
        "tracked_at": day(2),
        "actual_value": 0.5,
        "entity_id": "hcp-x",
        "features": {"specialty": "oncology", "decile": 3},
        "source": "t:0:0",
        "source_offset": 0,
        "element": 0,
        **more,
    }
    places = ", ".join(f"${number}" for number in range(1, len(fields) + 1))
    places = places.replace("$5,", "$5::text::outcome_fate,", 1)
    await pool.execute(f"INSERT INTO fidelity_tracking ({', '.join(fields)}) VALUES ({places})", *fields.values())


LATER = day(99)


async def targets(pool: Pool, as_of: datetime = LATER, since: datetime | None = None) -> list[float]:
    return (await training_rows(pool, LINE, as_of, since))["prescribing_change"].tolist()


async def test_a_level_and_a_number_mean_the_same_after_they_were_stored(pool: Pool) -> None:
    levels = [1, 1.0, "01", "1", True, None, 10**17 + 1, 2.5, " South", float("nan"), "1.0", 1e16]
    numbers = [1, 2.5, "3", None, 1e-7, 10**15, -0.0, 0.1, 7.0, " 4 ", 5, 6]
    rows = history(len(levels)).assign(
        region=pd.Series(levels, dtype=object),
        decile=pd.Series(numbers, dtype=object),
        code=pd.Series([10**17 + 1, *[None] * 11], dtype=object),
    )
    await add_history(pool, LINE, rows, "file")
    read = await training_rows(pool, LINE, LATER)
    for name in ("region", "code"):
        texts = [levels_of(frame[name]).texts().to_numpy(dtype=object, na_value=None).tolist() for frame in (read, rows)]
        assert texts[0] == texts[1]
    np.testing.assert_array_equal(numbers_of(read["decile"], "decile"), numbers_of(rows["decile"], "decile"))


async def test_history_is_read_back_unchanged(pool: Pool) -> None:
    rows_in = history(40)
    assert await add_history(pool, LINE, rows_in, "file") == 40
    rows = await training_rows(pool, LINE, day(99))
    pd.testing.assert_frame_equal(rows[rows_in.columns.tolist()], rows_in, check_exact=True, check_dtype=False)
    assert str(rows["observed_at"].dt.tz) == "UTC"
    assert rows["decile"].dtype.kind == "i"


async def test_thirty_thousand_rows_are_stored_in_one_transaction_and_read_back_complete(pool: Pool) -> None:
    rows_in = history(30_000)
    rows_in["observed_at"] = pd.Timestamp(START)
    assert await add_history(pool, LINE, rows_in, "file") == 30_000
    rows = await training_rows(pool, LINE, day(0))
    assert (
        rows.set_index("entity_id")["prescribing_change"]
        .sort_index()
        .equals(rows_in.set_index("entity_id")["prescribing_change"].sort_index())
    )


async def test_storing_is_idempotent_and_a_correction_replaces(pool: Pool) -> None:
    rows_in = history(5)
    assert await add_history(pool, LINE, rows_in, "file") == 5
    assert await add_history(pool, LINE, rows_in, "file") == 0
    rows_in.loc[2, "prescribing_change"] = 9.0
    assert await add_history(pool, LINE, rows_in, "correction") == 1
    assert (await targets(pool))[2] == 9.0


async def test_rows_with_one_entity_and_time_are_all_kept_and_replaced_one_by_one(pool: Pool) -> None:
    rows_in = pd.DataFrame({"entity_id": [7, "7"], "observed_at": pd.Timestamp(START), "prescribing_change": [0.1, 0.2]})
    await add_history(pool, LINE, rows_in, "file")
    assert await targets(pool) == [0.1, 0.2]
    assert await add_history(pool, LINE, rows_in, "file") == 0
    assert await add_history(pool, LINE, rows_in.assign(prescribing_change=[0.1, 0.3]), "corrected file") == 1
    assert await targets(pool) == [0.1, 0.3]


async def test_rows_are_selected_by_time(pool: Pool) -> None:
    rows_in = history(10)
    await add_history(pool, LINE, rows_in, "file")
    await add_history(pool, OTHER, rows_in, "file")
    expected = rows_in["prescribing_change"].tolist()
    assert await targets(pool, day(4)) == expected[:5]
    assert await targets(pool, day(8), day(6)) == expected[6:9]
    empty = await training_rows(pool, LINE, day(-1))
    assert empty.empty
    assert empty.columns.tolist() == ["entity_id", "observed_at", "prescribing_change"]


async def test_an_outcome_with_features_is_a_training_row(pool: Pool) -> None:
    await add_history(pool, LINE, history(2), "file")
    await outcome(pool, observed_at=day(5))
    rows = await training_rows(pool, LINE, day(99))
    last = rows.iloc[-1]
    assert (last["entity_id"], last["specialty"], last["decile"], last["prescribing_change"]) == ("hcp-x", "oncology", 3, 0.5)
    assert np.isnan(last["digital_engagement_score"])


@pytest.mark.parametrize(
    "unfit",
    [
        {"features": None},
        {"actual_value": None},
        {"treated": True},
        {"fate": "duplicate"},
        {"fate": "too_late"},
        {"line": OTHER},
        {"observed_at": day(100)},
        {"observed_at": day(-1)},
    ],
    ids=str,
)
async def test_an_outcome_that_cannot_be_trained_on_is_no_row(pool: Pool, unfit: dict[str, Any]) -> None:
    await outcome(pool, **unfit)
    assert await targets(pool, since=day(0)) == []


async def test_only_the_highest_revision_of_an_event_counts(pool: Pool) -> None:
    corrected, retracted, digested = uuid4(), uuid4(), uuid4()
    await outcome(pool, corrected, revision=1, actual_value=0.2)
    await outcome(pool, corrected, revision=0, actual_value=0.1, fate="superseded")
    await outcome(pool, retracted, revision=0, actual_value=0.3)
    await outcome(pool, retracted, revision=1, actual_value=None)
    await outcome(pool, digested, digest=b"\x02", actual_value=0.6)
    await outcome(pool, digested, digest=b"\x01", actual_value=0.7, fate="superseded")
    assert sorted(await targets(pool)) == [0.2, 0.6]


async def test_a_correction_without_features_removes_its_event(pool: Pool) -> None:
    event_id = uuid4()
    await outcome(pool, event_id)
    await outcome(pool, event_id, revision=1, features=None)
    assert await targets(pool) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda frame: frame.drop(columns="entity_id"), "entity_id"),
        (lambda frame: frame.assign(observed_at=frame["observed_at"].dt.tz_localize(None)), "zone"),
        (lambda frame: frame.assign(prescribing_change=np.nan), "2 of 2 rows"),
        (lambda frame: frame.assign(prescribing_change=np.inf), "2 of 2 rows"),
        (lambda frame: frame.assign(entity_id=None), "no 'entity_id'"),
    ],
)
async def test_rows_that_cannot_be_trained_on_are_refused(pool: Pool, change: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        await add_history(pool, LINE, change(history(2)), "file")
    assert await targets(pool) == []


async def test_an_invalid_line_is_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="twin_type:brand:target"):
        await training_rows(pool, "kisqali", day(0))


async def test_a_later_correction_does_not_change_earlier_rows(pool: Pool) -> None:
    event = uuid4()
    await outcome(pool, event, actual_value=0.5, tracked_at=day(2))
    await outcome(pool, event, actual_value=0.9, tracked_at=day(6), revision=1)
    assert await targets(pool, day(5)) == [0.5]
    assert await targets(pool, day(6)) == [0.9]
    await outcome(pool, observed_at=day(1), tracked_at=day(7))
    assert len(await targets(pool, day(6))) == 1


async def test_an_outcome_of_a_simulated_twin_has_the_expected_change_of_the_simulation(pool: Pool) -> None:
    model, twin, run = uuid4(), uuid4(), uuid4()
    await pool.execute(
        """INSERT INTO digital_twin_models (model_id, twin_type, brand, model_type, training_samples, target_variable, features,
                                            hyperparameters, metrics, line, baseline)
           VALUES ($1, 'hcp', 'kisqali', 'RandomForest', 1000, 'prescribing_change', '{}', '{}', '{}', $2, '{}')""",
        model,
        LINE,
    )
    await pool.execute(
        "INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior) VALUES ($1, $2, 'hcp', $3, 0.25)",
        twin,
        model,
        {"decile": 7},
    )
    await pool.execute("INSERT INTO simulation_runs (simulation_id, body_hash) VALUES ($1, '')", run)
    named = {"twin_id": twin, "simulation_id": run, "entity_id": None, "features": None}
    await outcome(pool, **named, predicted_value=0.375, actual_value=0.5, treated=True)
    await outcome(pool, **named, predicted_value=0.25, actual_value=0.125, treated=False, observed_at=day(2))
    await outcome(pool, **named, predicted_value=0.25, actual_value=None, observed_at=day(2))
    rows = await simulated_rows(pool, LINE, LATER)
    assert rows[["entity_id", "decile", "prescribing_change", CHANGE]].to_numpy().tolist() == [
        [str(twin), 7, 0.5, 0.125],
        [str(twin), 7, 0.125, 0.0],
    ]
    assert await targets(pool) == []
    assert await count_since(pool, LINE, day(1), day(2)) == 1
    assert await count_since(pool, LINE, day(1), day(3)) == 2

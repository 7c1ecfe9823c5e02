from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sql.database import Pool
from sql.training_data_store import add_history
from streams.training import checked_outcomes, feature_source

LINE = "hcp:kisqali:prescribing_change"


def day(number: int) -> pd.Timestamp:
    return pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=number)


async def test_outcomes_get_the_features_that_their_line_had_stored_at_their_time(pool: Pool) -> None:
    history = pd.DataFrame(
        {
            "entity_id": ["a", "a", "b"],
            "observed_at": [day(1), day(5), day(3)],
            "decile": [2, 9, 4],
            "specialty": ["oncology", None, "neurology"],
            "prescribing_change": [0.0, 0.1, 0.2],
        }
    )
    await add_history(pool, LINE, history, "test")
    await add_history(pool, "hcp:fabhalta:prescribing_change", history.assign(decile=1, observed_at=day(2)), "another line")
    outcomes = pd.DataFrame({"entity_id": ["b", "a", "a", "c"], "observed_at": [day(2), day(4), day(5), day(9)], "row": range(4)})
    joined = await feature_source("history", pool, LINE).joined(outcomes)
    assert joined["row"].tolist() == [0, 1, 2, 3]
    assert joined["decile"].fillna(0).tolist() == [0, 2, 9, 0]
    assert joined["specialty"].fillna("").tolist() == ["", "oncology", "", ""]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("feast", "use history, or feast:REPOSITORY:SERVICE"),
        ("feast:features", "use history, or feast:REPOSITORY:SERVICE"),
        ("feast:/nowhere:features", "'/nowhere' is no Feast repository: it has no feature_store.yaml"),
    ],
)
def test_an_unknown_source_is_refused_with_the_allowed_ones(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        feature_source(text, None, LINE)  # type: ignore[arg-type]  # it is not used


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").touch()
    with pytest.raises(ValueError, match=r"pip install 'twinstream\[feast\]'"):
        feature_source(f"feast:{tmp_path}:features", None, LINE)  # type: ignore[arg-type]  # it is not used


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("2026-01-31 12:00", "give times with their zone"),
        ("yesterday noon", "'yesterday noon' is no time"),
        (None, "1 rows have no observed_at"),
    ],
)
def test_a_time_that_cannot_be_read_or_has_no_zone_is_refused(moment: object, message: str) -> None:
    outcomes = pd.DataFrame({"entity_id": ["a"], "observed_at": [moment]})
    with pytest.raises(ValueError, match=message):
        checked_outcomes(outcomes)


def test_outcomes_without_entity_or_time_cannot_be_looked_up() -> None:
    with pytest.raises(ValueError, match="the table has no entity_id, observed_at"):
        checked_outcomes(pd.DataFrame({"prescribing_change": [0.1]}))

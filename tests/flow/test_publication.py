"""A file is published once: whatever was published before, in another order or form, or interrupted, and each row has its fate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sql.database import Pool
from streams.client.twin_client import TwinClient
from streams.operations.verify import verify
from streams.settings import Settings
from tests.outcomes import TOPIC, make_card, make_line

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=60.0, window_s=300.0)
    return settings.model_copy(update={"pane_s": 60.0, "window_s": 300.0, "restatement_s": 7200.0, "grace_s": 2.0, "idle_s": 1.0})


@pytest.fixture
def publish(twinstream: Any, tmp_path: Path) -> Any:
    """Publishes a table, and returns the numbers of its receipt that are not zero."""

    async def run(table: pd.DataFrame, *options: str, name: str = "rows.csv") -> dict[str, Any]:
        path = tmp_path / name
        table.to_parquet(path, index=False) if name.endswith(".parquet") else table.to_csv(path, index=False)
        receipt = await twinstream("outcomes", "publish", str(path), "--json", "--timeout", "60", *options)
        about = {"receipt", "file", "by", "begun_at"}
        return {key: value for key, value in receipt.items() if value and key not in about}

    return run


async def n_counted(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'"))


def unnamed(n: int) -> pd.DataFrame:
    """Rows without id, entity and time, of which many are equal."""
    rng = np.random.default_rng(1)
    return pd.DataFrame({"actual_value": rng.normal(0.1, 0.05, n).round(2), "predicted_value": 0.1})


def named(numbers: Sequence[int], shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "entity_id": [f"hcp-{number}" for number in numbers],
            "observed_at": [(NOW - timedelta(minutes=number)).isoformat() for number in numbers],
            "actual_value": [number / 200 + shift for number in numbers],
            "predicted_value": 0.5,
        }
    )


async def test_rows_without_names_count_once_in_any_order_form_and_company(
    settings: Settings, pool: Pool, service: Any, publish: Any, twinstream: Any, tmp_path: Path, listener: Any
):
    table = unnamed(300)
    (tmp_path / "bad.csv").write_text(table.to_csv(index=False) + "n/k,0.10\n")
    async with service(["outcomes", "fidelity"], settings):
        error = await twinstream("outcomes", "publish", str(tmp_path / "bad.csv"), status=1)
        assert "row 302, actual_value: 'n/k'" in error
        (tmp_path / "percent.csv").write_text((table * 100).to_csv(index=False))
        error = await twinstream("outcomes", "publish", str(tmp_path / "percent.csv"), status=1)
        assert "looks like percent" in error
        assert "--accept" in error
        assert await listener.count(TOPIC) == 0
        assert await publish(table) == {"published": 300, "rows": 300, "counted": 300}
        assert await publish(table) == {"rows": 300, "counted": 300}
        shuffled = table.sample(frac=1, random_state=2)[["predicted_value", "actual_value"]]
        assert await publish(shuffled, name="shuffled.parquet") == {"rows": 300, "counted": 300}
        more = pd.concat([unnamed(300), table.head(5), pd.DataFrame({"actual_value": [7.0], "predicted_value": [0.1]})])
        assert await publish(more) == {"published": 6, "rows": 306, "counted": 6, "duplicate": 300}
        half = await publish(table.tail(150))
        assert half == {"rows": 150, "duplicate": 150}
        assert await n_counted(pool) == 306
        listed = await twinstream("outcomes", "receipts", "--json")
        assert [item["rows"] for item in listed] == [150, 306, 300]
        again = await twinstream("outcomes", "receipt", listed[1]["publication_id"])
        assert "306 rows: 6 counted, 300 duplicate" in again
        assert (await verify(settings, patience_s=60.0)).mismatches == ()


async def test_another_value_for_entity_and_time_corrects_and_an_interrupted_publication_is_completed(
    settings: Settings, pool: Pool, service: Any, publish: Any, monkeypatch: pytest.MonkeyPatch, twinstream: Any, tmp_path: Path
):
    table = named(range(50))
    send = TwinClient.publish_outcomes

    async def interrupted(self: TwinClient, outcomes: Any, **options: Any) -> int:
        await send(self, list(outcomes)[:20], **options)
        raise KeyboardInterrupt

    async with service(["outcomes", "fidelity"], settings):
        with monkeypatch.context() as patch:
            patch.setattr(TwinClient, "publish_outcomes", interrupted)
            table.to_csv(tmp_path / "rows.csv", index=False)
            await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), status=130)
        assert await publish(table) | {"published": 0} == {"published": 0, "rows": 50, "counted": 50}
        twice = pd.concat([table, table.head(3)])
        assert await publish(twice) == {"rows": 53, "counted": 50, "duplicate": 3}
        corrected = pd.concat([named(range(10), shift=1.0), named(range(10, 50))])
        assert await publish(corrected) == {"published": 10, "rows": 50, "corrected": 10, "duplicate": 40}
        assert await publish(corrected) == {"rows": 50, "corrected": 10, "duplicate": 40}
        assert await publish(table) == {"rows": 50, "counted": 50}
        assert await n_counted(pool) == 50
        highest = "SELECT max(revision), count(*) FILTER (WHERE revision = 1) FROM event_heads"
        assert tuple(await pool.fetchrow(highest)) == (1, 10)
        clash = pd.concat([named([60]), named([60], shift=1.0)])
        clash.to_csv(tmp_path / "clash.csv", index=False)
        error = await twinstream("outcomes", "publish", str(tmp_path / "clash.csv"), status=1)
        assert "row 3: it has entity and time of row 2 and other content" in error
        assert (await verify(settings, patience_s=60.0)).mismatches == ()


async def test_rows_that_are_too_late_are_told_before_and_kept_as_history_on_request(
    settings: Settings, pool: Pool, service: Any, publish: Any, twinstream: Any, tmp_path: Path
):
    async with service(["outcomes", "fidelity"], settings):
        await publish(named(range(5)))
        table = pd.concat([named(range(5, 10)), named(range(300, 320))])
        table.to_csv(tmp_path / "late.csv", index=False)
        error = await twinstream("outcomes", "publish", str(tmp_path / "late.csv"), status=1)
        first, last = (NOW - timedelta(minutes=minutes) for minutes in (319, 300))
        assert f"20 rows ({first.isoformat()} to {last.isoformat()})" in error
        assert "--backfill" in error
        assert await n_counted(pool) == 5
        assert await publish(table, "--partly") == {"published": 5, "rows": 25, "counted": 5, "left_out": 20}
        assert await publish(table, "--backfill") == {"published": 20, "rows": 25, "counted": 5, "too_late": 20}
        assert await publish(table, "--backfill") == {"rows": 25, "counted": 5, "too_late": 20}
        assert await n_counted(pool) == 10
        for _ in range(2):  # an outcome without a value is neither counted nor late
            missing = await publish(named(range(20, 25)).assign(actual_value=None))
            assert {name: n for name, n in missing.items() if name != "published"} == {"rows": 5, "missing": 5}
        assert await n_counted(pool) == 10
        history = await twinstream("outcomes", "history", "--json")
        errors = np.abs(np.arange(300, 320) / 200 - 0.5)
        assert sum(window["n"] for window in history) == 20
        assert sum(window["n"] * window["mae"] for window in history) == pytest.approx(errors.sum())
        assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots WHERE window_start < $1", last) == 0
        assert (await verify(settings, patience_s=60.0)).mismatches == ()

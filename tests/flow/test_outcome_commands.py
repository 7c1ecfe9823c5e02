"""Outcomes are published from a table, and their fidelity is shown, by commands."""

from __future__ import annotations

import asyncio

import numpy as np
import pandas as pd
import pytest

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from sql.ledger import Ledger
from streams.registry import MlflowRegistry
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome


@pytest.fixture
async def line(settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


async def test_a_table_of_outcomes_is_published_and_its_fidelity_is_shown(
    service, twinstream, listener, pool, line, tmp_path, monkeypatch
):
    table = pd.DataFrame([outcome(number) for number in range(50)]).drop(columns=["brand", "metric_type", "twin_type"])
    table.drop(columns="segment", errors="ignore").assign(**{"segment.region": "south"}).to_csv(tmp_path / "rows.csv", index=False)
    assert "no outcomes yet" in await twinstream("fidelity")
    async with service(["outcomes", "fidelity"]):
        receipt = await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), "--json")
        assert (receipt["published"], receipt["counted"]) == (50, 50)
        async with asyncio.timeout(30):
            while await pool.fetchval("SELECT coalesce(sum(n), 0) FROM fidelity_panes WHERE segment = 'all'") < 50:  # noqa: ASYNC110  # a role changes it
                await asyncio.sleep(0.2)
    assert await listener.count(TOPIC) == 50
    (windows,) = await twinstream("fidelity", "--json")
    assert (windows["line"], {window["segment"] for window in windows["windows"]}) == (LINE, {"all", "region=south"})
    plain = await twinstream("fidelity", "--weighted", "region")
    monkeypatch.setattr("streams.cli.output.is_terminal", lambda _stream: True)
    monkeypatch.setenv("COLUMNS", "140")
    rich = await twinstream("fidelity", "--weighted", "region")
    for text in ("region=south", "MAE", "no weighted error"):
        assert text in plain
        assert text in rich
    assert "───" in rich
    assert "───" not in plain


@pytest.fixture
async def own_column(settings, pool) -> None:
    """A champion that was trained with a column beyond those of its twin type."""
    rng = np.random.default_rng(0)
    generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1, seed=0)
    generator.train(sample_hcps(1000, rng).assign(trx_growth=rng.normal(size=1000)), "prescribing_change")
    saved = await asyncio.to_thread(MlflowRegistry(settings.mlflow_uri).save, generator.model)
    card = generator.model.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id})
    await Ledger(pool).register_model(card, saved.sha256)
    await Ledger(pool).promote(card.line, card.model_id)


async def test_a_column_of_the_lines_own_models_is_published_as_a_feature(own_column, twinstream, listener, tmp_path):
    rows = [{"entity_id": f"e{number}", "decile": 3, "trx_growth": 0.5, "actual_value": 0.1} for number in range(20)]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    assert (await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), "--timeout", "1", "--json"))["published"] == 20
    assert await listener.count(TOPIC) == 20
    pd.DataFrame(rows).rename(columns={"trx_growth": "trx_grwth"}).to_csv(tmp_path / "rows.csv", index=False)
    assert "trx_grwth" in await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), status=1)


async def test_a_line_that_was_trained_by_the_command_takes_outcomes_in_the_columns_of_its_training_table(
    service, twinstream, pool, tmp_path
):
    rng = np.random.default_rng(0)
    now = pd.Timestamp.now(tz="UTC").floor("s")
    table = sample_hcps(1000, rng).assign(
        npi=np.arange(1000) + 1_003_000_126,
        observed_at=[(now - pd.Timedelta(minutes=1)).isoformat()] * 1000,
        notes="seen in spring",
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    await twinstream("train", str(tmp_path / "table.csv"), "--json")
    table.head(30).to_csv(tmp_path / "rows.csv", index=False)
    async with service(["outcomes"]):
        receipt = await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), "--timeout", "60", "--json")
        table.head(30).assign(region=table["region"].str.upper()).to_csv(tmp_path / "rows.csv", index=False)
        again = await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), "--timeout", "60", "--json")
        late = table.iloc[30:60].assign(observed_at=(now - pd.Timedelta(days=400)).isoformat())
        late.to_csv(tmp_path / "late.csv", index=False)
        history = await twinstream("outcomes", "publish", str(tmp_path / "late.csv"), "--backfill", "--timeout", "60", "--json")
    assert (receipt["published"], receipt["counted"]) == (30, 30)
    assert (again["published"], again["duplicate"] + again["counted"]) == (0, 30)
    assert (history["published"], history["too_late"]) == (30, 30)
    of_file = "SELECT count(*) FROM entity_history WHERE source = 'backfill of late.csv'"
    assert await pool.fetchval(of_file) == 30
    stored = await pool.fetchrow("SELECT entity_id, observed_at, features FROM fidelity_tracking ORDER BY entity_id LIMIT 1")
    assert (stored["entity_id"], stored["observed_at"]) == ("1003000126", now - pd.Timedelta(minutes=1))


async def test_a_table_that_is_no_outcome_is_refused_in_one_line(twinstream, line, tmp_path):
    pd.DataFrame({"shoe_size": [43]}).to_csv(tmp_path / "rows.csv", index=False)
    error = await twinstream("outcomes", "publish", str(tmp_path / "rows.csv"), status=1)
    assert error.startswith("twinstream: ")
    assert "shoe_size" in error
    assert len(error.strip().splitlines()) == 1

"""Trainings of a line: its first model from a table, challengers from later outcomes, on real Postgres and MLflow."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from engine import FidelityTracker, TwinGenerator
from engine.promotion import ENOUGH_NEW_ROWS, GATE_ROWS
from engine.sample_tables import sample_hcps
from schemas import Brand, TwinType
from sql.database import open_pool
from sql.ledger import Ledger
from sql.model_card_rows import UnknownModel
from sql.model_row_store import record_model_rows
from sql.retrain_store import RetrainLimits, enqueue, find_retrain, lease_training
from sql.training_data_store import add_history, training_rows
from streams.registry import MlflowRegistry, ModelLoader, prepare_store, write_parts
from streams.settings import Settings
from streams.training.line_training import TRAINED_UNTIL_LABEL, TrainingCutoff, train_line
from streams.training.retraining import Retraining
from streams.training.training_process import TrainingRefused
from tests.outcomes import LINE, retrain_event

TARGET = "prescribing_change"
SHIFT = -0.3
_ATTEMPTS = count(1)
BEFORE = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    prepare_store(uri)
    return MlflowRegistry(uri)


@pytest.fixture(scope="module")
def first_model():
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=2)
    generator.train(first_table().sort_values("entity_id", ignore_index=True))
    return generator.model


@pytest.fixture
async def first(pool, registry, first_model):
    """The first champion of a line, as ``train_line`` trains it from ``first_table``."""
    rows = first_table().assign(observed_at=pd.Timestamp(BEFORE))
    await add_history(pool, LINE, rows, "a test")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        digest = write_parts(first_model.to_parts(), folder)
        labels = {TRAINED_UNTIL_LABEL: str(TrainingCutoff(BEFORE, max(rows["entity_id"])))}
        artifact = registry.save_folder(first_model.card, folder, digest, labels)
    card = first_model.card.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id})
    await record_model_rows(pool, card.model_id, rows.sort_values("entity_id")["entity_id"].tolist())
    await Ledger(pool).register_model(card, artifact.sha256)
    await Ledger(pool).promote(LINE, card.model_id)
    registry.set_champion_alias(LINE, artifact.mlflow_run_id)
    return card


@pytest.fixture
async def pool(fresh_database):
    opened = await open_pool(dsn=fresh_database)
    yield opened
    await opened.close()


@pytest.fixture
def settings():
    return Settings(cooldown_s=0.0, training_timeout_s=120.0, skew_s=86_400.0)


def table(n, seed, *, start=None, shifted=False, prefix="hcp"):
    """Prescribers, with a start one per second from then on; when shifted, those in primary care prescribe less."""
    frame = sample_hcps(n, np.random.default_rng(seed)).drop(columns="entity_id", errors="ignore")
    frame.insert(0, "entity_id", [f"{prefix}-{seed}-{row}" for row in range(n)])
    if start is not None:
        frame["observed_at"] = pd.to_datetime([start + timedelta(seconds=row) for row in range(n)], utc=True)
    if shifted:
        frame[TARGET] += SHIFT * (frame["specialty"] == "primary_care")
    return frame


def first_table():
    return table(1500, 1)


async def trained(pool, registry, settings, frame):
    return await train_line(pool, registry, frame, TwinType.HCP, Brand.KISQALI, settings=settings, source="a test")


async def leased_job(pool, first):
    """A leased job for a retrain of the champion; the tests share a model store, in which a challenger is found by its id."""
    await enqueue(pool, retrain_event(first.model_id, attempt=next(_ATTEMPTS)))
    return await lease_training(pool, "test", RetrainLimits(cooldown_s=0.0, budget_a_day=10))


def steps(pool, registry, settings):
    return Retraining(pool, registry, ModelLoader(pool, registry, size=2).load, settings)


async def test_the_first_model_of_a_line_is_champion_as_it_is(pool, registry, settings):
    frame = table(1200, 1)
    trained_line = await trained(pool, registry, settings, frame)
    ledger = Ledger(pool)
    assert trained_line.promoted
    assert trained_line.comparison is None
    assert await ledger.champion(LINE) == trained_line.card.model_id
    assert [event.happened for event in await ledger.history(LINE)] == ["trained", "promoted"]
    assert (await ledger.card(trained_line.card.model_id)).mlflow_run_id == trained_line.artifact.mlflow_run_id
    assert registry.champion_run(LINE) == trained_line.artifact.mlflow_run_id
    history = await training_rows(pool, LINE, datetime.now(UTC))
    assert sorted(history["entity_id"]) == sorted(frame["entity_id"])
    assert trained_line.card.trained_at is not None


async def test_a_loaded_model_is_kept_in_memory(pool, registry, first):
    models = ModelLoader(pool, registry, size=1)
    assert models.cached(first.model_id) is None
    model, same = await asyncio.gather(models.load(first.model_id), models.load(first.model_id))
    assert model is same is models.cached(first.model_id)
    assert model.card == await Ledger(pool).card(first.model_id)


async def test_a_model_that_is_not_registered_is_unknown(pool, registry):
    with pytest.raises(UnknownModel):
        await ModelLoader(pool, registry, size=1).load(uuid4())


async def test_the_same_table_again_is_refused(pool, registry, settings, first):
    with pytest.raises(TrainingRefused, match=f"these rows give the champion itself, model {first.model_id}"):
        await trained(pool, registry, settings, first_table())
    assert len(await Ledger(pool).history(LINE)) == 2
    assert len(await training_rows(pool, LINE, datetime.now(UTC))) == 1500


async def test_a_corrected_table_replaces_the_champion_of_the_wrong_one(pool, registry, settings):
    wrong = first_table()
    wrong[TARGET] = (wrong[TARGET] * 1.5 + 0.4).clip(-0.99, 3)
    await trained(pool, registry, settings, wrong)
    corrected = await trained(pool, registry, settings, first_table())
    assert corrected.promoted
    assert corrected.comparison.basis == "cross_fitted"
    assert corrected.comparison.n == 1500
    assert "each predicted by both models fitted without its entity" in corrected.event.reason


async def test_a_table_that_corrects_nothing_is_rejected_with_the_champion_fitted_without_each_row(pool, registry, settings, first):
    noisy = first_table()
    noisy[TARGET] += np.random.default_rng(0).permutation(np.linspace(-0.02, 0.02, len(noisy)))
    second = await trained(pool, registry, settings, noisy)
    assert not second.promoted
    champion = second.comparison.mae.champion
    assert champion == pytest.approx(first.baseline.mae, rel=0.1)  # not the smaller error of rows it has learned
    assert second.event.reason.startswith("on 1,500 rows, each predicted")


async def test_rows_of_unseen_entities_judge_where_there_are_enough(pool, registry, settings, first):
    both = pd.concat([first_table(), table(700, 3, shifted=True)], ignore_index=True)
    second = await trained(pool, registry, settings, both)
    assert second.comparison.basis == "unseen"
    assert second.comparison.n == GATE_ROWS
    assert second.card.training_samples == 1700


async def test_a_champion_whose_rows_are_not_stored_is_judged_on_new_entities_only(pool, owner_pool, registry, settings, first):
    await owner_pool.execute("DELETE FROM model_training_rows")
    with pytest.raises(TrainingRefused, match=r"300 of 1,800 rows are of entities that the line has never seen.* bring 1,500 rows"):
        await trained(pool, registry, settings, pd.concat([first_table(), table(300, 3)], ignore_index=True))


async def test_two_first_trainings_at_once_give_one_promotion_and_one_verdict_of_the_gate(pool, registry, settings):
    first_two = await asyncio.gather(
        trained(pool, registry, settings, table(1200, 1)), trained(pool, registry, settings, table(1200, 2, shifted=True))
    )
    second = next(line for line in first_two if line.comparison is not None)
    assert sum(line.comparison is None for line in first_two) == 1
    assert second.comparison.basis == "cross_fitted"
    history = await Ledger(pool).history(LINE)
    reasons = [event.reason for event in history if event.happened in ("promoted", "rejected")]
    assert sum(reason.startswith("first champion of the line") for reason in reasons) == 1
    assert len(reasons) == 2


async def test_all_rows_of_an_entity_are_kept_and_trained_on(pool, registry, settings):
    alone = table(300, 1)
    months = pd.concat([alone.assign(**{TARGET: alone[TARGET] + change}) for change in (0.0, 0.01, 0.0, 0.02)], ignore_index=True)
    line = await trained(pool, registry, settings, months)
    history = await training_rows(pool, LINE, datetime.now(UTC))
    assert len(history) == line.card.training_samples == 1200
    assert sorted(history[TARGET]) == sorted(months[TARGET])
    assert line.card.metrics.n_entities == 300
    with pytest.raises(TrainingRefused, match="give the champion itself"):
        await trained(pool, registry, settings, months)
    assert len(await training_rows(pool, LINE, datetime.now(UTC))) == 1200


async def test_a_second_table_without_a_change_promotes_no_challenger(pool, registry, settings, first):
    second = await trained(pool, registry, settings, table(1700, 2))
    assert not second.promoted
    assert second.comparison.n == GATE_ROWS
    assert await Ledger(pool).champion(LINE) == first.model_id
    assert registry.champion_run(LINE) == first.mlflow_run_id


async def test_a_challenger_trained_on_a_table_with_a_change_passes_the_gate(pool, registry, settings, first):
    second = await trained(pool, registry, settings, table(1700, 2, shifted=True))
    assert second.promoted
    assert second.comparison.mae.challenger < second.comparison.mae.champion
    assert registry.champion_run(LINE) == second.artifact.mlflow_run_id


async def test_a_table_that_is_too_small_is_refused_and_not_stored(pool, registry, settings):
    with pytest.raises(TrainingRefused, match=r"999 rows .* too few"):
        await trained(pool, registry, settings, table(999, 1))
    assert await Ledger(pool).lines() == []
    assert (await training_rows(pool, LINE, datetime.now(UTC))).empty


async def observed(pool, *parts):
    """Add rows to the history as outcomes are, one part after the other, a row per second."""
    start = datetime.now(UTC)
    for number, (n, shifted) in enumerate(parts):
        await add_history(pool, LINE, table(n, 10 + number, start=start, shifted=shifted, prefix="outcome"), "outcomes")
        start += timedelta(seconds=n)


def fidelity_of(model, rows):
    tracker = FidelityTracker()
    return tracker.track_many([uuid4() for _ in range(len(rows))], model.predict(rows), rows[TARGET], *model.predict_interval(rows))


async def test_a_retrain_on_drift_gives_a_model_whose_fidelity_holds_again(pool, registry, settings, first):
    await observed(pool, (700, False), (1700, True))
    job = await leased_job(pool, first)
    retraining = steps(pool, registry, settings)
    challenger = await retraining.train_challenger(job)
    comparison = await retraining.compare(job, challenger)
    event = await Ledger(pool).promote(LINE, challenger.model.card.model_id, retrain_id=job.retrain_id, fence=job.fence)

    assert comparison.promote
    n_new = challenger.model.card.baseline.n
    assert challenger.model.card.training_samples == 1500 + 2400 - comparison.n
    assert 1000 <= n_new <= 1700 - GATE_ROWS  # only rows after the change, without those of the gate
    assert GATE_ROWS <= comparison.n <= 1700 - n_new + 60
    assert event.champion == challenger.model.card.model_id
    assert (await find_retrain(pool, job.retrain_id)).status == "promoted"
    new_rows = table(3000, 50, shifted=True)
    models, tracker = ModelLoader(pool, registry, size=2), FidelityTracker()
    old, new = await models.load(first.model_id), await models.load(event.champion)
    before, after = fidelity_of(old, new_rows), fidelity_of(new, new_rows)
    assert tracker.check_drift(before, old.card.baseline)
    assert not tracker.check_drift(after, new.card.baseline)
    assert after.mae < before.mae
    assert after.correlation > before.correlation
    assert after.coverage_95pct > 0.92


async def test_rows_from_before_the_change_are_carried_over_when_new_rows_are_few(pool, registry, settings, first):
    await observed(pool, (300, False), (1000, True))
    retraining = steps(pool, registry, settings)
    job = await leased_job(pool, first)
    challenger = await retraining.train_challenger(job)
    comparison = await retraining.compare(job, challenger)
    assert challenger.model.card.training_samples == 1500 + 300 + 1000 - GATE_ROWS
    assert comparison.n == GATE_ROWS
    assert comparison.promote


async def test_rows_from_before_an_earlier_change_are_not_carried_over(pool, registry, settings, first):
    await observed(pool, (1600, True))
    retraining = steps(pool, registry, settings)
    job = await leased_job(pool, first)
    second = await retraining.train_challenger(job)
    card = second.model.card
    await Ledger(pool).promote(LINE, card.model_id, retrain_id=job.retrain_id, fence=job.fence)
    start = datetime.now(UTC) + timedelta(seconds=1700)
    again = table(1600, 41, start=start, shifted=True, prefix="later")
    await add_history(pool, LINE, again.assign(**{TARGET: again[TARGET] + 0.4 * (again["region"] == "south")}), "outcomes")
    third = await retraining.train_challenger(await leased_job(pool, card))
    assert third.model.card.training_samples == 1600 + 1600 - GATE_ROWS
    assert (await retraining.compare(job, second)).n == 1600 - card.baseline.n + 1600


async def test_too_few_new_rows_are_refused_with_the_needed_numbers(pool, registry, settings, first):
    await observed(pool, (300, False), (400, True))
    with pytest.raises(TrainingRefused, match="too few: 200 to train on and 500 later ones"):
        await steps(pool, registry, settings).train_challenger(await leased_job(pool, first))


async def test_a_line_without_outcomes_with_features_is_refused(pool, registry, settings, first):
    with pytest.raises(TrainingRefused, match="0 outcomes with features"):
        await steps(pool, registry, settings).train_challenger(await leased_job(pool, first))


async def test_a_retrain_waits_for_a_thousand_new_rows_during_the_cooldown(pool, registry, settings, first):
    await observed(pool, (800, True))
    patient = steps(pool, registry, settings.model_copy(update={"cooldown_s": 60.0}))
    training = asyncio.create_task(patient.train_challenger(await leased_job(pool, first)))
    await asyncio.sleep(1.0)
    assert not training.done()
    await add_history(pool, LINE, table(900, 30, start=datetime.now(UTC) + timedelta(seconds=800), shifted=True), "outcomes")
    challenger = await training
    assert challenger.model.card.baseline.n >= ENOUGH_NEW_ROWS
    rows = await training_rows(pool, LINE, challenger.until.observed_at, datetime.now(UTC) - timedelta(hours=1))
    assert rows["entity_id"].str.startswith(("outcome", "hcp")).all()


async def test_a_challenger_is_trained_once_however_often_its_retrain_is_started(pool, registry, settings, first):
    await observed(pool, (1600, True))
    job = await leased_job(pool, first)
    once = await steps(pool, registry, settings).train_challenger(job)
    await add_history(pool, LINE, table(500, 40, start=datetime.now(UTC) + timedelta(seconds=1600), shifted=True), "outcomes")
    again = await steps(pool, registry, settings).train_challenger(job)
    assert again.model.card == once.model.card
    assert again.until == once.until
    assert [event.happened for event in await Ledger(pool).history(LINE)] == ["trained", "promoted", "trained"]
    assert (await steps(pool, registry, settings).compare(job, again)).n >= 1000

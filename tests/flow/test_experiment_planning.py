"""Planning an experiment and reading what came of it, by the commands of the terminal on a real champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.experiments import predict_counterfactuals
from engine.sample_tables import sample_hcps
from schemas import ExperimentPlan
from sql.experiment_store import add_experiment
from streams.simulation import calibrated_prior
from tests.flow.test_simulations import SPEAKERS, an_experiment


def a_table(folder: Path, n: int = 1500, **columns) -> Path:
    path = folder / "people.csv"
    sample_hcps(n, np.random.default_rng(5)).assign(**columns).to_csv(path, index=False)
    return path


async def test_an_experiment_is_planned_on_the_champions_twins_with_what_experiments_have_taught(twinstream, promoted, pool):
    words = ("design", "speaker_program_invitation", "--filter", "min_decile=6", "--effect", "0.03", "--control-ratio", "2")
    plan = ExperimentPlan.model_validate(await twinstream(*words, "--json"))
    assert plan.power == pytest.approx(0.8, abs=0.01)
    assert plan.arms[1].n == pytest.approx(2 * plan.arms[0].n, abs=2)
    assert plan.simulation.effects_version == 0
    await add_experiment(pool, an_experiment(intervention=SPEAKERS, effect=0.2), calibrated_prior)
    told = await twinstream(*words, "--available", "400", "--cluster-size", "10", "--icc", "0.02")
    assert "assigning whole clusters costs a factor of 1.18" in told
    assert "no real experiment has calibrated it yet" not in told


async def test_entities_of_a_table_are_told_what_they_would_do_with_and_without(twinstream, promoted, champion, tmp_path):
    file, out = a_table(tmp_path), tmp_path / "told.csv"
    average = await twinstream("counterfactuals", "speaker_program_invitation", str(file), "--out", str(out), "--json")
    table = pd.read_csv(file)
    expected = predict_counterfactuals(champion, table, SPEAKERS)
    assert average == pytest.approx(dict(expected.average))
    rows = pd.read_csv(out)
    assert len(rows) == 1500
    assert rows["difference_lower"].to_numpy() == pytest.approx(expected.entities["difference_lower"].to_numpy())
    words = await twinstream("counterfactuals", "speaker_program_invitation", str(file))
    assert f"difference {average['difference']:+.4g}" in words


async def test_the_treated_of_a_finished_experiment_are_told_what_they_would_have_done(twinstream, promoted, tmp_path):
    treated = np.random.default_rng(1).random(1500) < 0.5
    change = sample_hcps(1500, np.random.default_rng(5))["prescribing_change"] + 0.05 * treated
    file, out = a_table(tmp_path, treated=treated.astype(int), prescribing_change=change), tmp_path / "told.parquet"
    average = await twinstream("untreated", str(file), "--out", str(out), "--json")
    assert average["difference_lower"] < 0.05 < average["difference_upper"]
    rows = pd.read_parquet(out)
    assert len(rows) == treated.sum()
    assert rows["treated"].all()
    assert rows["with"].to_numpy() == pytest.approx(change[treated].to_numpy())


async def test_what_cannot_be_asked_is_refused_in_one_line(twinstream, promoted, tmp_path):
    file = a_table(tmp_path)
    assert "unknown column 'arm': use one of adoption_stage" in await twinstream(
        "untreated", str(file), "--treated", "arm", status=1
    )
    bare = tmp_path / "bare.csv"
    pd.DataFrame({"shoe_size": [43, 44]}).to_csv(bare, index=False)
    said = await twinstream("counterfactuals", "email_campaign", str(bare), status=1)
    assert "no column is a feature of hcp:kisqali:prescribing_change" in said
    said = await twinstream("design", "email_campaign", "--brand", "fabhalta", status=1)
    assert "hcp:fabhalta:prescribing_change has no champion yet" in said


async def test_interventions_are_compared_in_one_request(twinstream, service, promoted):
    words = ("simulate", "email_campaign", "--against", "speaker_program_invitation", "--against", "peer_to_peer_referral")
    async with service(["simulation"]):
        told = await twinstream(*words, "--twins", "1000")
    assert "best: speaker_program_invitation" in told
    assert told.count("difference to the requested intervention") == 2

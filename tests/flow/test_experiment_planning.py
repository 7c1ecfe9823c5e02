"""Experiments are planned and analysed by commands, with a real champion."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.experiments import predict_counterfactuals
from engine.sample_tables import sample_hcps
from schemas import ExperimentPlan
from sql.experiment_store import add_experiment
from streams.reporting import signed_number
from streams.simulation import calibrated_prior
from tests.flow.test_simulations import SPEAKERS, an_experiment


def a_table(folder: Path, n: int = 1500, **columns) -> Path:
    path = folder / "people.csv"
    sample_hcps(n, np.random.default_rng(5)).assign(**columns).to_csv(path, index=False)
    return path


async def test_an_experiment_is_planned_with_the_champion_and_the_calibrated_priors(twinstream, promoted, pool):
    arguments = ("design", "speaker_program_invitation", "--filter", "min_decile=6", "--effect", "0.03", "--control-ratio", "2")
    plan = ExperimentPlan.model_validate(await twinstream(*arguments, "--json"))
    assert plan.power == pytest.approx(0.8, abs=0.01)
    assert plan.arms[1].n == pytest.approx(2 * plan.arms[0].n, abs=2)
    assert plan.simulation.effects_version == 0
    await add_experiment(pool, an_experiment(intervention=SPEAKERS, effect=0.2), calibrated_prior)
    text = await twinstream(*arguments, "--available", "400", "--cluster-size", "10", "--icc", "0.02")
    assert "assigning whole clusters costs a factor of 1.18" in text
    assert "no real experiment has calibrated it yet" not in text


async def test_each_entity_of_a_table_is_predicted_with_and_without_the_intervention(twinstream, promoted, champion, tmp_path):
    file, out = a_table(tmp_path), tmp_path / "predicted.csv"
    average = await twinstream("counterfactuals", "speaker_program_invitation", str(file), "--out", str(out), "--json")
    table = pd.read_csv(file)
    expected = predict_counterfactuals(champion, table, SPEAKERS)
    assert average == pytest.approx(dict(expected.average))
    rows = pd.read_csv(out)
    assert len(rows) == 1500
    assert rows["difference_lower"].to_numpy() == pytest.approx(expected.entities["difference_lower"].to_numpy())
    text = await twinstream("counterfactuals", "speaker_program_invitation", str(file))
    assert re.search(rf"difference +{re.escape(signed_number(average['difference']))}", text)


async def test_treated_entities_of_a_finished_experiment_are_estimated_untreated(twinstream, promoted, tmp_path):
    treated = np.random.default_rng(1).random(1500) < 0.5
    change = sample_hcps(1500, np.random.default_rng(5))["prescribing_change"] + 0.05 * treated
    file, out = a_table(tmp_path, treated=treated.astype(int), prescribing_change=change), tmp_path / "estimated.parquet"
    average = await twinstream("untreated", str(file), "--out", str(out), "--json")
    assert average["difference_lower"] < 0.05 < average["difference_upper"]
    rows = pd.read_parquet(out)
    assert len(rows) == treated.sum()
    assert rows["treated"].all()
    assert rows["with"].to_numpy() == pytest.approx(change[treated].to_numpy())


async def test_a_table_or_line_that_cannot_be_used_is_refused_in_one_line(twinstream, promoted, tmp_path):
    file = a_table(tmp_path)
    assert "unknown column 'arm': use one of adoption_stage" in await twinstream(
        "untreated", str(file), "--treated", "arm", status=1
    )
    bare = tmp_path / "bare.csv"
    pd.DataFrame({"shoe_size": [43, 44]}).to_csv(bare, index=False)
    error = await twinstream("counterfactuals", "email_campaign", str(bare), status=1)
    assert "no column is a feature of hcp:kisqali:prescribing_change" in error
    error = await twinstream("design", "email_campaign", "--brand", "fabhalta", status=1)
    assert "hcp:fabhalta:prescribing_change has no champion yet" in error


async def test_interventions_are_compared_in_one_request(twinstream, service, promoted):
    arguments = ("simulate", "email_campaign", "--against", "speaker_program_invitation", "--against", "peer_to_peer_referral")
    async with service(["simulation"]):
        text = await twinstream(*arguments, "--twins", "1000")
    assert "best: speaker_program_invitation" in text
    assert text.count("difference to the requested intervention") == 2

"""Results of experiments are added, withdrawn and rolled back by commands; simulations follow, and earlier ones can be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.sample_tables import sample_hcps
from schemas import EffectsEvent

LINE = "hcp:kisqali:prescribing_change"
SPRING = [
    *("experiments", "add", "email_campaign", "--id", "spring"),
    *("--effect", "0.02", "--standard-error", "0.01", "--treated", "400", "--control", "400"),
]
SIMULATE = ["simulate", "email_campaign", "--twins", "1000", "--seed", "7", "--json"]


@pytest.fixture
def results(tmp_path: Path) -> str:
    """A file with two results, one of them by subgroup."""
    numbers = {"effect": 0.04, "standard_error": 0.01, "n_treated": 300, "n_control": 300, "intervention": "email_campaign"}
    surgeons = {"dimension": "specialty", "level": "surgery", "effect": 0.05, "standard_error": 0.02, "n_treated": 99}
    summer = {"experiment_id": "summer", **numbers, "subgroups": [surgeons | {"n_control": 90}]}
    file = tmp_path / "results.yaml"
    file.write_text(json.dumps([summer, {"experiment_id": "autumn", **numbers}]), encoding="utf-8")
    return str(file)


def pilot(folder: Path, effect: float) -> str:
    """Rows of an experiment on 800 prescribers."""
    treated = np.random.default_rng(1).permutation(800) < 400
    table = sample_hcps(800, np.random.default_rng(5)).assign(npi=[f"N{row:04}" for row in range(800)])
    table["prescribing_change"] += effect * treated
    file = folder / "pilot.csv"
    table.assign(group=np.where(treated, "treated", "control")).to_csv(file, index=False)
    return str(file)


async def test_results_in_numbers_and_in_a_file_change_effects_and_can_be_taken_back(
    twinstream, service, promoted, results, listener, tmp_path, monkeypatch
):
    (tmp_path / "mappings").mkdir()  # as after an import: mappings are of tables, and a file of results is none
    monkeypatch.chdir(tmp_path)
    async with service(["simulation", "experiments"]):
        first = await twinstream(*SIMULATE)
        (spring,) = await twinstream(*SPRING, "--json")
        assert (spring["state"], spring["effects_version_before"], spring["effects_version"]) == ("counted", 0, 1)
        assert 0.02 < spring["prior"]["mean"] < spring["prior_before"]["mean"]
        assert "stored: effects version 1, unchanged" in await twinstream(*SPRING)
        (refused,) = await twinstream(*("0.03" if word == "0.02" else word for word in SPRING), "--json", status=1)
        assert refused["reason"].startswith("experiment 'spring' is stored with other content")
        receipts = await twinstream("experiments", "add", "--file", results, "--json")
        assert [receipt["effects_version"] for receipt in receipts] == [2, 3]
        third = await twinstream(*SIMULATE)
        again = await twinstream("experiments", "add", "--file", results, "--json")
        assert {receipt["effects_version"] for receipt in again} == {3}

        (without,) = await twinstream("experiments", "withdraw", "spring", "--reason", "mixed up", "--json")
        assert (without["state"], without["effects_version"]) == ("withdrawn", 4)
        (again,) = await twinstream("experiments", "withdraw", "spring", "--undo", "--json")
        assert (again["state"], again["effects_version"]) == ("counted", 5)
        assert again["prior"] == receipts[1]["prior"]

        pinned = await twinstream("effects", "rollback", LINE, "1", "--reason", "the others are doubted", "--json")
        assert (pinned["version"], pinned["effects_version_in_effect"]) == (1, 1)
        published = await listener.events(EffectsEvent, await listener.count("effect-priors"))
        (announced,) = [event for event in published if event.choice and event.prior.intervention_type == "email_campaign"]
        assert (announced.prior.mean, announced.experiments) == (spring["prior"]["mean"], ("spring",))
        assert (announced.choice.version, announced.choice.reason) == (1, "the others are doubted")
        rolled_back = await twinstream(*SIMULATE)
        undone = await twinstream("effects", "rollback", LINE, "--undo", "--json")
        assert undone["effects_version_in_effect"] == 5
        last = await twinstream(*SIMULATE)
    answers = [first, third, rolled_back, last]
    assert [answer["effects_version"] for answer in answers] == [0, 3, 1, 5]
    effects = [answer["result"]["ate"] for answer in answers]
    assert effects[1] == effects[3]
    assert len({*effects}) == 3
    for answer in answers:
        assert (await twinstream("simulate", "--again", answer["simulation_id"], "--json"))["same"]
    history = await twinstream("effects", "history", LINE, "--json")
    assert [event["event"] for event in history] == ["undo", "rollback", *["version"] * 5]
    assert history[1]["reason"] == "the others are doubted"
    assert (history[3]["decision"]["experiment_id"], history[3]["decision"]["reason"]) == ("spring", "mixed up")
    shown = await twinstream("experiments", "show", "spring", "--json")
    assert [(decision["withdrawn"], decision["reason"]) for decision in shown["decisions"]] == [(True, "mixed up"), (False, "")]
    assert "spring withdrawn by " in await twinstream("experiments", "show", "spring")


async def test_rows_are_analysed_published_and_shown_with_their_subgroups(twinstream, service, promoted, tmp_path):
    add = ["experiments", "add", "email_campaign", "--id", "pilot", "--rows", pilot(tmp_path, 0.1)]
    (dry,) = await twinstream(*add, "--dry-run", "--json")
    assert (await twinstream("experiments", "list", "--json")) == []
    async with service(["experiments"]):
        (receipt,) = await twinstream(*add, "--json")
    assert receipt["analysis"] == dry["analysis"]
    analysis = receipt["analysis"]
    assert abs(analysis["effect"] - 0.1) < 2.5 * analysis["standard_error"]
    assert analysis["covariates"] == ["the twin's prediction"]
    assert analysis["variance_saved"] > 0.1
    assert (receipt["state"], receipt["effects_version"]) == ("counted", 1)
    shown = await twinstream("experiments", "show", "pilot", "--json")
    assert shown["result"]["subgroups"] == analysis["subgroups"]
    assert {group["dimension"] for group in analysis["subgroups"]} == {"specialty", "priority_tier", "region", "adoption_stage"}
    text = await twinstream("effects", "show", LINE, "email_campaign")
    assert "pilot" in text.partition("rests on:")[2]
    (effect,) = await twinstream("effects", "list", LINE, "--json")
    assert (effect["experiments"], effect["catalogue_version"], effect["in_effect"]) == (["pilot"], 0, True)
    assert effect["posterior"]["mean"] > effect["prior"]["mean"]


async def test_a_result_without_a_worker_is_published_and_its_silence_explained(twinstream, promoted):
    error = await twinstream(*SPRING, "--timeout", "1", status=1)
    assert "no receipt for spring within 1 s: no worker with the role experiments is running" in error
    assert "there is no experiment 'spring'" in await twinstream("experiments", "withdraw", "spring", status=1)
    assert "no effects version yet" in await twinstream("effects", "rollback", LINE, "1", status=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (SPRING[:-2], "a result in numbers lacks --control"),
        ([*SPRING, "--file", "results.yaml"], "give a result in one way"),
        (["experiments", "add", "email_campaign", "--rows", "pilot.csv"], "name the INTERVENTION, and the experiment with --id"),
        (["effects", "rollback", LINE], "give either a VERSION or --undo"),
    ],
)
async def test_wrong_usage_is_told_with_exit_status_2(twinstream, arguments, message):
    assert message in await twinstream(*arguments, status=2)

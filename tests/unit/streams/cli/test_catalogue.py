"""The commands of ``twinstream catalogue`` that need no service."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from schemas import BUILT_IN, Frequency, in_effect
from streams.catalogue import parse_catalogue
from streams.cli.campaigns import make_campaign
from streams.cli.catalogue import app
from streams.settings import settings


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, arguments)
    settings.cache_clear()


def test_a_new_file_is_valid_and_never_written_over_another(run, tmp_path):
    assert run("init").exit_code == 0
    assert run("check").stdout.startswith("twinstream.yaml is valid: 3 brands, 5 campaigns")
    (tmp_path / "twinstream.yaml").write_text("brands: {acme: {}}")
    assert isinstance(run("init").exception, FileExistsError)
    assert run("check").stdout.startswith("twinstream.yaml is valid: 4 brands")


def test_a_wrong_file_ends_with_1_and_every_problem_on_a_line_of_its_own(run, tmp_path):
    (tmp_path / "own.yaml").write_text("brands: {A: {}}\ncampaigns: {x: {channel: fax}}")
    refused = run("check", "own.yaml")
    assert refused.exit_code == 1
    assert [line.split(": ")[0] for line in refused.stderr.splitlines()] == ["own.yaml:1:10", "own.yaml:2:13", "own.yaml:2:26"]
    problems = json.loads(run("check", "own.yaml", "--json").stdout)["problems"]
    assert [(problem["line"], problem["path"]) for problem in problems] == [
        (1, "brands.A"),
        (2, "campaigns.x.effect"),
        (2, "campaigns.x.channel"),
    ]


def test_it_shows_the_whole_catalogue_or_what_differs(run, tmp_path):
    assert run("show", "--diff").stdout == "no difference\n"
    shown = run("show").stdout
    brands = {brand: {} for brand in BUILT_IN.brands}  # the labels that nobody wrote are absent, as an empty one is refused
    assert yaml.safe_load(shown) == BUILT_IN.model_dump(mode="json") | {"brands": brands}
    assert parse_catalogue(shown) == BUILT_IN
    (tmp_path / "twinstream.yaml").write_text(
        "brands: {acme: {label: Acme}, kisqali: null}\ndrift_rules: {mae_increase: {limit: 0.3}}"
    )
    assert run("show", "--diff").stdout.splitlines() == [
        '+ brands.acme: {"label": "Acme"}',
        "- brands.kisqali",
        "~ drift_rules.mae_increase.limit: 0.2 -> 0.3",
    ]


def test_the_file_can_be_named_by_the_environment(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.yaml").write_text("brands: {acme: {}}")
    monkeypatch.setenv("TWIN_CATALOGUE", "elsewhere.yaml")
    assert run("check").stdout.startswith("elsewhere.yaml is valid: 4 brands")


def test_the_schema_is_printed_as_json(run):
    assert json.loads(run("schema").stdout)["title"] == "Twinstream catalogue"


def test_an_intervention_that_the_catalogue_in_effect_does_not_have_is_refused_with_those_that_it_has():
    with pytest.raises(ValueError, match="unknown intervention 'cold_calls': use one of call_frequency_increase"):
        make_campaign("cold_calls", None, Frequency.MONTHLY, 12, None)
    with in_effect(parse_catalogue("campaigns: {cold_calls: {channel: phone, effect: {mean: 0.1, sd: 0.1}}}")):
        assert make_campaign("cold_calls", None, Frequency.MONTHLY, 12, None).channel == "phone"

"""A catalogue file: read as YAML with the place of everything that is wrong in it."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import jsonschema
import pytest
import yaml

from schemas import BUILT_IN
from streams.catalogue import CatalogueFileError, catalogue_schema, find_catalogue_file, parse_catalogue, read_catalogue
from streams.catalogue.comparison import differences

TEMPLATE = (files("streams.catalogue") / "template.yaml").read_text(encoding="utf-8")
_SECTION = r"^# ((?:brands|campaigns|twin_types|levels|moderators|clinical_terms|drift_rules|thresholds):|  )"
EXAMPLE = re.sub(_SECTION, r"\1", TEMPLATE, flags=re.MULTILINE)


def test_the_template_changes_nothing_until_its_examples_are_used():
    assert parse_catalogue(TEMPLATE) == BUILT_IN
    example = parse_catalogue(EXAMPLE)
    assert {"acmezumab"} == example.brands.keys() - BUILT_IN.brands.keys()
    assert {"sample_drop", "webinar"} == example.campaigns.keys() - BUILT_IN.campaigns.keys()
    sections = {difference.path.split(".")[0] for difference in differences(BUILT_IN, example)}
    assert sections == {*yaml.safe_load(EXAMPLE)} == {*BUILT_IN.model_dump()}


TARGET = """twin_types:
  hcp:
    targets:
      x: {scale: additive, unit: x, direction: 1, effect_unit: x, plausible: {low: 0, high: 500}}"""


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("brands:\n  acme: {}\n  Bad: {}\n", 3, 3, "'Bad' is no name here: small letters, digits and underscores"),
        ("campaigns:\n  x:\n    channel: fax\n    effect: {mean: 0.1, sd: 0.1}", 3, 14, "should be 'email', 'phone', 'in_person'"),
        ("campaigns:\n  x:\n    channel: mail\n", 2, 3, "'effect' is missing"),
        (
            "campaigns:\n  x:\n    channel: mail\n    effect: {mean: 0.1, sd: 0.1}\n    chanel: mail\n",
            5,
            5,
            "unknown field 'chanel': did you mean 'channel'? use one of channel",
        ),
        (
            "campaigns:\n  x:\n    channel: mail\n    past_experiments: [{effect: 0.06, standard_error: 0}]\n",
            4,
            55,
            "0 must be above 0 and at most 1",
        ),
        ("campains: {}", 1, 1, "unknown field 'campains': did you mean 'campaigns'?"),
        ("twin_types:\n  hcp:\n    segments: [region, nope]\n", 3, 24, "'nope' is no feature: use one of adoption_stage"),
        (TARGET, 4, 18, "make it relative, so that effects are shares of its expected value"),
        ("drift_rules:\n  mae_increase: {limit: -1}", 2, 25, "-1 must be above 0"),
        ("brands:\n  acme: {label: ''}", 2, 10, "a label is what screens show: write one, or leave it out for 'Acme'"),
        ("campaigns:\n  email_campaign: {label: ' '}", 2, 20, "a label is what screens show: write one, or leave it out"),
        ("brands:\n  all: {label: All}", 2, 8, "'all' reads as every brand or none on screens"),
        ("brands:\n  'null': {}", 2, 11, "'null' reads as every brand or none on screens"),
        (
            "campaigns:\n  x: {channel: mail, effect: {mean: 0.1, sd: 0.1}, channels: {mail: {mean: -0.4, sd: 0.1}}}",
            2,
            63,
            "mail is the campaign's own channel, for which its effect is stated: channels are factors of other channels",
        ),
        (
            "campaigns:\n  email_campaign: {channels: {email: {mean: 0.2, sd: 0}}}",
            2,
            31,
            "email is the campaign's own channel",
        ),
        ("clinical_terms: biopsy", 1, 17, "'biopsy' is not allowed: a list is needed here, in square brackets: [one, another]"),
        ("levels:\n  land: {de: [Germany]}", 2, 9, "no twin type has the feature 'land': declare it first, with twin_types: {hcp:"),
        ("levels:\n  regoin: {south: [S]}", 2, 11, "no twin type has the feature 'regoin': did you mean 'region'? declare it"),
        ("levels:\n  decile: {one: [a]}", 2, 11, "'decile' is no category but a feature of kind integer"),
        (
            "twin_types: {hcp: {features: {accredited: {kind: flag}}}}\nlevels:\n  accredited: {'yes': [tak]}",
            3,
            15,
            "what the texts of a flag mean is said in the mapping of a table, by its levels",
        ),
        (
            "campaigns:\n  a: {channel: mail, past_experiments: [{effect: 5, standard_error: 0.5}]}",
            2,
            50,
            "campaigns.a.past_experiments.0.effect: 5 is no fraction of the target: from -1 to 1 is allowed",
        ),
        (
            "campaigns:\n  a: {channel: mail, past_experiments: [{effect: 0, standard_error: 0.1}]}",
            2,
            40,
            "campaigns.a.past_experiments: together they give an effect of 0 with a deviation of 0.1",
        ),
        ("brands: [acme]", 1, 9, "entries by name are needed here"),
        ("version: 3", 1, 1, "the version is given by apply"),
        ("- brands", 1, 1, "a file has sections by name: brands, campaigns"),
        ("brands: [1", 1, 11, "no YAML"),
        ("brands:\n  a: {}\n  a: {}", 3, 3, "'a' is here twice, first in line 2: keep one of them"),
        ("brands:\n\ta: {}", 2, 1, "a tab cannot indent a line: use spaces"),
        ("clinical_terms: [biopsy, 'x y', age_of_tumour, Tumour]", 1, 26, "clinical_terms.1: 'x y' is no name here"),
        ("campaigns:\n  x: {channel: mail, effect: {mean: 0,05, sd: 0.1}}", 2, 39, "a decimal has a point, as 0.05"),
        ("brands: {a: {label: no}}", 1, 21, "False is not allowed: it should be a text, which needs quotes"),
        (f"brands: {{a: {{label: '{'x' * 101}'}}}}", 1, 21, "it should have at most 100 characters"),
        ("twin_types:\n  hcp:\n    not_above: [[decile]]", 3, 17, "item 2 is missing"),
        ("brands: &all {a: {}}\ncampaigns: *all", 2, 12, "references (*name) are not supported"),
        ("brands: {<<: {a: {}}}", 1, 10, "a name is needed here"),
        ("brands: {? [a] : {}}", 1, 12, "a name is needed here"),
        ("brands: !!python/object/apply:os.system [ls]", 1, 9, "is not supported"),
        ("brands: {a: {label: !mine x}}", 1, 21, "the tag !mine is not supported"),
        ("a: 1\n---\nb: 1", 2, 1, "no YAML"),
        ("a: 1\nb: '\x01'", 2, 5, "no YAML: the character '\\x01' is not allowed"),
        ("[" * 100 + "]" * 100, 1, 51, "nested more than 50 deep"),
        ("[" * 20_000, 1, 51, "nested more than 50 deep"),
        ("#" * 1_000_001, 1, 1, "larger than 1,000,000 bytes"),
    ],
)
def test_everything_wrong_is_named_with_its_line_and_column(text, line, column, message):
    with pytest.raises(CatalogueFileError) as refused:
        parse_catalogue(text, "own.yaml")
    assert str(refused.value).startswith(f"own.yaml:{line}:{column}: ")
    assert message in str(refused.value)


def test_all_problems_are_named_at_once_in_the_order_of_the_file():
    with pytest.raises(CatalogueFileError) as refused:
        parse_catalogue("campaigns:\n  x: {channel: fax}\nbrands: {A: {}, b: {lable: B}}\n")
    assert [problem.path for problem in refused.value.problems] == [
        "campaigns.x.effect",
        "campaigns.x.channel",
        "brands.A",
        "brands.b.lable",
    ]


def test_names_that_yaml_takes_for_other_types_stay_as_they_are_written():
    levels = "{no: {mean: 0.1, sd: 0.1}, 01: {mean: 0, sd: 0.1}, 0x1f: {mean: 0, sd: 0.1}}"
    text = f"moderators:\n  practice_type: {{levels: {levels}}}\n"
    assert list(parse_catalogue(text).moderators["practice_type"].levels) == ["no", "01", "0x1f"]


def test_a_file_is_named_or_lies_in_the_folder(tmp_path):
    assert find_catalogue_file(None, tmp_path) is None
    assert read_catalogue(None) is BUILT_IN
    own = tmp_path / "twinstream.yaml"
    own.write_text("brands: {acme: {}}", encoding="utf-8")
    assert find_catalogue_file(None, tmp_path) == own
    assert find_catalogue_file(tmp_path / "x.yaml", tmp_path) == tmp_path / "x.yaml"
    assert "acme" in read_catalogue(own).brands
    with pytest.raises(ValueError, match=r"x.yaml cannot be read: No such file or directory \(TWIN_CATALOGUE\)"):
        read_catalogue(tmp_path / "x.yaml")
    own.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_catalogue(own)


def test_the_published_schema_accepts_the_template_and_refuses_what_is_unknown():
    validator = jsonschema.Draft202012Validator(catalogue_schema())
    jsonschema.Draft202012Validator.check_schema(catalogue_schema())
    validator.validate(yaml.safe_load(EXAMPLE))
    validator.validate(json.loads(BUILT_IN.to_text()) if False else {"brands": {"kisqali": None}})
    for wrong in (
        {"brand": {}},
        {"campaigns": {"x": {"chanel": "mail"}}},
        {"campaigns": {"x": {"channel": "fax"}}},
        {"version": 1},
    ):
        assert not validator.is_valid(wrong), wrong


def test_a_file_in_another_encoding_is_refused_at_its_first_byte_that_is_no_text(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_bytes("brands:\n  a: {label: für}\n".encode("latin-1"))
    with pytest.raises(CatalogueFileError, match=r"own.yaml:2:15: the byte 0xfc is no UTF-8 text: save the file as UTF-8"):
        read_catalogue(file)
    file.write_text("brands: {a: {label: für}}", encoding="utf-16")
    with pytest.raises(CatalogueFileError, match=r"own.yaml:1:1: the byte 0xff is no UTF-8 text"):
        read_catalogue(file)


def test_of_a_file_that_is_too_large_the_rest_is_not_read(tmp_path):
    file = tmp_path / "own.yaml"
    with file.open("wb") as opened:
        opened.truncate(2**40)  # without blocks on disk
    with pytest.raises(CatalogueFileError, match="larger than 1,000,000 bytes"):
        read_catalogue(file)


def problems_in(text: str) -> list[tuple[int, int, str, str]]:
    with pytest.raises(CatalogueFileError) as refused:
        parse_catalogue(text)
    return [(*problem.mark, problem.path, problem.text) for problem in refused.value.problems]


def test_wrong_fields_and_what_is_wrong_between_entries_are_told_at_once() -> None:
    text = """
brands:
  acme: {lable: A}
campaigns:
  b: {channel: email, effect: {mean: "5%", sd: "0,02"}}
  c: {channel: email, effect: {mean: 5, sd: 0.02}}
twin_types:
  hcp: {features: {sterne: {kind: stars}, alter: {kind: category, low: 1}}, segments: [sterne, nowhere]}
moderators:
  absent: {slope: {mean: 0.1, sd: 0.1}}
thresholds:
  brands: {acme: {min_effect_threshold: 0.1}}
"""
    told = {(line, path): text for line, _, path, text in problems_in(text)}
    assert "did you mean 'label'" in told[3, "brands.acme.lable"]
    assert told[5, "campaigns.b.effect.mean"] == "'5%' is no number here: write 0.05, a fraction"
    assert told[5, "campaigns.b.effect.sd"] == "'0,02' is no number here: write 0.02, with a point for decimals"
    assert told[6, "campaigns.c.effect.mean"].startswith("5 is no fraction of the target")
    assert told[8, "twin_types.hcp.features.alter.low"].startswith("a category has no bounds")
    assert told[8, "twin_types.hcp.segments.1"].startswith("'nowhere' is no feature")
    assert told[10, "moderators.absent"].startswith("no twin type has the feature")
    assert not any("thresholds" in path or path == "twin_types.hcp.segments.0" for _, path in told)  # they follow from others


def test_an_effect_beside_past_experiments_is_refused_at_its_place_unless_they_pool_to_it() -> None:
    past = "past_experiments: [{effect: 0.06, standard_error: 0.02}]"
    (problem,) = problems_in(f"campaigns:\n  a:\n    channel: email\n    effect: {{mean: 0.05, sd: 0.02}}\n    {past}\n")
    assert problem == (
        4,
        5,
        "campaigns.a.effect",
        "past_experiments are there too, and decide the effect: leave one of the two out",
    )
    alone = parse_catalogue(f"campaigns:\n  a:\n    channel: email\n    {past}\n").campaigns["a"].effect
    both = parse_catalogue(
        f"campaigns:\n  a:\n    channel: email\n    effect: {{mean: {alone.mean}, sd: {alone.sd}}}\n    {past}\n"
    )
    assert both.campaigns["a"].effect == alone
    with pytest.raises(ValueError, match=r"campaigns\.a\.effect: past_experiments are there too"):
        BUILT_IN.with_entries(
            {
                "campaigns": {
                    "a": {
                        "channel": "email",
                        "effect": {"mean": 0.05, "sd": 0.02},
                        "past_experiments": [{"effect": 0.06, "standard_error": 0.02}],
                    }
                }
            }
        )

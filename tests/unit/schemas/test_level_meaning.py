"""Every declared spelling of a level is that level, wherever a level is named."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from engine.effects import calibrate, catalogue_prior, catalogue_priors, is_moderated
from engine.effects.effect_model import build_design
from engine.effects.level_reading import reading_of
from engine.effects.parameter_learning import parameters_of
from engine.effects.subgroups import group_by_level
from schemas import ExperimentResult, SubgroupResult, in_effect
from schemas.catalogue import BUILT_IN
from schemas.columns import encode_levels
from schemas.effect_priors import EFFECTS_METHOD, LearnedParameters
from schemas.level_meaning import declared_level, level_hint, meaning_key, same_segment, spellings_of
from schemas.levels import KnownLevels
from schemas.simulation_models import GroupReach, Reach
from sql.twin_query import twin_query
from streams.operations.result_files import completed_result
from streams.simulation.level_warnings import level_warnings
from tests.populations import intervention

GERMAN = BUILT_IN.with_entries(
    {
        "levels": {
            "specialty": {"oncology": ["Onkologie", "onko"], "cardiology": ["Kardiologie"], "Nephrologie": ["nephrology"]},
            "region": {"süd": ["South", "SUED"]},
        }
    }
)
REVERSED = BUILT_IN.with_entries({"levels": {"specialty": {"Onkologie": ["oncology"]}}})


@pytest.fixture(autouse=True)
def _german():
    with in_effect(GERMAN):
        yield


def group(level: str, effect: float, dimension: str = "specialty") -> SubgroupResult:
    return SubgroupResult(dimension=dimension, level=level, effect=effect, standard_error=0.01, n_treated=100, n_control=100)


def pilot(name: str, *groups: SubgroupResult, **fields) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=name,
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=intervention("email_campaign"),
        effect=0.05,
        standard_error=0.007,
        n_treated=400,
        n_control=400,
        subgroups=groups,
        **fields,
    )


@pytest.mark.parametrize("text", ["oncology", "Onkologie", " ONKOLOGIE ", "Onko"])
def test_a_spelling_in_any_case_and_with_blanks_around_it_is_its_level(text):
    assert declared_level("specialty", text) == "oncology"
    assert meaning_key("specialty", text) == meaning_key("specialty", "oncology")
    assert is_moderated("specialty", text)
    assert build_design(pd.DataFrame({"specialty": [text]})).names == ("specialty=oncology",)


def test_accents_are_part_of_a_spelling_unless_another_one_is_declared():
    assert declared_level("region", "SÜD") == declared_level("region", "sued") == "süd"
    assert declared_level("region", "sud") == "sud"
    assert spellings_of("region", "south") == ("süd", "South", "SUED", "south")


def test_a_moderator_by_the_built_in_level_holds_for_a_level_that_the_catalogue_calls_otherwise():
    with in_effect(REVERSED):
        assert is_moderated("specialty", "Onkologie")
        assert build_design(pd.DataFrame({"specialty": ["onkologie", "oncology"]})).terms.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("level", ["кардиология", "süd", "内科"])
def test_a_moderator_may_list_a_level_in_any_alphabet(level):
    moderators = {"specialty": {"levels": {level: {"mean": 0.2, "sd": 0.1}}}}
    with in_effect(BUILT_IN.with_entries({"moderators": moderators})):
        design = build_design(pd.DataFrame({"specialty": [level.upper(), "другое", "cardiology"]}))
        assert design.terms.tolist() == [[1.0, 0.0, 0.0]]


def test_subgroups_in_several_spellings_teach_one_level_as_those_in_one_spelling_do():
    spelled = [pilot("a", group("Onkologie", 0.09), group("Kardiologie", 0.03)), pilot("b", group("ONKO", 0.08), group("x", 0.04))]
    plain = [pilot("a", group("oncology", 0.09), group("cardiology", 0.03)), pilot("b", group("oncology", 0.08), group("x", 0.04))]
    priors = [calibrate(catalogue_prior("email_campaign"), results) for results in (spelled, plain)]
    assert priors[0] == priors[1]
    assert priors[0].learned is not None
    assert priors[0].learned.levels == (("specialty", "cardiology"), ("specialty", "x"))
    assert "specialty=oncology" in priors[0].learned.names


def test_a_stored_experiment_that_names_one_level_twice_counts_its_parts_by_their_precision():
    twice = pilot("a", group("oncology", 0.08), group("Onkologie", 0.10), group("Kardiologie", 0.03))
    pooled = group("oncology", 0.09).model_copy(update={"standard_error": 0.01 / np.sqrt(2), "n_treated": 200, "n_control": 200})
    once = pilot("a", group("Kardiologie", 0.03)).model_copy(update={"subgroups": (pooled, group("cardiology", 0.03))})
    first, second = (calibrate(catalogue_prior("email_campaign"), [result]) for result in (twice, once))
    assert first.learned is not None
    assert second.learned is not None
    assert first.learned.mean == pytest.approx(second.learned.mean)
    assert any("are one level: they count together" in text for text in level_warnings(twice, None))


def test_effects_that_tell_spellings_apart_are_computed_again_once_these_are_declared():
    with in_effect(BUILT_IN):
        undeclared = calibrate(catalogue_prior("email_campaign"), [pilot("a", group("oncology", 0.09), group("Onkologie", 0.03))])
        assert not undeclared.is_outdated(EFFECTS_METHOD)
    assert undeclared.is_outdated(EFFECTS_METHOD)
    again = calibrate(catalogue_prior("email_campaign"), [pilot("a", group("oncology", 0.09), group("Onkologie", 0.03))])
    assert not again.is_outdated(EFFECTS_METHOD)
    older = undeclared.model_copy(update={"method": EFFECTS_METHOD - 1, "learned": None})
    assert older.is_outdated(EFFECTS_METHOD)


def test_what_was_learned_about_a_level_holds_for_twins_in_another_spelling():
    learned = LearnedParameters(levels=(("specialty", "kardiologie"),), mean=(0.3,), shared=(0.0,), factor=((0.0,),))
    assert is_moderated("specialty", "cardiology", learned)
    design = build_design(pd.DataFrame({"specialty": ["cardiology", "Kardiologie", "urology"]}), learned.levels)
    assert design.terms.tolist() == [[1.0, 1.0, 0.0]]


def test_answers_of_an_earlier_method_read_levels_as_they_were_written():
    frame = pd.DataFrame({"specialty": ["Onkologie", "oncology"]})
    assert build_design(frame, (), reading_of(3)).terms.tolist() == [[0.0, 1.0]]
    assert len(group_by_level(encode_levels(frame["specialty"]), "specialty", reading_of(3)).labels) == 2
    assert len(group_by_level(encode_levels(frame["specialty"]), "specialty", reading_of(4)).labels) == 1
    assert catalogue_priors(3)["email_campaign"].method == 3
    assert catalogue_priors(EFFECTS_METHOD) == {}


def test_a_model_and_stored_twins_from_before_the_declaration_are_found_by_the_declared_level():
    assert KnownLevels(["Onkologie", "x"], "specialty").find("oncology") == "Onkologie"
    assert KnownLevels(["Onkologie", "x"]).find("oncology") is None
    assert same_segment("specialty=kardiologie", "specialty=cardiology")
    assert not same_segment("region=kardiologie", "region=cardiology")
    assert any("Onkologie" in value for value in twin_query({"specialty": "ONKO"}).values if isinstance(value, list))


def test_a_result_in_a_file_has_its_levels_as_declared_and_each_once():
    fields = {
        **pilot("a").model_dump(mode="json", exclude={"subgroups"}),
        "subgroups": [group("Kardiologie", 0.1).model_dump(), group("Onko", 0.1).model_dump()],
    }
    assert [part.level for part in completed_result(fields, {}).subgroups] == ["cardiology", "oncology"]
    fields["subgroups"].append(group("cardiology", 0.2).model_dump())
    with pytest.raises(ValueError, match="subgroup specialty = 'cardiology' is there more than once"):
        completed_result(fields, {})


def test_a_level_that_is_like_another_one_is_taken_and_told():
    slips = pilot("a", group("oncolgy", 0.1), filters={"region": "soth"})
    no_level = "is no level that is declared or that twins have"
    assert [*level_warnings(slips, None)] == [
        f"subgroup specialty = 'oncolgy' {no_level}: did you mean oncology; it counts as a level of its own",
        f"filter region = 'soth' {no_level}: did you mean south",
    ]
    assert [*level_warnings(pilot("b", group("Nephrology", 0.1), group("ONKO", 0.1)), None)] == []
    assert level_hint("onkolgie", ["oncology"], ["Onkologie"]) == "did you mean Onkologie"


@pytest.mark.parametrize(
    ("level", "hint"),
    [("Cracow", "nearest is małopolskie (kraków)"), ("xyz", "use one of mazowieckie, małopolskie")],
)
def test_a_level_beside_those_that_are_declared_is_told_with_the_nearest(level: str, hint: str):
    own = BUILT_IN.with_entries({"levels": {"region": {"mazowieckie": ["MAZ", "Warszawa"], "małopolskie": ["MP", "Kraków"]}}})
    fields = {"dimension": "region", "level": level, "effect": 0.1, "standard_error": 0.1, "n_treated": 50, "n_control": 50}
    with in_effect(own):
        slip = pilot("a").model_copy(update={"subgroups": (SubgroupResult(**fields),)})
        unseen, seen = ([*level_warnings(slip, reach)] for reach in (None, Reach(mean=1.0)))
        declared = slip.model_copy(update={"subgroups": (SubgroupResult(**fields | {"level": "KRAKÓW"}),)})
        assert [*level_warnings(declared, None)] == []
    rest = f"{hint}, or declare it under levels.region; it counts as a level of its own"
    assert unseen == [f"subgroup region = {level!r} is no level that is declared: {rest}"]
    assert seen == [f"subgroup region = {level!r} is no level that is declared or that twins have: {rest}"]
    with in_effect(BUILT_IN):  # where nothing is declared
        assert [*level_warnings(slip, None)] == []


def test_a_level_that_no_twin_has_is_told_with_those_that_twins_have():
    seen = GroupReach(dimension="specialty", level="dermatology", mean=1.0, slopes={})
    reach = Reach(mean=1.0, sd=0.1, slopes={}, groups=(seen,))
    told = [*level_warnings(pilot("a", group("Dermatology", 0.1), group("surgery", 0.1), filters={"region": "west"}), reach)]
    levels = "oncology, cardiology, Nephrologie, dermatology"
    line = "hcp:kisqali:prescribing_change"
    assert told == [f"subgroup specialty = 'surgery' is of no twin of {line}: use one of {levels}; it counts as a level of its own"]


def test_a_parameter_about_a_level_is_found_in_any_spelling():
    result = pilot("a", group("Onkologie", 0.1), group("Kardiologie", 0.1))
    parameters = parameters_of("email_campaign", [result], [], {})
    assert parameters.names[parameters.about("specialty", "oncology")] == "specialty=oncology"
    assert parameters.about("specialty", "CARDIOLOGY") == parameters.about("specialty", "Kardiologie") == len(parameters.names)

"""Checks of a catalogue over several of its entries: each problem has the path of the entry, and what would be allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import astuple
from difflib import get_close_matches
from typing import TYPE_CHECKING

from schemas.clinical_terms import clinical_pattern, term_in
from schemas.interventions import moderator_form
from schemas.level_meaning import LIKENESS
from schemas.levels import level_key
from schemas.thresholds import LIMIT_RANGES
from schemas.twin_types import TwinType, filter_hint

if TYPE_CHECKING:
    from schemas.catalogue import Catalogue, ThresholdEntry, TwinTypeFields
    from schemas.interventions import Intervention, Moderator
    from schemas.twin_types import Feature, Target

__all__ = ["CatalogueProblems", "Path", "Problem", "problems_of"]

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
_NUMBERS = ("integer", "number")
_LARGEST_SHARE = 1.0
_LARGEST_POINTS = 10.0  # effects are fractions: on a target whose values lie beyond it, points are another unit
_RESERVED = frozenset({"entity_id", "observed_at", "baseline_behavior", "baseline_lower", "baseline_upper", "treated", "segment"})

_NO_BRANDS = frozenset({"all", "any", "false", "nan", "none", "null", "true"})
"""Words that mean every brand or none on screens, in metrics and in tables."""


class CatalogueProblems(ValueError):
    """What is wrong in a catalogue, each with the path of its entry."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in self.problems))


def problems_of(catalogue: Catalogue, built_in: Catalogue) -> list[Problem]:
    """Everything that is wrong between the entries of a catalogue, in the order of its sections."""
    return [
        *_brand_problems(catalogue),
        *_campaign_problems(catalogue),
        *_moderator_problems(catalogue),
        *_slip_problems(catalogue, built_in),
        *_twin_type_problems(catalogue),
        *_level_problems(catalogue),
        *_clinical_problems(catalogue, built_in),
        *_rule_problems(catalogue, built_in),
        *_threshold_problems(catalogue),
    ]


def _brand_problems(catalogue: Catalogue) -> Iterator[Problem]:
    if not catalogue.brands:
        yield ("brands",), "at least one brand is needed"
    targets = {name for fields in catalogue.twin_types.values() for name in fields.targets}
    joined: dict[str, str] = {}  # the registry of models joins both by an underscore
    for brand in catalogue.brands:
        if brand in _NO_BRANDS:
            yield (
                ("brands", brand),
                f"{brand!r} reads as every brand or none on screens, in metrics and in tables: choose another name",
            )
        for target in targets:
            namesake = joined.setdefault(f"{brand}_{target}", brand)
            if namesake != brand:
                yield (
                    ("brands", brand),
                    f"with the target {target!r} its models would be named like those of {namesake!r}: rename it",
                )


def _campaign_problems(catalogue: Catalogue) -> Iterator[Problem]:
    if not catalogue.campaigns:
        yield ("campaigns",), "at least one campaign is needed"
    for name, campaign in catalogue.campaigns.items():
        for place, text in _one_campaign(campaign):
            yield ("campaigns", name, *place), text


def _one_campaign(campaign: Intervention) -> Iterator[Problem]:
    if campaign.past_experiments:
        yield from _past_problems(campaign)
    else:
        mean, sd = campaign.effect.mean, campaign.effect.sd
        if not 0 < abs(mean) <= _LARGEST_SHARE:
            yield ("effect", "mean"), f"{mean:g} is no fraction of the target: from -1 to 1 and not 0 is allowed, 5 % is 0.05"
        if not 0 < sd <= _LARGEST_SHARE:
            yield ("effect", "sd"), f"{sd:g} must be above 0 and at most 1: an effect that is known exactly needs no simulation"
    yield from _response_problems(campaign)


def _past_problems(campaign: Intervention) -> Iterator[Problem]:
    """What is wrong in the past experiments, and in the effect that they pool to, which nobody has written."""
    problems: list[Problem] = []
    for index, (effect, error, _) in enumerate(map(astuple, campaign.past_experiments)):
        place = ("past_experiments", index)
        if not abs(effect) <= _LARGEST_SHARE:
            problems.append(((*place, "effect"), f"{effect:g} is no fraction of the target: from -1 to 1 is allowed, 5 % is 0.05"))
        if not 0 < error <= _LARGEST_SHARE:
            problems.append(((*place, "standard_error"), f"{error:g} must be above 0 and at most 1"))
    mean, sd = campaign.effect.mean, campaign.effect.sd
    if not problems and not (0 < abs(mean) <= _LARGEST_SHARE and 0 < sd <= _LARGEST_SHARE):
        text = (
            f"together they give an effect of {mean:g} with a deviation of {sd:g}, and it must not be 0, nor the deviation above 1"
        )
        problems.append((("past_experiments",), f"{text}: state the effect itself"))
    yield from problems


def _response_problems(campaign: Intervention) -> Iterator[Problem]:
    for channel, factor in campaign.channels.items():
        if not (-3 <= factor.mean <= 3 and 0 <= factor.sd <= 3):
            yield ("channels", channel.value), "the log of a factor has a mean from -3 to 3 and a deviation from 0 to 3"
    for dose in ("half_contacts", "half_weeks", "half_intensity"):
        half = getattr(campaign, dose)
        if not (half.median > 0 and 0 <= half.spread <= 3):
            yield (dose,), "the median must be above 0 and the spread from 0 to 3"


def _moderator_problems(catalogue: Catalogue) -> Iterator[Problem]:
    for column, moderator in catalogue.moderators.items():
        kinds = {fields.features[column].kind for fields in catalogue.twin_types.values() if column in fields.features}
        for place, text in _one_moderator(moderator, kinds):
            yield ("moderators", column, *place), text


def _one_moderator(moderator: Moderator, kinds: Collection[str]) -> Iterator[Problem]:
    if not kinds:
        yield (), f"no twin type has the feature {moderator.column!r}: declare it under twin_types first"
    if (moderator.slope is None) == (not moderator.levels):
        yield (), "a moderator has either a slope, for a number, or levels, for a category"
    elif moderator.slope is not None and (others := sorted(set(kinds) - set(_NUMBERS))):
        yield (
            ("slope",),
            f"{moderator.column!r} is a {others[0]}: give the log of the factor at its levels instead",
        )
    elif moderator.levels and set(kinds) & set(_NUMBERS):
        yield ("levels",), f"{moderator.column!r} is a number: give a slope instead"
    yield from _coefficient_problems(moderator)


def _coefficient_problems(moderator: Moderator) -> Iterator[Problem]:
    for level in moderator.levels:
        if level not in (forms := moderator_form(level)):
            yield ("levels", level), f"levels are compared in one form: write {forms[-1] if forms else 'letters'!r}"
    if not moderator.spread > 0:
        yield ("spread",), f"{moderator.spread:g} must be above 0"
    coefficients = {("slope",): moderator.slope} if moderator.slope else {("levels", n): v for n, v in moderator.levels.items()}
    for place, coefficient in coefficients.items():
        if not (abs(coefficient.mean) <= 2 and 0 <= coefficient.sd <= 1):
            yield place, "the log of a factor has a mean from -2 to 2 and a deviation from 0 to 1"


def _slip_problems(catalogue: Catalogue, built_in: Catalogue) -> Iterator[Problem]:
    """Levels of own moderators that are none of those declared for their feature, but like one: as likely a slip of the pen."""
    for column, moderator in catalogue.moderators.items():
        declared = catalogue.levels.get(column, {})
        by_form = {form: level for level, others in declared.items() for text in (level, *others) for form in moderator_form(text)}
        standard = built_in.moderators[column].levels if column in built_in.moderators else {}
        for level in moderator.levels.keys() - by_form.keys() - standard.keys():
            if alike := get_close_matches(level, by_form, n=1, cutoff=LIKENESS):
                text = (
                    f"{level!r} is no declared level of {column}: did you mean {by_form[alike[0]]!r}? If it is another one, declare"
                )
                yield ("moderators", column, "levels", level), f"{text} it under levels.{column}"


def _twin_type_problems(catalogue: Catalogue) -> Iterator[Problem]:
    for twin_type in TwinType:
        fields = catalogue.twin_types.get(twin_type)
        if fields is None:
            yield ("twin_types",), f"{twin_type.value} cannot be taken out: there are hcp, patient and territory twins"
            continue
        problems = [*_feature_problems(fields), *_target_problems(fields), *_name_problems(fields)]
        for place, text in problems:
            yield ("twin_types", twin_type.value, *place), text


def _feature_problems(fields: TwinTypeFields) -> Iterator[Problem]:
    for name, feature in fields.features.items():
        if name in fields.targets:
            yield ("features", name), "a target has this name"
        if name in _RESERVED or name.startswith(("min_", "max_")):
            yield ("features", name), "this name has a meaning of its own in tables or filters: choose another"
        yield from ((("features", name, *place), text) for place, text in _bounds_problems(feature))


def _bounds_problems(feature: Feature) -> Iterator[Problem]:
    if feature.kind not in _NUMBERS:
        bounds = [bound for bound in ("low", "high") if getattr(feature, bound) is not None]
        yield from (
            ((bound,), f"a {feature.kind} has no bounds: only an integer and a number have; null takes one out") for bound in bounds
        )
    elif feature.low is not None and feature.high is not None and not feature.low < feature.high:
        yield ("low",), f"{feature.low:g} is not below {feature.high:g}, the high bound"
    elif feature.kind == "integer":
        for bound in ("low", "high"):
            if (value := getattr(feature, bound)) is not None and value % 1:
                yield (bound,), f"{value:g} is no whole number, which the bounds of an integer are"


def _target_problems(fields: TwinTypeFields) -> Iterator[Problem]:
    for name, target in fields.targets.items():
        yield from ((("targets", name, *place), text) for place, text in _one_target(target, fields.features))


def _one_target(target: Target, features: Mapping[str, Feature]) -> Iterator[Problem]:
    plausible = target.plausible
    if not plausible.low < plausible.high:
        yield ("plausible", "low"), f"{plausible.low:g} is not below {plausible.high:g}, the high end"
    if not plausible.largest_effect > 0:
        yield ("plausible", "largest_effect"), f"{plausible.largest_effect:g} must be above 0"
    if any(factor <= 0 for factor in plausible.other_units.values()):
        yield ("plausible", "other_units"), "each factor to the unit of the target must be above 0"
    if target.scale == "additive" and max(abs(plausible.low), abs(plausible.high)) > _LARGEST_POINTS:
        yield ("scale",), _no_points(target)
    if target.share_of is None:
        return
    if target.scale != "relative":
        yield ("share_of",), "only a relative effect is a share of a feature: leave it out, or make the scale relative"
    if target.share_of not in features or features[target.share_of].kind != "number":
        numbers = ", ".join(name for name, feature in features.items() if feature.kind == "number")
        yield ("share_of",), f"{target.share_of!r} is no feature that is a number: use one of {numbers}"


def _no_points(target: Target) -> str:
    low, high = target.plausible.low, target.plausible.high
    return (
        f"additive effects are points of a target that is a fraction itself, and {low:g} to {high:g} ({target.unit}) are none: an"
        f" effect of 0.05 would be 0.05 {target.unit}, not 5 %; make it relative, so that effects are shares of its expected value,"
        f" or give the target as a fraction, with plausible values from {-_LARGEST_POINTS:g} to {_LARGEST_POINTS:g}"
    )


def _name_problems(fields: TwinTypeFields) -> Iterator[Problem]:
    declared = fields.features
    places: list[tuple[Path, str]] = [(("filters", name), column) for name, column in fields.filters.items()]
    places += [(("dimensions", index), name) for index, name in enumerate(fields.dimensions)]
    places += [(("segments", index), name) for index, name in enumerate(fields.segments)]
    places += [(("not_above", row, column), name) for row, pair in enumerate(fields.not_above) for column, name in enumerate(pair)]
    places += [
        (("relations", row, "columns", at), name) for row, r in enumerate(fields.relations) for at, name in enumerate(r.columns)
    ]
    for name, ratio in fields.ratios.items():
        places += [(("ratios", name), name), (("ratios", name, "numerator"), ratio.numerator)]
        places += [(("ratios", name, "denominator"), ratio.denominator)]
    for place, name in places:
        if name not in declared:
            yield place, f"{name!r} is no feature: {filter_hint(name, fields.filters)}use one of {', '.join(sorted(declared))}"
        elif place[0] in ("not_above", "ratios") and declared[name].kind not in _NUMBERS:
            yield place, f"{name!r} is a {declared[name].kind}: a number is needed here"
        elif place[0] == "segments" and declared[name].kind == "number":
            yield place, f"{name!r} is a number with too many values for a segment: use a category, an integer or a flag"


def _level_problems(catalogue: Catalogue) -> Iterator[Problem]:
    for column, levels in catalogue.levels.items():
        kinds = {fields.features[column].kind for fields in catalogue.twin_types.values() if column in fields.features}
        if not kinds:
            yield ("levels", column), _no_feature(column, catalogue)
        elif kinds != {"category"}:
            kind = min(kinds - {"category"})
            a_flag = "; what the texts of a flag mean is said in the mapping of a table, by its levels" if kind == "flag" else ""
            yield ("levels", column), f"{column!r} is no category but a feature of kind {kind}: only categories have levels{a_flag}"
        levels_by_key: dict[str, str] = {}
        for level, spellings in levels.items():
            for text in (level, *spellings):
                owner = levels_by_key.setdefault(level_key(text), level)
                if owner != level:
                    yield ("levels", column, level), f"{text!r} is a spelling of {owner!r} already: a spelling means one level"


def _no_feature(column: str, catalogue: Catalogue) -> str:
    features = {name: feature for fields in catalogue.twin_types.values() for name, feature in fields.features.items()}
    close = get_close_matches(column, [name for name, feature in features.items() if feature.kind == "category"], n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    entry = f"twin_types: {{hcp: {{features: {{{column}: {{kind: category}}}}}}}}"
    return f"no twin type has the feature {column!r}: {meant}declare it first, with {entry}"


def _clinical_problems(catalogue: Catalogue, built_in: Catalogue) -> Iterator[Problem]:
    if missing := [term for term in built_in.clinical_terms if term not in catalogue.clinical_terms]:
        yield ("clinical_terms",), f"built-in terms cannot be taken out: {', '.join(missing)}"
    pattern = clinical_pattern(catalogue.clinical_terms)
    for place, name in _own_names(catalogue, built_in):
        if term := term_in(name, pattern):
            yield place, f"{name!r} is clinical ({term!r}): twins are made of operational data and predict commercial outcomes only"


def _own_names(catalogue: Catalogue, built_in: Catalogue) -> Iterator[tuple[Path, str]]:
    """Names of features, targets and campaigns that are not built in."""
    for twin_type, fields in catalogue.twin_types.items():
        standard = built_in.twin_types[twin_type]
        yield from ((("twin_types", twin_type.value, "features", n), n) for n in fields.features if n not in standard.features)
        yield from ((("twin_types", twin_type.value, "targets", n), n) for n in fields.targets if n not in standard.targets)
    yield from ((("campaigns", name), name) for name in catalogue.campaigns if name not in built_in.campaigns)


def _rule_problems(catalogue: Catalogue, built_in: Catalogue) -> Iterator[Problem]:
    for name, standard in built_in.drift_rules.items():
        rule = catalogue.drift_rules.get(name)
        if rule is None:
            yield ("drift_rules",), f"the built-in rule {name} cannot be taken out: change its limit or its action"
            continue
        for field in ("metric", "direction", "relative"):
            if getattr(rule, field) != getattr(standard, field):
                allowed = f"only limit and action of a built-in rule can be changed; its {field} is {getattr(standard, field)}"
                yield ("drift_rules", name, field), allowed
    for name, rule in catalogue.drift_rules.items():
        yield from ((("drift_rules", name, "limit"), text) for text in _limit_problems(catalogue, name, rule.limit))


def _limit_problems(catalogue: Catalogue, name: str, limit: float) -> Iterator[str]:
    rule = catalogue.drift_rules[name]
    low, high = LIMIT_RANGES[rule.metric]
    if rule.relative and limit <= 0:
        yield f"{limit:g} must be above 0: a relative limit is a share of the baseline"
    elif not low < limit < high:
        yield f"{limit:g} must lie between {low:g} and {high:g}"


def _threshold_problems(catalogue: Catalogue) -> Iterator[Problem]:
    thresholds = catalogue.thresholds
    for brand in thresholds.brands.keys() - catalogue.brands.keys():
        yield ("thresholds", "brands", brand), f"unknown brand {brand!r}: use one of {', '.join(sorted(catalogue.brands))}"
    for line in thresholds.lines:
        if problem := _line_problem(catalogue, line):
            yield ("thresholds", "lines", line), problem
    entries: dict[Path, ThresholdEntry] = {("all",): thresholds.all}
    entries |= {("brands", name): entry for name, entry in thresholds.brands.items()}
    entries |= {("lines", name): entry for name, entry in thresholds.lines.items()}
    for place, entry in entries.items():
        for name, limit in entry.drift_limits.items():
            path = ("thresholds", *place, "drift_limits", name)
            if name not in catalogue.drift_rules:
                yield path, f"unknown drift rule {name!r}: use one of {', '.join(sorted(catalogue.drift_rules))}"
            else:
                yield from ((path, text) for text in _limit_problems(catalogue, name, limit))


def _line_problem(catalogue: Catalogue, line: str) -> str | None:
    parts = line.split(":")
    if len(parts) != 3 or parts[0] not in list(TwinType):
        return f"{line!r} is not twin_type:brand:target, for example hcp:kisqali:prescribing_change"
    if parts[1] not in catalogue.brands:
        return f"unknown brand {parts[1]!r}: use one of {', '.join(sorted(catalogue.brands))}"
    targets = catalogue.twin_types[TwinType(parts[0])].targets
    return None if parts[2] in targets else f"unknown target {parts[2]!r}: use one of {', '.join(sorted(targets))}"

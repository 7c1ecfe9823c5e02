"""What holds for every built-in entry, checked for a user's catalogue by running the engine over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine import SimulationEngine, TwinGenerator
from engine.effects import build_design, dose_response, draw_dose
from engine.fidelity.drift_rules import evaluate_rules
from engine.sample_tables import sample_table
from engine.twins import TwinModel
from schemas import BUILT_IN, Baseline, Catalogue, DriftRule, FidelityMetrics, Frequency, InterventionConfig, TwinType, in_effect
from schemas.filters import conditions, rows_matching
from schemas.interventions import CONTACTS_PER_MONTH, Channel, Intervention
from schemas.twin_types import Feature, Target, TwinTypeEntry

__all__ = ["Finding", "deep_check"]

_ROWS, _TWINS = 1000, 400
_METRICS = ("mae", "rmse", "correlation", "coverage_95pct")
_BASELINE = Baseline(
    n=5000,
    mae=0.1,
    rmse=0.13,
    correlation=0.85,
    coverage_95pct=0.95,
    center=0,
    scale=0.2,
    clip=0.5,
    clipped_mean=0.2,
    clipped_sd=0.15,
)


class Finding(NamedTuple):
    """A requirement that was checked for an entry; ``problem`` is empty where it holds."""

    entry: str
    requirement: str
    problem: str = ""


def deep_check(catalogue: Catalogue) -> Iterator[Finding]:
    """Check every campaign, moderator and drift rule, and a model of sample rows for every target; takes a minute."""
    with in_effect(catalogue):
        findings = [
            *(finding for campaign in catalogue.campaigns.values() for finding in _campaign(campaign)),
            *_moderators(catalogue),
            *(finding for rule in catalogue.rules for finding in _drift_rule(rule)),
        ]
    yield from findings
    for twin_type, entry in catalogue.entries.items():
        for target in entry.targets:
            with in_effect(catalogue):
                checked = list(_line(catalogue, twin_type, entry, target))
            yield from checked


def _config(campaign: Intervention, **fields: Any) -> InterventionConfig:
    usual = {"channel": campaign.channel.value, "frequency": "monthly", "duration_weeks": 12}
    return InterventionConfig(intervention_type=campaign.name, **{**usual, **fields})


def _campaign(campaign: Intervention) -> Iterator[Finding]:
    place = f"campaigns.{campaign.name}"

    def responses(field: str, values: list[Any]) -> np.ndarray[Any, Any]:
        configs = [_config(campaign, **{field: value}) for value in values]
        return np.array([np.broadcast_to(dose_response(config, draw_dose(config, 200, 0)), 200) for config in configs])

    usual = responses("duration_weeks", [12])
    yield Finding(place, "at its usual dose it has its base effect", "" if (usual == 1.0).all() else "the response is not 1")
    by_contacts = [frequency.value for frequency in sorted(Frequency, key=CONTACTS_PER_MONTH.__getitem__)]
    for field, values in (("frequency", by_contacts), ("duration_weeks", [1, 12, 52, 104]), ("intensity", [0.5, 1.0, 3.0])):
        falls = bool((np.diff(responses(field, values), axis=0) < 0).any())
        yield Finding(place, f"a larger {field} never lowers its effect", "the response falls" if falls else "")


def _moderators(catalogue: Catalogue) -> Iterator[Finding]:
    for moderator in catalogue.moderator_list:
        column, place = moderator.column, f"moderators.{moderator.column}"
        usual = moderator.center if moderator.slope else "an unlisted level"
        factors = [build_design(pd.DataFrame({column: [usual]})).factors(channel)[0] for channel in Channel]
        yield Finding(place, "an average twin has the factor 1", "" if set(factors) == {1.0} else f"it has {factors[0]:g}")
        channel = min(moderator.channels, default=Channel.EMAIL)
        for level, prior in moderator.levels.items():
            factor = float(build_design(pd.DataFrame({column: [level]})).factors(channel)[0])
            holds = math.isclose(factor, math.exp(prior.mean))
            yield Finding(f"{place}.levels.{level}", "its factor is the stated one", "" if holds else f"it is {factor:g}")


def _drift_rule(rule: DriftRule) -> Iterator[Finding]:
    sign, reference = (1 if rule.direction == "above" else -1), getattr(_BASELINE, rule.metric)
    limit = reference * (1 + sign * rule.limit) if rule.relative else rule.limit
    is_standing = not rule.relative and sign * (reference - rule.limit) > 0
    values = {name: getattr(_BASELINE, name) for name in _METRICS}

    def fires(value: float) -> bool:
        metrics = FidelityMetrics(n=1000, n_interval=1000, **(values | {rule.metric: value}))
        return evaluate_rules(metrics, _BASELINE, [rule])[0].fired

    holds = is_standing or (fires(limit + sign * 1e-6) and not fires(limit - sign * 1e-6))
    yield Finding(f"drift_rules.{rule.name}", "it fires just beyond its limit", "" if holds else f"it does not at {limit:g}")
    problem = f"a usual model, with {rule.metric} {reference:g}, breaks it from its first day" if is_standing else ""
    yield Finding(f"drift_rules.{rule.name}", "a usual model does not break it", problem)


def _line(catalogue: Catalogue, twin_type: TwinType, entry: TwinTypeEntry, target: Target) -> Iterator[Finding]:
    place = f"twin_types.{twin_type.value}.targets.{target.name}"
    brand = next(iter(catalogue.brands))
    generator = TwinGenerator(twin_type, brand, target.name, model_type="RandomForest", n_jobs=1)
    try:
        generator.train(sample_rows(twin_type, entry, target), target_col=target.name)
        model = generator.model
        population = model.generate(_TWINS, seed=1)
    except ValueError as error:
        yield Finding(place, "a model of sample rows is trained and generates twins", str(error))
        return
    yield Finding(place, "a model of sample rows is trained and generates twins")
    yield from _filters(model, entry, population.frame)
    engine = SimulationEngine(population)
    for campaign in catalogue.campaigns.values():
        if campaign.twin_types and twin_type not in campaign.twin_types:
            continue
        result = engine.simulate(_config(campaign))
        ratio = result.ate / campaign.effect.mean
        problem = "" if 0.5 < ratio < 2.0 else f"it is {ratio:.2g} of it on sample rows: centre its moderators on your own"
        yield Finding(f"campaigns.{campaign.name}", f"its effect on {twin_type.value} twins is about its base effect", problem)


def _filters(model: TwinModel, entry: TwinTypeEntry, frame: pd.DataFrame) -> Iterator[Finding]:
    for name, column in {**{feature: feature for feature in entry.by_name}, **entry.filters}.items():
        if column in model.card.features:
            value = frame[column].dropna().iloc[0]
            required = conditions(entry.twin_type, {name: value.item() if isinstance(value, np.generic) else value})
            n = int(rows_matching(frame, required).sum())
            place = f"twin_types.{entry.twin_type.value}.filters.{name}"
            yield Finding(place, "it selects twins", "" if n else f"no twin has {value!r}, which one of them has")


def sample_rows(twin_type: TwinType, entry: TwinTypeEntry, target: Target) -> pd.DataFrame:
    """Rows of a twin type with every feature of its entry and a target, shape ``(1000, p)``; the same for the same entry."""
    rng = np.random.default_rng(0)
    rows = sample_table(twin_type, _ROWS, rng)
    standard = BUILT_IN.entries[twin_type]
    columns = {
        name: rows[name] if _is_standard(feature, standard) else _values(feature, rng) for name, feature in entry.by_name.items()
    }
    frame = pd.DataFrame(columns)
    for smaller, larger in entry.not_above:
        frame[smaller] = frame[[smaller, larger]].min(axis=1)
    for ratio in entry.ratios:
        frame[ratio.name] = frame[ratio.numerator] / frame[ratio.denominator].clip(lower=1)
    if target.name in rows:
        return frame.assign(**{target.name: rows[target.name]})
    low, high = max(target.plausible.low, -1e6), min(target.plausible.high, 1e6)
    return frame.assign(**{target.name: rng.uniform(low + 0.4 * (high - low), low + 0.6 * (high - low), _ROWS)})


def _sampled_range(feature: Feature) -> tuple[float, float]:
    """Its bounds; in place of one that is absent 100 from the other, or 0 to 100 without both."""
    if feature.low is None:
        return (0.0, 100.0) if feature.high is None else (float(feature.high) - 100.0, float(feature.high))
    return float(feature.low), float(feature.low) + 100.0 if feature.high is None else float(feature.high)


def _is_standard(feature: Feature, standard: TwinTypeEntry) -> bool:
    return standard.by_name.get(feature.name) == feature


def _values(feature: Feature, rng: np.random.Generator) -> Any:
    if feature.kind == "category":
        return rng.choice(["a", "b", "c"], _ROWS)
    if feature.kind == "flag":
        return rng.choice([True, False], _ROWS)
    low, high = _sampled_range(feature)
    return rng.integers(math.ceil(low), math.floor(high) + 1, _ROWS) if feature.kind == "integer" else rng.uniform(low, high, _ROWS)

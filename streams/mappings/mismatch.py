"""What contradicts a user's answer: cells that cannot be the feature by the rule, or that are levels of another feature."""

from __future__ import annotations

from schemas.twin_types import TWIN_TYPES, TwinType
from streams.mappings.profile import ColumnProfile
from streams.mappings.values import is_spelled_as, usual_share, value_fit
from streams.tables import Column, entity_columns

__all__ = ["mismatch"]

_RULES_OF_ONE_COLUMN = frozenset({"value", "us_region", "decile", "tier", "percent", "years_before", "days_before"})
_USUAL = 0.5


def mismatch(profile: ColumnProfile, column: Column, rule: str, twin_type: TwinType) -> str | None:
    """Why the cells of a column are hardly a feature that is read by a rule; None where nothing speaks against it.

    Args:
        profile: of the column.
        column: the feature, target or id.
        rule: name of the rule.
        twin_type: whose features the cells may be otherwise.
    """
    if rule not in _RULES_OF_ONE_COLUMN:
        return None
    if rule == "percent" and _holds_percent_signs(profile):
        return None
    fit = value_fit(profile, column, rule)
    if fit.score == 0:
        return fit.reason
    if problem := _beyond_scale(profile, column.name, rule, twin_type):
        return problem
    return _of_another(profile, column, twin_type) if column.kind == "category" and rule == "value" else None


def _holds_percent_signs(profile: ColumnProfile) -> bool:
    return profile.share_of(lambda text: text.endswith("%")) >= _USUAL


def _beyond_scale(profile: ColumnProfile, name: str, rule: str, twin_type: TwinType) -> str | None:
    """Why the cells are no outcomes of a target: most are beyond its plausible values, or counts that are read as percent."""
    target = TWIN_TYPES[twin_type].declared.get(name)
    if target is None or not profile.is_number or _holds_percent_signs(profile):
        return None
    low, high = profile.common_low or 0.0, profile.common_high or 0.0
    if rule == "percent" and profile.kind == "integer" and low >= 0 and high > 100 and target.is_change:
        return f"whole numbers from {profile.low:g} to {profile.high:g} are counts, and no changes in percent"
    scale = 0.01 if rule == "percent" else 1.0
    if rule in {"value", "percent"} and not target.plausible.low <= (low + high) / 2 * scale <= target.plausible.high:
        allowed = f"{target.plausible.low:g} to {target.plausible.high:g} ({target.unit})"
        return f"its values are from {profile.low:g} to {profile.high:g}, and plausible ones from {allowed}"
    return None


def _of_another(profile: ColumnProfile, column: Column, twin_type: TwinType) -> str | None:
    """The other feature that the cells are levels of; None where there is none, or they are levels of this one too."""
    if is_spelled_as(profile, column) or (usual_share(profile, column) or 0.0) >= _USUAL:
        return None
    for feature in entity_columns(twin_type).values():
        if feature.name == column.name or feature.kind != "category":
            continue
        if is_spelled_as(profile, feature):
            return f"its values are levels that the catalogue declares for {feature.name}"
        if (share := usual_share(profile, feature)) is not None and share >= _USUAL:
            return f"{share:.0%} of its values are usual levels of {feature.name}"
    return None

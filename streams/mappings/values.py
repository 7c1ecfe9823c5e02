"""How well the cells of a column fit what a declared column holds, when they are read by a rule."""

from __future__ import annotations

import re
from typing import NamedTuple

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.levels import level_key
from streams.mappings.profile import ColumnProfile
from streams.mappings.vocabulary import SPECIALTY_WORDS
from streams.tables import Column
from streams.tables.us_regions import is_state

__all__ = ["Fit", "is_spelled_as", "spelled_share", "usual_share", "value_fit"]

_DATE = re.compile(r"\d{4}-\d\d-\d\d.*|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*|\d{4}/\d\d/\d\d.*|(?:19|20)\d{6}")
_REGIONS = frozenset(
    [
        "northeast",
        "midwest",
        "south",
        "west",
        "southeast",
        "southwest",
        "northwest",
        "north",
        "east",
        "central",
        "mountain",
        "pacific",
        "other",
    ]
)
_CHANNELS = (
    "email",
    "e-mail",
    "phone",
    "rep",
    "face",
    "f2f",
    "person",
    "digital",
    "webinar",
    "mail",
    "remote",
    "sms",
    "field",
    "video",
)
_ADOPTERS = ("innovator", "early", "late", "laggard", "majority", "trial", "adopter", "non", "user", "aware", "advocate")
_LEVEL_WORDS = {"specialty": SPECIALTY_WORDS, "preferred_channel": _CHANNELS, "adoption_stage": _ADOPTERS}
_NPI_PREFIX = "80840"
_MAX_LEVELS = 500
_NEARLY_ALL = 0.95
_SHOWN = 5
_FLAG_TEXTS = frozenset({"true", "false", "1", "0", "yes", "no", "y", "n", "t", "f"})


class Fit(NamedTuple):
    """How well values fit, 0 (they cannot be meant) to 1 (hardly anything else can be meant), and why."""

    score: float
    reason: str


def value_fit(profile: ColumnProfile, column: Column, rule: str) -> Fit:
    """How well the cells of a column fit a declared column when a rule reads them."""
    if profile.kind is None and profile.problem:
        return _time(profile) if column.kind == "time" or rule == "days_before" else Fit(0.2, profile.problem)
    if not profile.n_different:
        return Fit(0.0, "it is empty")
    if rule != "value":
        return _BY_RULE[rule](profile, column)
    return _BY_KIND[column.kind](profile, column)


def is_spelled_as(profile: ColumnProfile, column: Column) -> bool:
    """Whether nearly all cells are levels of a column in spellings of the catalogue, which hardly any other column has."""
    return spelled_share(profile, column) >= _NEARLY_ALL


def spelled_share(profile: ColumnProfile, column: Column) -> float:
    """Share of the rows whose value is a declared level of a category; 0 where all values are one, or yes and no."""
    is_told_apart = profile.n_different >= 2 and not all(str(text).casefold() in _FLAG_TEXTS for text in profile.levels.index)
    return _declared_share(profile, column) if column.kind == "category" and is_told_apart else 0.0


def usual_share(profile: ColumnProfile, column: Column) -> float | None:
    """Share of the rows whose value has a word that is usual in a category; None for one without such words."""
    if usual := _LEVEL_WORDS.get(column.name):
        return profile.share_of(lambda text: any(word in text.casefold() for word in usual))
    if column.name.endswith("region"):
        return profile.share_of(lambda text: bool(set(re.findall(r"[a-z]+", level_key(text))) & _REGIONS))
    return None


def _declared_share(profile: ColumnProfile, column: Column) -> float:
    """Share of the rows whose value is a level that the catalogue declares, in any of its spellings."""
    spellings = catalogue_in_effect().spellings.get(column.name)
    return profile.share_of(lambda text: level_key(text) in spellings) if spellings else 0.0


def _undeclared(profile: ColumnProfile, column: Column) -> str:
    """The most frequent values that are no declared level, with their rows; empty where there is none."""
    spellings = catalogue_in_effect().spellings.get(column.name, {})
    others = [f"{text!r} {n:,}" for text, n in profile.levels.items() if level_key(str(text)) not in spellings]
    more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
    return f", not declared are {', '.join(others[:_SHOWN])}{more}" if others else ""


# -- rules


def _state(profile: ColumnProfile, _column: Column) -> Fit:
    share = profile.share_of(is_state)
    return Fit(1.0 if share >= 0.95 else 0.5 if share >= 0.8 else 0.0, f"{share:.0%} of its values are US states")


def _volume(profile: ColumnProfile, _column: Column) -> Fit:
    if not profile.is_number or (profile.common_low or 0) < 0 or profile.n_different <= 10:
        return Fit(0.0, "it holds no volumes")
    return Fit(0.6, f"volumes from {profile.low:g} to {profile.high:g}")


def _year(profile: ColumnProfile, _column: Column) -> Fit:
    years = profile.kind == "integer" and (profile.common_low or 0) >= 1930 and (profile.common_high or 0) <= 2100
    return Fit(0.9, f"years from {profile.low:g} to {profile.high:g}") if years else Fit(0.0, "it holds no years")


def _time(profile: ColumnProfile, _column: Column | None = None) -> Fit:
    share = profile.share_of(lambda text: bool(_DATE.fullmatch(text)))
    return Fit(0.9 if share >= 0.9 else 0.0, f"{share:.0%} of its values are dates")


def _percent(profile: ColumnProfile, column: Column) -> Fit:
    if not profile.is_number or not column.is_fraction:
        return Fit(0.0, "it holds no percentages")
    low, high = profile.common_low or 0.0, profile.common_high or 0.0
    bounded = column.low is not None
    if max(abs(low), abs(high)) <= 1.5 or high > (100 if bounded else 1000) or (bounded and low < 0):
        return Fit(0.0, f"from {profile.low:g} to {profile.high:g}")
    return Fit(0.6, f"from {profile.low:g} to {profile.high:g}, hundredths of it")


# -- values as they are


def _id(profile: ColumnProfile, _column: Column) -> Fit:
    if profile.kind == "number":
        return Fit(0.0, "fractions are no ids")
    share = profile.share_of(_is_npi)
    if share >= 0.95:
        return Fit(1.0, f"{share:.0%} of its values have the check digit of an NPI")
    distinct = profile.n_different / max(1, round(profile.n * (1 - profile.missing)))
    score = 0.6 if distinct >= 0.9 else 0.4 if distinct >= 0.02 and profile.n_different > 20 else 0.0
    return Fit(score, f"{profile.n_different:,} different values in {profile.n:,} rows")


def _is_npi(text: str) -> bool:
    """Whether a text is a National Provider Identifier: ten digits, the last of which checks them (Luhn, with the prefix 80840)."""
    if not re.fullmatch(r"[12]\d{9}", text):
        return False
    digits = [int(digit) for digit in reversed(_NPI_PREFIX + text)]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _category(profile: ColumnProfile, column: Column) -> Fit:
    if profile.kind == "number":
        return Fit(0.0, "fractions are no levels")
    rows = profile.n * (1 - profile.missing)
    if profile.n_different > _MAX_LEVELS or (rows >= 50 and profile.n_different > 0.5 * rows):
        return Fit(0.0, f"{profile.n_different:,} different values are too many levels")
    if (declared := _declared_share(profile, column)) >= 0.5:
        return Fit(declared, f"{declared:.0%} of its values are levels of the catalogue{_undeclared(profile, column)}")
    share = usual_share(profile, column)
    if share is not None and column.name in _LEVEL_WORDS:
        return Fit(1.0 if share >= 0.5 else 0.5 if share else 0.3, f"{share:.0%} of its values are usual levels")
    if share is not None:
        return Fit(0.9 if share >= 0.5 else 0.4, f"{share:.0%} of its values are usual levels")
    return Fit(0.5 if profile.kind == "category" else 0.3, f"{profile.n_different:,} levels")


def _flag(profile: ColumnProfile, _column: Column) -> Fit:
    share = profile.share_of(lambda text: text.casefold() in _FLAG_TEXTS)
    return Fit(0.8 if share >= 0.95 else 0.0, f"{share:.0%} of its values are yes or no")


def _number(profile: ColumnProfile, column: Column) -> Fit:
    if not profile.is_number:
        return Fit(0.0, "it holds no numbers")
    low, high = profile.common_low or 0.0, profile.common_high or 0.0
    span = f"from {profile.low:g} to {profile.high:g}"
    if (column.low is not None and low < column.low) or (column.high is not None and high > column.high):
        return Fit(0.0, f"{span}, beyond the bounds {_bounds(column)}")
    if column.kind == "integer" and profile.kind == "number":
        return Fit(0.0, f"{span}, with fractions")
    if column.low is None or column.high is None:
        return Fit(0.3 if column.is_fraction and max(abs(low), abs(high)) > 3 else 0.6, span)
    is_full = profile.n_different == column.high - column.low + 1 and (profile.low, profile.high) == (column.low, column.high)
    return Fit(1.0 if is_full and column.kind == "integer" else 0.7, f"{span}, as declared")


def _bounds(column: Column) -> str:
    return f"{'' if column.low is None else f'{column.low:g}'} to {'' if column.high is None else f'{column.high:g}'}".strip()


def _text(_profile: ColumnProfile, _column: Column) -> Fit:
    return Fit(0.3, "text")


def _times(profile: ColumnProfile, column: Column) -> Fit:
    return _time(profile, column)


_BY_RULE = {
    "us_region": _state,
    "decile": _volume,
    "tier": _volume,
    "percent": _percent,
    "years_before": _year,
    "days_before": _time,
}
_BY_KIND = {
    "id": _id,
    "category": _category,
    "flag": _flag,
    "integer": _number,
    "number": _number,
    "time": _times,
    "text": _text,
}

"""Guesses which column of a table is which feature, with a score and the reason; what is not clear is left open.

The score of a column as a feature is 0.6 times how alike the names are and 0.4 times how well the values fit, both 0 to 1; a
declared name scores 1 where its values fit. Names are compared without accents. Values that are levels of a feature fit it by the
share of the rows whose level the catalogue declares; where that is half of them or more, the name counts as at least 0.6 alike. A
guess is used from ``ACCEPTED`` on, unless another column or feature scores within ``CLOSE``. Everything else is shown with its best
candidate and waits for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from anyascii import anyascii

from schemas.twin_types import TWIN_TYPES, TwinType
from streams.mappings.names import likeness, name_parts
from streams.mappings.profile import ColumnProfile
from streams.mappings.values import Fit, spelled_share, value_fit
from streams.mappings.vocabulary import aliases_of
from streams.tables import Column, entity_columns
from streams.tables.declared import ID_COLUMNS
from streams.tables.headers import header_key

__all__ = ["ACCEPTED", "CLOSE", "SHOWN", "Candidate", "ColumnGuess", "guess_columns"]

ACCEPTED = 0.7
"""Score from which a guess is used."""

CLOSE = 0.05
"""Difference of scores below which two guesses are as likely."""

SHOWN = 0.4
"""Score below which a candidate is not shown."""

_ENTITY = "entity_id"
_BY_THE_MONTH = frozenset({"interaction_frequency"})
_NAME_WEIGHT = 0.6
_SPELLED = 0.6
_MOST = 0.5
_MONEY = frozenset({"dollars", "euros", "pounds", "amount", "cost", "paid", "price", "spend", "sales", "revenue", "payment"})
_CHANGES = {"prescribing_change": "decile"}
"""Targets that are the change of a volume from one year to the next, and the feature whose names and rule that volume has."""

_WITH_ARGUMENT = {"years_before": "years_before YEAR", "days_before": "days_before DATE"}


class Candidate(NamedTuple):
    """A column as a feature.

    Attributes:
        column: header of the column.
        feature: declared name.
        rule: as it is written in a mapping; with a word in capitals where the user has to say it.
        score: 0 to 1.
        reason: of the score.
    """

    column: str
    feature: str
    rule: str
    score: float
    reason: str

    @property
    def needs_argument(self) -> bool:
        """Whether the rule lacks what only the user knows."""
        return self.rule in _WITH_ARGUMENT.values()


class ColumnGuess(NamedTuple):
    """What becomes of a column.

    Attributes:
        profile: of the column.
        use: the guess, None where the column is left open.
        best: the best candidate where it is open; None without any.
        reason: why it is left open.
    """

    profile: ColumnProfile
    use: Candidate | None
    best: Candidate | None = None
    reason: str = ""


def guess_columns(
    profiles: Sequence[ColumnProfile], twin_type: TwinType, decided: Mapping[str, Candidate | None] | None = None
) -> list[ColumnGuess]:
    """Guess the feature of each column.

    Args:
        profiles: of the columns.
        twin_type: whose features and targets they may be.
        decided: what the user has settled, by header: a candidate, or None for a column that is not to be used.
    """
    decided = decided or {}
    changes = _changes(profiles, twin_type, decided)
    target_years = {name_parts(item.column).year for item in changes} - {None}
    late = {
        profile.name
        for profile in profiles
        if target_years and (year := name_parts(profile.name).year) is not None and year >= min(filter(None, target_years))
    }
    settled = [candidate for candidate in decided.values() if candidate is not None]
    busy = {*decided, *(late if changes else ())}
    features = {candidate.feature for candidate in settled}
    candidates = [*changes, *(item for profile in profiles if profile.name not in busy for item in _candidates(profile, twin_type))]
    candidates = [item for item in candidates if item.feature not in features]
    accepted, reasons = _accept(candidates)
    uses = {candidate.column: candidate for candidate in (*accepted, *settled)}
    return [_guess(profile, uses, candidates, decided, reasons, late) for profile in profiles]


def _guess(
    profile: ColumnProfile,
    uses: Mapping[str, Candidate],
    candidates: Sequence[Candidate],
    decided: Mapping[str, Candidate | None],
    reasons: Mapping[str, str],
    late: set[str],
) -> ColumnGuess:
    name = profile.name
    if name in uses:
        return ColumnGuess(profile, uses[name])
    if name in decided:
        return ColumnGuess(profile, None, reason="left out by the mapping or your answer")
    if name in late:
        return ColumnGuess(profile, None, reason="of the target's own period: it would know the outcome")
    best = max((item for item in candidates if item.column == name), key=lambda item: item.score, default=None)
    if best is None or best.score < SHOWN:
        return ColumnGuess(profile, None, reason=profile.problem or "like no feature")
    taken_by = next((use for use in uses.values() if use.feature == best.feature), None)
    below = f"score below {ACCEPTED:g}"
    reason = reasons.get(name) or (f"{best.feature} is {taken_by.column!r}" if taken_by else below)
    return ColumnGuess(profile, None, best, reason)


def _accept(candidates: Sequence[Candidate]) -> tuple[list[Candidate], dict[str, str]]:
    """The guesses that are used, and why others with a high score are not, by column."""
    accepted: list[Candidate] = []
    reasons: dict[str, str] = {}
    open_features: set[str] = set()
    for item in sorted(candidates, key=lambda item: -item.score):
        if item.score < ACCEPTED:
            break
        used = {use.column for use in accepted}
        if item.column in used or item.column in reasons or item.feature in open_features | {use.feature for use in accepted}:
            continue
        rivals = [
            rival
            for rival in candidates
            if (rival.feature == item.feature) != (rival.column == item.column)
            and rival.column not in used
            and abs(item.score - rival.score) < CLOSE
        ]
        if rivals:
            other_name = rivals[0].column if rivals[0].column != item.column else rivals[0].feature
            reasons[item.column] = f"{other_name!r} is as likely"
            if rivals[0].column != item.column:
                reasons[rivals[0].column] = f"{item.column!r} is as likely"
                open_features.add(item.feature)
        elif item.needs_argument:
            reasons[item.column] = f"the rule needs an answer: {item.rule}"
        else:
            accepted.append(item)
    return accepted, reasons


def _candidates(profile: ColumnProfile, twin_type: TwinType) -> list[Candidate]:
    """The column as each declared column, by its best rule, where the score is not 0."""
    candidates = []
    for name, column in entity_columns(twin_type).items():
        if name in ID_COLUMNS and name != _ENTITY:
            continue
        scored = [item for item in _by_rules(profile, column, twin_type) if item.score > 0]
        if scored:
            candidates.append(max(scored, key=lambda item: item.score))
    return candidates


def _by_rules(profile: ColumnProfile, column: Column, twin_type: TwinType) -> list[Candidate]:
    """The column as one feature, by each rule that the feature may be read by."""
    items = []
    for alias in aliases_of(column.name, twin_type):
        likely, phrase = likeness(profile.name, alias.names)
        rules = [alias.by, "percent"] if alias.by == "value" and column.is_fraction else [alias.by]
        items += [_scored(profile, column, rule, likely, phrase) for rule in rules]
    return items


def _scored(profile: ColumnProfile, column: Column, rule: str, likely: float, phrase: str) -> Candidate:
    fit = value_fit(profile, column, rule)
    terms = set(name_parts(profile.name).terms)
    if terms & _MONEY:
        fit = Fit(0.0, "it holds amounts of money")
    alike = max(likely, _SPELLED) if rule == "value" and spelled_share(profile, column) >= _MOST else likely
    names = ID_COLUMNS if column.name == _ENTITY else (column.name,)
    is_declared = rule == "value" and header_key(anyascii(profile.name)) in map(header_key, names)
    score = 0.0 if fit.score == 0 else 1.0 if is_declared else _NAME_WEIGHT * alike + (1 - _NAME_WEIGHT) * fit.score
    if rule == "value" and column.is_fraction and "percent" in terms and not is_declared:
        score, fit = min(score, ACCEPTED - 0.05), Fit(fit.score, f"percent by its name, fractions by its values ({fit.reason})")
    if column.name in _BY_THE_MONTH and any(term.isdigit() for term in terms) and not is_declared:
        score, fit = (
            min(score, ACCEPTED - 0.05),
            Fit(fit.score, f"perhaps of several months, {column.name} is by the month ({fit.reason})"),
        )
    named = "its name is declared" if is_declared else f"name {likely:.0%} like {phrase!r}" if likely else "no name like it"
    return Candidate(profile.name, column.name, _WITH_ARGUMENT.get(rule, rule), round(score, 3), f"{named}; {fit.reason}")


def _changes(profiles: Sequence[ColumnProfile], twin_type: TwinType, decided: Mapping[str, Candidate | None]) -> list[Candidate]:
    """The target as the change between the last two years of a volume, where no column is named like the target itself."""
    target = TWIN_TYPES[twin_type].default_target.name
    settled = {candidate.feature for candidate in decided.values() if candidate}
    if target not in _CHANGES or target in settled or any(header_key(profile.name) == header_key(target) for profile in profiles):
        return []
    aliases = [alias for alias in aliases_of(_CHANGES[target], twin_type) if alias.by == "decile"]
    phrases = [name for alias in aliases for name in alias.names]
    by_words: dict[tuple[str, ...], dict[int, ColumnProfile]] = {}
    for profile in profiles:
        terms, year = name_parts(profile.name)
        if year is not None and profile.name not in decided and not set(terms) & _MONEY:
            by_words.setdefault(terms, {})[year] = profile
    changes = []
    for years in by_words.values():
        pairs = [(first, second) for first, second in pairwise(sorted(years)) if second == first + 1]
        if not pairs:
            continue
        before, after = (years[year] for year in pairs[-1])
        likely, phrase = likeness(after.name, phrases)
        fits = [value_fit(item, Column(target, "number"), "decile") for item in (before, after)]
        if likely < 0.6 or any(fit.score == 0 for fit in fits):
            continue
        score = round(_NAME_WEIGHT * likely + (1 - _NAME_WEIGHT) * 0.7, 3)
        reason = f"name {likely:.0%} like {phrase!r} of two years; {fits[1].reason}"
        changes.append(Candidate(after.name, target, f"change from {before.name}", score, reason))
    best = max((item.score for item in changes), default=0.0)
    return [item for item in changes if item.score >= max(best - CLOSE, ACCEPTED)]

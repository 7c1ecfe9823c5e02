"""The user's answers to what a guess leaves open, and the mapping that guesses and answers make."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import get_args

from schemas.base import require_one_of
from schemas.twin_types import TwinType
from streams.mappings.guess import Candidate, ColumnGuess, _by_rules
from streams.mappings.mismatch import mismatch
from streams.mappings.names import name_parts
from streams.mappings.profile import ColumnProfile
from streams.tables import Column, RawTable, TableOptions, convert_table, entity_columns
from streams.tables.headers import header_key
from streams.tables.mapped import quantile_cuts
from streams.tables.mapping import ColumnUse, Rule, RuleName, TableMapping

__all__ = ["OWN", "build_mapping", "own_name", "parse_choice"]

OWN = "own"
"""Stands in an answer for a feature of the user's own, named by the column, or as ``own:NAME`` says."""

AS_ASKED = "as you asked"
"""Reason of an answer of the user's own."""

_GROUPS = {"decile": 10, "tier": 5}
_LONGEST = 100
_NAME = rf"[A-Za-z][A-Za-z0-9_]{{0,{_LONGEST - 1}}}"
"""Names of columns, as the catalogue has them."""
_SLIP = 0.8


def parse_choice(text: str, profiles: Sequence[ColumnProfile], twin_type: TwinType) -> tuple[str, Candidate | None]:
    """Read an answer such as ``NPI=entity_id``, ``ST=region:us_region``, ``Rx $=own``, ``Rx $=own:sales``, or ``Notes=`` for none.

    Returns:
        The header of the column, and its use; None where it is left out.

    Raises:
        ValueError: for another form, an unknown column, feature or rule, or cells that the feature cannot be read from.
    """
    column, sign, answer = _split(text, profiles)
    if not sign:
        raise ValueError(f"{text!r} is not COLUMN=FEATURE or COLUMN=FEATURE:RULE, for example NPI=entity_id or ST=region:us_region")
    profile = _profile(column, profiles)
    feature, _, rule = (part.strip() for part in answer.partition(":"))
    if not feature:
        return profile.name, None
    declared = entity_columns(twin_type)
    if feature == OWN:
        return profile.name, _own_feature(profile.name, rule, declared)
    require_one_of("feature", feature, declared)
    if rule:
        parsed = Rule.parse(rule)
        doubt = mismatch(profile, declared[feature], parsed.name, twin_type)
        return profile.name, Candidate(
            profile.name, feature, str(parsed), 1.0, f"{AS_ASKED}, though {doubt}" if doubt else AS_ASKED
        )
    return profile.name, _best_rule(profile, declared[feature], twin_type)


def _split(text: str, profiles: Sequence[ColumnProfile]) -> tuple[str, str, str]:
    """The header, the sign and the answer; a header may hold the sign itself."""
    whole = [profile.name for profile in profiles if text.startswith(f"{profile.name}=")]
    column = max(whole, key=len, default="")
    return (column, "=", text[len(column) + 1 :]) if column else text.partition("=")


def _profile(column: str, profiles: Sequence[ColumnProfile]) -> ColumnProfile:
    by_name = {profile.name: profile for profile in profiles}
    same = [profile for profile in profiles if header_key(profile.name) == header_key(column)]
    if column not in by_name and len(same) == 1:
        return same[0]
    require_one_of("column", column, by_name)
    return by_name[column]


def _best_rule(profile: ColumnProfile, column: Column, twin_type: TwinType) -> Candidate:
    """The rule by which the cells fit a feature best.

    Raises:
        ValueError: when they fit by none, or the rule lacks an argument.
    """
    best = max(_by_rules(profile, column, twin_type), key=lambda item: item.score)
    if best.score == 0:
        raise ValueError(
            f"the cells of {profile.name!r} ({', '.join(profile.samples)}) are no {column.name}: {best.reason}; "
            f"say how to read them: {_way_out(profile, column)}"
        )
    if best.needs_argument:
        raise ValueError(f"{column.name} of {profile.name!r} needs an answer: {profile.name}={column.name}:{best.rule}")
    if doubt := mismatch(profile, column, Rule.parse(best.rule).name, twin_type):
        raise ValueError(
            f"{profile.name!r} ({', '.join(profile.samples)}) as {column.name}: {doubt}; where it is meant, say how to read it:"
            f" {profile.name}={column.name}:{best.rule}"
        )
    return best._replace(score=1.0, reason=AS_ASKED)


def _way_out(profile: ColumnProfile, column: Column) -> str:
    """How cells become a feature that they fit by no rule."""
    if column.kind != "flag":
        return f"{profile.name}={column.name}:RULE with a rule of {', '.join(get_args(RuleName))}"
    example = ", ".join(
        f"{json.dumps(text, ensure_ascii=False)}: {word}" for text, word in zip(profile.samples, ('"yes"', '"no"'), strict=False)
    )
    return (
        f"{profile.name}={column.name}:value, without a file to write, saves a mapping; write there below {column.name}, with each"
        f" text that means yes or no, levels: {{{example}}}"
    )


def _own_feature(header: str, answer: str, declared: Mapping[str, Column]) -> Candidate:
    """The column as a feature of the user's own.

    Args:
        header: of the column.
        answer: what follows ``own:``, a rule, a name, or ``NAME:RULE``; empty for the name that the header makes, and the value.
        declared: columns of the twin type, whose names are none of the user's own.

    Raises:
        ValueError: for a name that the catalogue would not take, that is declared, or that cannot be made of the header.
    """
    rules = get_args(RuleName)
    is_rule = answer.partition(" ")[0] in rules
    name, _, rule = ("", "", answer) if is_rule else (part.strip() for part in answer.partition(":"))
    form = f"--map {header!r}={OWN}:NAME"
    if not rule and (alike := get_close_matches(name.partition(" ")[0], rules, 1, _SLIP)):
        raise ValueError(f"{name!r} is like the rule {alike[0]}: write that, or {OWN}:{name}:value for a feature of this name")
    own = name or own_name(header)
    if not own:
        raise ValueError(f"{header!r} has no letters that make a name: name the feature yourself, {form}")
    if not re.fullmatch(_NAME, own):
        raise ValueError(f"{own!r} is no name of a feature: letters a to z, digits and _ make one, a letter first, {form}")
    if own in declared:
        raise ValueError(f"{header!r} as {own!r} is a declared column: {header}={own} maps it to that, {form} makes it your own")
    return Candidate(header, own, str(Rule.parse(rule or "value")), 1.0, AS_ASKED)


def own_name(header: str) -> str:
    """The name of an own feature by the header of its column, as the catalogue has names; empty where no letter makes one.

    >>> own_name("Próbki PLN"), own_name("Ścieżka"), own_name("120 Größen"), own_name("地域")
    ('probki_pln', 'sciezka', 'column_120_grossen', 'de_yu')
    """
    terms, year = name_parts(header)
    name = "_".join([*terms, *([str(year)] if year else [])])[:_LONGEST]
    return f"column_{name}"[:_LONGEST] if name[:1].isdigit() else name


def build_mapping(
    name: str, guesses: Sequence[ColumnGuess], raw: RawTable, twin_type: TwinType, options: TableOptions
) -> TableMapping:
    """The mapping of a table, with the limits of its deciles and tiers.

    Raises:
        ValueError: when no column has a use, or two have the same.
    """
    uses = [guess.use for guess in guesses if guess.use is not None]
    repeated = [use.feature for place, use in enumerate(uses) if use.feature in {earlier.feature for earlier in uses[:place]}]
    if repeated:
        both = [use.column for use in uses if use.feature == repeated[0]]
        raise ValueError(f"{' and '.join(map(repr, both))} are both {repeated[0]}: leave one out with --map 'COLUMN='")
    if not uses:
        raise ValueError(f"{raw.name}: no column is like a feature of {twin_type} twins: say which are with --map COLUMN=FEATURE")
    used = {column for use in uses for column in (use.column, Rule.parse(use.rule).before)}
    left_out = {guess.profile.name: _left_out(guess) for guess in guesses if guess.profile.name not in used}
    return TableMapping(
        name=name,
        twin_type=twin_type,
        columns={use.feature: ColumnUse(column=use.column, by=use.rule, cuts=_cuts(use, raw, options)) for use in uses},
        left_out=left_out,
    )


def _left_out(guess: ColumnGuess) -> str:
    if guess.best is None:
        return guess.reason
    return f"{guess.reason}; perhaps {guess.best.feature} by {guess.best.rule} ({guess.best.score:.2f}: {guess.best.reason})"


def _cuts(use: Candidate, raw: RawTable, options: TableOptions) -> tuple[float, ...]:
    """The limits of the groups of a column that is read by deciles or tiers, of all its rows."""
    groups = _GROUPS.get(Rule.parse(use.rule).name)
    if groups is None:
        return ()
    place = raw.headers.index(use.column)
    single = replace(raw, headers=(use.column,), columns=(raw.columns[place],), bad_rows=(), notes=())
    declared: Mapping[str, Column] = {use.column: Column(use.column, "number")}
    frame = convert_table(single, declared, replace(options, mapping=None, kinds={})).frame
    return quantile_cuts(frame[use.column], groups)

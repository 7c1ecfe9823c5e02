"""How alike the header of a column and the name of a feature are, by their words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

from anyascii import anyascii

__all__ = ["NameParts", "likeness", "name_parts"]

_ABBREVIATIONS = {
    "acct": "account", "amt": "amount", "approx": "", "avg": "average",
    "bene": "patients", "benes": "patients", "beneficiaries": "patients",
    "beneficiary": "patients", "ch": "channel", "chan": "channel", "chg": "change", "chng": "change", "claim": "claims",
    "clm": "claims", "clms": "claims", "cnt": "count", "comp": "competitor", "cov": "coverage", "cust": "customer",
    "cvg": "coverage", "days": "days", "dec": "decile", "delta": "change", "dens": "density", "dig": "digital",
    "doctor": "physician", "dr": "physician", "dt": "date", "dur": "duration", "dx": "diagnosis", "email": "email",
    "eng": "engagement", "engmt": "engagement", "exp": "experience", "freq": "frequency", "grad": "graduation",
    "graduated": "graduation", "grp": "group", "hcps": "providers", "identifier": "id", "infl": "influence",
    "ins": "insurance", "int": "interaction", "last": "last", "lst": "last", "mbr": "member", "mkt": "market",
    "mo": "month", "monthly": "month", "months": "month", "mth": "month", "nbr": "count", "no": "count", "nrx": "prescriptions",
    "num": "count", "number": "count", "pat": "patients", "patient": "patients", "pats": "patients", "pct": "percent",
    "perc": "percent", "phys": "physician", "pop": "population", "pr": "provider", "prac": "practice", "pref": "preferred",
    "prescriptions": "prescriptions", "prio": "priority", "prov": "provider", "prscrbr": "prescriber", "pt": "patients",
    "pts": "patients", "qty": "count", "reg": "region", "rgn": "region", "rx": "prescriptions", "rxs": "prescriptions",
    "scripts": "prescriptions", "seg": "segment", "shr": "share", "sp": "specialty", "spc": "specialty",
    "spclty": "specialty", "spec": "specialty", "speciality": "specialty", "specialties": "specialty",
    "specialization": "specialty", "spty": "specialty", "st": "state", "sz": "size", "terr": "territory", "tot": "total",
    "trx": "total prescriptions", "usd": "dollars", "vol": "volume", "yr": "years", "yrs": "years", "year": "years",
}  # fmt: skip
_FILLERS = frozenset(
    {
        "",
        "1",
        "abrvtn",
        "c",
        "cd",
        "code",
        "col",
        "desc",
        "description",
        "field",
        "name",
        "nm",
        "of",
        "per",
        "the",
        "txt",
        "v",
        "val",
        "value",
        "vod",
        "primary",
        "prim",
        "in",
        "a",
        "current",
        "curr",
    }
)
_SIGNS = {"$": " dollars ", "€": " euros ", "£": " pounds ", "%": " percent ", "#": " count "}
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)")
_NO_LENGTH = r"(?!\d)(?![ _-]*(?i:months?|mths?|mo|m|weeks?|wks?|w|days?|d)(?![A-Za-z]))"  # 12 months are no year
_SHORT_YEAR = re.compile(rf"(?<![\dA-Za-z])'?([0-4]\d){_NO_LENGTH}|(?<=[A-Za-z])([1-4]\d){_NO_LENGTH}")
_MIN_PREFIX = 4


class NameParts(NamedTuple):
    """The words of a name in their usual form, and the year that it names, if any."""

    terms: tuple[str, ...]
    year: int | None = None


@lru_cache(maxsize=10_000)
def name_parts(name: str) -> NameParts:
    """The words of a name in letters a to z, abbreviations written out where they are whole words, without fillers.

    >>> name_parts("Spec Desc"), name_parts("Tot Rx '23")
    (NameParts(terms=('specialty',), year=None), NameParts(terms=('total', 'prescriptions'), year=2023))
    """
    for sign, word in _SIGNS.items():
        name = name.replace(sign, word)
    name = anyascii(name)
    year = next((int(match.group(1)) for match in _YEAR.finditer(name)), None)
    text = _YEAR.sub(" ", name)
    if year is None and (match := _SHORT_YEAR.search(text)):
        year = 2000 + int(match.group(1) or match.group(2))
        text = text[: match.start()] + " " + text[match.end() :]
    text = re.sub(r"(?i)(?<![a-z])[tn]rx(?=[^a-z]|$)", lambda match: match.group().lower(), text)
    separate = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    raw_terms = re.findall(r"[a-z]+|\d+", separate.lower())
    terms = [word for raw in raw_terms for word in _ABBREVIATIONS.get(raw, raw).split()]
    meaningful = tuple(dict.fromkeys(word for word in terms if word not in _FILLERS))
    return NameParts(meaningful or tuple(terms), year)


def likeness(header: str, phrases: Iterable[str]) -> tuple[float, str]:
    """How alike a header and the closest of the phrases are, 0 to 1, and that phrase."""
    terms = name_parts(header).terms
    return max(((_alike(terms, name_parts(phrase).terms), phrase) for phrase in phrases), default=(0.0, ""))


def _alike(terms: tuple[str, ...], phrase: tuple[str, ...]) -> float:
    """Twice the words in common by all words (Dice); words that are nearly the same count in part."""
    if not terms or not phrase:
        return 0.0
    matched = sum(max(_word_alike(word, other_word) for other_word in terms) for word in phrase)
    return min(1.0, 2 * matched / (len(terms) + len(phrase)))


@lru_cache(maxsize=50_000)
def _word_alike(first: str, second: str) -> float:
    if first == second:
        return 1.0
    shorter, longer = sorted((first, second), key=len)
    if len(shorter) >= _MIN_PREFIX and longer.startswith(shorter):
        return 0.9
    ratio = SequenceMatcher(None, first, second, autojunk=False).ratio()
    return ratio if ratio >= 0.8 and len(shorter) >= _MIN_PREFIX else 0.0

"""Which features an outcome may carry, and counts of those that a champion had to do without.

A name is known when the champion uses it, when the catalogue declares it for the twin type, or when the training table of any model
of the line has it: so a producer may send a feature that only a challenger knows, and columns that training left out. An outcome
with any other name is refused, for a renamed feature would look like a missing one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple
from uuid import UUID

import numpy as np

from engine.twins import FeatureGaps
from schemas import TWIN_TYPES, ModelCard, TwinType
from schemas.arrays import Flags, Integers
from schemas.base import shorten
from sql.feature_count_store import FeatureCount
from streams.ingestion.outcome_batch import OutcomeBatch

__all__ = [
    "FeatureUse",
    "count_features",
    "declared_names",
    "empty_reason",
    "known_names",
    "rows_by_names",
    "unknown_reason",
    "unused_names",
]

_SHOWN = 5
_FROM = "entity_id", "observed_at", "id"


class FeatureUse(NamedTuple):
    """What a model had to predict some outcomes from.

    Attributes:
        rows: of the outcomes, shape ``(n,)``.
        gaps: of the features that the model uses.
        unused: features that all of these outcomes have although the model does not use them.
    """

    line: str
    model_id: UUID
    rows: Integers
    gaps: FeatureGaps | None = None
    unused: frozenset[str] = frozenset()


def declared_names(twin_type: TwinType) -> frozenset[str]:
    """Names that the features of any outcome of a twin type may have: those of the catalogue, and ids."""
    return frozenset((*TWIN_TYPES[twin_type].by_name, *identifiers(twin_type)))


def identifiers(twin_type: TwinType) -> tuple[str, ...]:
    """Names that say which entity a row is about, and when; they are no features."""
    return (*_FROM, f"{twin_type}_id")


def rows_by_names(outcomes: OutcomeBatch, rows: Iterable[int]) -> dict[tuple[str, ...], list[int]]:
    """These rows by the names of their features, in order."""
    grouped: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in rows:
        grouped[tuple(outcomes.entities[row].features or ())].append(row)
    return grouped


def unknown_reason(names: Sequence[str], card: ModelCard, accepted: frozenset[str], compared: int) -> str | None:
    """Why features of these names are refused, with what comes close to the first ``compared`` of them; None when all are known."""
    unknown = [name for name in names if name not in accepted]
    if not unknown:
        return None
    close = dict.fromkeys(match for name in unknown[:compared] for match in _close_names(name, accepted))
    advice = f"did you mean {', '.join(close)}? " if close else ""
    shown = ", ".join(map(shorten, unknown[:_SHOWN])) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
    return (
        f"unknown features {shown}: {advice}The champion of {card.line} knows {', '.join(card.features)}; the features of"
        f" {card.twin_type} twins and the columns of any training table of the line are accepted too"
    )


def _close_names(name: str, accepted: Iterable[str]) -> list[str]:
    by_letters = {_letters(candidate): candidate for candidate in sorted(accepted)}
    return [by_letters[letters] for letters in get_close_matches(_letters(name[:_MOST_COMPARED]), list(by_letters), n=1)]


_MOST_COMPARED = 100  # characters of a name


def _letters(name: str) -> str:
    """A name without the signs in which spellings differ: ``digitalEngagementScore`` and ``digital_engagement_score`` are equal."""
    return re.sub(r"[\W_]", "", name).casefold()


def empty_reason(card: ModelCard) -> str:
    """Why an outcome without a value of any feature of the champion is refused."""
    return f"no feature that the champion of {card.line} predicts from has a value: it uses {', '.join(card.outcome_features)}"


def count_features(uses: Iterable[FeatureUse], stored: Integers) -> list[FeatureCount]:
    """Counts by line, model and feature of the outcomes whose rows are ``stored``."""
    totals: defaultdict[tuple[str, UUID, str], Integers] = defaultdict(lambda: np.zeros(4, dtype=np.int64))
    for use in uses:
        is_stored = np.isin(use.rows, stored)
        for name, counts in (*_gap_counts(use.gaps, is_stored), *((name, (0, 0, 0, int(is_stored.sum()))) for name in use.unused)):
            totals[use.line, use.model_id, name] += counts
    return [FeatureCount(*key, *counts.tolist()) for key, counts in sorted(totals.items()) if counts.any()]


def _gap_counts(gaps: FeatureGaps | None, is_stored: Flags) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    if gaps is not None:
        missing, unseen = gaps.missing[is_stored].sum(axis=0).tolist(), gaps.unseen[is_stored].sum(axis=0).tolist()
        for name, n_missing, n_unseen in zip(gaps.names, missing, unseen, strict=True):
            yield name, (int(is_stored.sum()), n_missing, n_unseen, 0)


def unused_names(names: Sequence[str], card: ModelCard) -> frozenset[str]:
    """Features among these names that the model of the card does not have."""
    return frozenset(names).difference(card.features, identifiers(card.twin_type))


def known_names(card: ModelCard, line_features: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Names that the features of an outcome may have that a model predicts."""
    return declared_names(card.twin_type).union(card.features, line_features.get(card.line, ()))

"""Sums over twins from which the result of a simulation follows: floating-point numbers of one table, exact integers of many.

Draws of parameters act on averages over twins only (see :mod:`engine.effects.effect_draws`), so a result needs no twin once these
sums are known. Those of one block of twins are rounded once, to integer multiples of 2**-64. Integers can be added in any order:
the sums of many blocks are the same whoever added them, and however the blocks were shared out.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from engine.effects.subgroups import LevelSums, group_levels
from schemas.arrays import Floats

__all__ = ["ExactSums", "TwinSums"]

_BITS = 64


@dataclass(frozen=True)
class TwinSums:
    """Sums over the twins of a simulation; moments are those of :meth:`engine.effects.effect_draws.EffectDraws.moments`.

    Attributes:
        n_twins: of the population, with those outside of the filters.
        totals: moments of each intervention that is compared, ``(3 + p,)`` each.
        groups: moments of the first one by dimension and level.
        change: moments of the first one with each factor multiplied by the twin's change for an effect of 1, ``(3 + p,)``.
        n_with_base: twins whose change is known.
        base: sum of the absolute changes for an effect of 1.
        outcome_sd: standard deviation of the drawn outcomes, in the unit of the target; None where these twins have none.
    """

    n_twins: int
    totals: tuple[Floats, ...]
    groups: Mapping[str, LevelSums]
    change: Floats
    n_with_base: int
    base: float
    outcome_sd: float | None

    @property
    def n(self) -> int:
        """Twins within the filters."""
        return int(self.totals[0][0])


_Key = tuple[Any, ...]


@dataclass(frozen=True)
class ExactSums:
    """The sums of some blocks as integers, a commutative monoid: :meth:`merge` adds, ``ExactSums({})`` is neutral.

    Attributes:
        values: integer multiples of 2**-64 by what they are sums of.
    """

    values: Mapping[_Key, tuple[int, ...]]

    @classmethod
    def from_sums(cls, sums: TwinSums) -> ExactSums:
        """Round the sums of one block.

        Raises:
            ValueError: when one is not finite, as an effect of the prior or a moderator is too large.
        """
        rows: dict[_Key, Any] = {("n",): [sums.n_twins, sums.n_with_base, sums.base], ("change",): sums.change}
        rows |= {("total", number): total for number, total in enumerate(sums.totals)}
        for dimension, levels in sums.groups.items():
            rows |= {("group", dimension, label): row for label, row in zip((None, *levels.labels), levels.sums.T, strict=True)}
        if sums.outcome_sd is not None:
            rows["outcome_sd",] = [sums.outcome_sd]
        return cls({key: _to_integers(row) for key, row in rows.items()})

    def merge(self, addend: ExactSums) -> ExactSums:
        """The sums of the blocks of this one and of the addend, which have none in common."""
        merged = dict(self.values)
        for key, row in addend.values.items():
            merged[key] = tuple(map(int.__add__, merged[key], row)) if key in merged else row
        return ExactSums(merged)

    @classmethod
    def merge_all(cls, parts: list[ExactSums]) -> ExactSums:
        """The sums of all parts."""
        return reduce(cls.merge, parts, cls({}))

    def to_bytes(self) -> bytes:
        """Compressed JSON, the same for equal sums."""
        rows = sorted(([list(key), [f"{value:x}" for value in row]] for key, row in self.values.items()), key=json.dumps)
        return zlib.compress(json.dumps(rows).encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> ExactSums:
        """What :meth:`to_bytes` was called on."""
        rows = json.loads(zlib.decompress(data))
        return cls({tuple(key): tuple(int(value, 16) for value in row) for key, row in rows})

    def to_sums(self) -> TwinSums:
        """The nearest floating-point numbers; levels are grouped as those of one table would be."""
        numbers = {key: np.array([_to_float(value) for value in row]) for key, row in self.values.items()}
        n_twins, n_with_base, base = numbers["n",].tolist()
        dimensions = dict.fromkeys(key[1] for key in numbers if key[0] == "group")
        return TwinSums(
            n_twins=int(n_twins),
            totals=tuple(numbers["total", number] for number in range(sum(key[0] == "total" for key in numbers))),
            groups={name: _grouped(name, numbers) for name in dimensions},
            change=numbers["change",],
            n_with_base=int(n_with_base),
            base=base,
            outcome_sd=float(numbers["outcome_sd",][0]) if ("outcome_sd",) in numbers else None,
        )


def _grouped(dimension: str, numbers: Mapping[_Key, Floats]) -> LevelSums:
    by_label = {key[2]: row for key, row in numbers.items() if key[:2] == ("group", dimension)}
    without = by_label.pop(None)
    labels = sorted(by_label, key=json.dumps)  # the order of blocks must not show
    codes, names = group_levels([int(by_label[label][0]) for label in labels], labels, dimension)
    sums = np.zeros((len(names) + 1, len(without)))
    np.add.at(sums, codes, np.array([*(by_label[label] for label in labels), without]))
    return LevelSums(names, sums.T)


def _to_integers(row: Any) -> tuple[int, ...]:
    values = [float(value) for value in row]
    if not all(map(math.isfinite, values)):
        raise ValueError("the factors of some twins are too large for a sum: check the moderators and what experiments taught")
    return tuple(round(math.ldexp(value, _BITS)) if abs(value) < 2**900 else int(value) << _BITS for value in values)


def _to_float(value: int) -> float:
    """The nearest number; correctly rounded, as a division of integers is."""
    return value / (1 << _BITS)

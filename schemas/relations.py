"""Relations between the columns of a table that hold in every row, such as parts that never exceed their whole."""

from __future__ import annotations

from typing import Literal

from schemas.base import Finite, Frozen

__all__ = ["Relation", "RelationKind"]

RelationKind = Literal["not_above", "sum", "sum_not_above", "proportional", "multiple", "step", "determines", "missing_together"]


class Relation(Frozen):
    """A relation that holds in every row in which all of its columns have a value.

    Attributes:
        kind: ``not_above``: the first column is at most the second. ``sum``: all columns but the last add up to the last;
            ``sum_not_above``: to at most the last. ``proportional``: the first is ``factor`` times the second, rounded to its
            decimal places. ``multiple``: the first is a whole multiple of the second. ``step``: the only column is a whole multiple
            of ``factor``. ``determines``: rows with the same value of the first column have the same value of the second.
            ``missing_together``: both columns have a value or none has.
        columns: names, in the order that the kind asks for.
        factor: see ``kind``; null where the kind has none.
        n: learned rows in which all columns have a value.
        n_broken: those that break the relation; more than 0 for declared ones only.
        declared: whether the caller or the twin type's entry declares it; otherwise it was found in the learned rows.
    """

    kind: RelationKind
    columns: tuple[str, ...]
    factor: Finite | None = None
    n: int = 0
    n_broken: int = 0
    declared: bool = False

    @property
    def formula(self) -> str:
        """The relation as a formula.

        >>> Relation(kind="sum_not_above", columns=("brand", "generic", "total")).formula
        'brand + generic <= total'
        """
        *parts, last = self.columns
        first = parts[0] if parts else last
        return {
            "not_above": f"{first} <= {last}",
            "sum": f"{' + '.join(parts)} = {last}",
            "sum_not_above": f"{' + '.join(parts)} <= {last}",
            "proportional": f"{first} = {self.factor or 0:g} x {last}",
            "multiple": f"{first} is a multiple of {last}",
            "step": f"{last} is a multiple of {self.factor or 0:g}",
            "determines": f"{first} determines {last}",
            "missing_together": f"{first} and {last} are missing together",
        }[self.kind]

    def __str__(self) -> str:
        """The formula, and in how many rows it holds.

        >>> print(Relation(kind="not_above", columns=("covered", "total"), n=1000, declared=True))
        covered <= total (declared, 1,000 rows)
        """
        origin = "declared, " if self.declared else ""
        broken = f", {self.n_broken:,} of them break it" if self.n_broken else ""
        return f"{self.formula} ({origin}{self.n:,} rows{broken})"

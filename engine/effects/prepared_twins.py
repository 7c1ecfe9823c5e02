"""What all simulations on one population derive from it alone, computed once and shared by them."""

from __future__ import annotations

from functools import cached_property

from engine.effects.effect_model import Design, build_design
from engine.effects.intervals import standard_deviation
from engine.effects.level_reading import AS_DECLARED, LevelReading
from engine.effects.outcome_changes import change_per_effect
from engine.effects.subgroups import Groups, group_by_level
from schemas.arrays import Floats
from schemas.columns import Levels
from schemas.twin_models import TwinPopulation
from schemas.twin_types import TWIN_TYPES

__all__ = ["PreparedTwins"]


class PreparedTwins:
    """A population with its moderators, its groups, and the change of each outcome for an effect of 1, each at its first use.

    They follow the catalogue that is in effect then. Nothing in them depends on an intervention, a prior or a seed: a result on
    twins that were prepared before equals that on the same twins prepared again, bit for bit.

    Args:
        population: the twins.
        is_block: whether they are a part of a larger population: the moderators then have a term for every level, whether or not
            some twin has it, and groups are the levels as they are spelled, so that the sums of several parts can be added.
    """

    def __init__(self, population: TwinPopulation, *, is_block: bool = False) -> None:
        self.population = population
        self.is_block = is_block
        self._designs: dict[tuple[LevelReading, tuple[tuple[str, str], ...]], Design] = {}
        self._groups: dict[LevelReading, dict[str, Groups]] = {}

    def design(self, levels: tuple[tuple[str, str], ...] = (), reading: LevelReading = AS_DECLARED) -> Design:
        """Moderators of the twins, with terms for the deviations of ``levels``, pairs of a feature and its level."""
        if (reading, levels) not in self._designs:
            columns = self.population.columns
            self._designs[reading, levels] = build_design(columns, levels, reading, with_absent=self.is_block)
        return self._designs[reading, levels]

    def groups(self, reading: LevelReading = AS_DECLARED) -> dict[str, Groups]:
        """The groups of the twins by dimension."""
        if reading not in self._groups:
            columns, dimensions = self.population.columns, TWIN_TYPES[self.population.twin_type].dimensions
            present = {name: columns.levels(name) for name in dimensions if name in columns}
            self._groups[reading] = {
                name: _as_spelled(levels) if self.is_block else group_by_level(levels, name, reading)
                for name, levels in present.items()
            }
        return self._groups[reading]

    @cached_property
    def per_effect(self) -> Floats:
        """Change of each outcome for an effect of 1, in the unit of the target, ``(n,)``; nan where unknown."""
        target = TWIN_TYPES[self.population.twin_type].target(self.population.target)
        return change_per_effect(target, self.population.frame)

    @cached_property
    def outcomes(self) -> Floats | None:
        """The drawn outcomes, in the unit of the target, ``(n,)``; None where these twins have none."""
        name, frame = self.population.target, self.population.frame
        return frame[name].to_numpy(dtype=float) if name in frame else None

    @cached_property
    def outcome_sd(self) -> float | None:
        """Standard deviation of the drawn outcomes; None where these twins have none."""
        return None if self.outcomes is None else standard_deviation(self.outcomes)

    @property
    def n_bytes(self) -> int:
        """Bytes of the twins and of what has been derived from them."""
        codes = sum(groups.codes.nbytes for by_name in list(self._groups.values()) for groups in by_name.values())
        designs = sum(design.n_bytes for design in self._designs.values())
        return self._frame_bytes + designs + 2 * codes + self.per_effect.nbytes  # the columns keep the codes of their levels too

    @cached_property
    def _frame_bytes(self) -> int:
        return int(self.population.frame.memory_usage(deep=True).sum())


def _as_spelled(levels: Levels) -> Groups:
    codes, values = levels
    return Groups(codes + 1, values)

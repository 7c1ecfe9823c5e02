"""Effects of campaigns that nobody has run, borrowed from experiments on similar ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from engine import SimulationEngine
from engine.effects import catalogue_prior
from engine.effects.calibration import calibrate
from engine.effects.similar_campaigns import BORROWED_SPREAD, UNRELATED
from schemas import INTERVENTIONS, ExperimentResult, Reach
from schemas.arrays import Floats
from tests.effect_worlds import draw_campaigns
from tests.evidence.part import Figure, Part, Table, seeded_rng
from tests.evidence.simulation import random_campaign
from tests.subgroup_worlds import Campaigns, People, compared, draw_people, run_experiment

__all__ = ["measure"]

SENTENCES = """\
In each of {worlds} worlds of a kind, 1, 2, 4, 8 or 16 experiments on one or two types of campaigns are known, and a \
campaign of a third type by the same own channel is simulated, of which there is none. The same people respond by the \
same moderators and deviations of levels to all of them, as in "Experiments teach who responds"; truth is computed \
independently of the engine.
How many times the catalogue's effect the types have is drawn in three ways: as is assumed where an effect is \
borrowed, with even odds for each by itself, as the catalogue believes, or around the other's with a standard \
deviation of {spread:g} of it, or of 1; always by itself; and the same for all.
No set of trials of one company's campaigns is public, so the dependence is an assumption, and the last two are its \
ends.
Tried and failed: without the even odds that other campaigns tell nothing, types by themselves were covered to 89 % \
(300 worlds of other seeds, standard error 1.8 %)."""

COUNTS = (1, 2, 4, 8, 16)
LOW, HIGH = 0.93, 0.97
TYPES = sorted(name for name, entry in INTERVENTIONS.items() if entry.channel == "in_person")
SIZES = (400, 5_000)

Factors = Callable[[np.random.Generator, list[str]], list[tuple[float, float]]]


def _independent(rng: np.random.Generator, types: list[str]) -> list[tuple[float, float]]:
    return [draw_campaigns(rng, INTERVENTIONS[name].effect) for name in types]


def _as_assumed(rng: np.random.Generator, types: list[str]) -> list[tuple[float, float]]:
    """By themselves or, by rejection, with factors on the catalogue's effect around each other."""
    if rng.random() < UNRELATED:
        return _independent(rng, types)
    while True:
        spreads = _independent(rng, types)
        first, *others = (mean / INTERVENTIONS[name].effect.mean for name, (mean, _) in zip(types, spreads, strict=True))
        distances = [(first - other) / (BORROWED_SPREAD * max(abs(other), 1.0)) for other in others]
        if rng.random() < math.exp(-0.5 * sum(distance**2 for distance in distances)):
            return spreads


def _alike(rng: np.random.Generator, types: list[str]) -> list[tuple[float, float]]:
    mean, between = (value / INTERVENTIONS[types[0]].effect.mean for value in draw_campaigns(rng, INTERVENTIONS[types[0]].effect))
    return [(mean * INTERVENTIONS[name].effect.mean, between * INTERVENTIONS[name].effect.mean) for name in types]


WORLDS: Mapping[str, Factors] = {"as assumed": _as_assumed, "by themselves": _independent, "the same for all": _alike}


class Run(NamedTuple):
    """Whether truth lies inside, widths over those without the other experiments, ``(worlds, rows)``; experiments ``(worlds,)``."""

    inside: Floats
    width: Floats
    counts: Floats


def measure(quick: bool) -> Part:
    """600 worlds of each kind; a tenth of them in a quick run."""
    worlds = 60 if quick else 600
    people = draw_people(2_000, seeded_rng("never run"))
    runs = {name: run(people, name, range(worlds)) for name in WORLDS}
    return Part(
        title="A campaign that nobody has run",
        sentences=tuple(SENTENCES.format(worlds=worlds, spread=BORROWED_SPREAD).splitlines()),
        figures=tuple(_figures(runs)),
        tables=(_table(runs),),
    )


def run(people: People, kind: str, numbers: range) -> Run:
    """The worlds of one kind with these numbers."""
    rows = [_world(people, kind, number) for number in numbers]
    values = np.array([world for world, _, _ in rows])
    _, lower, upper, truth = np.moveaxis(values, -1, 0)
    inside = np.where(np.isnan(lower), np.nan, (lower <= truth) & (truth <= upper))
    before = np.array([alone for _, alone, _ in rows])
    return Run(inside, (upper - lower) / (before[..., 2] - before[..., 1]), np.array([count for *_, count in rows]))


Rows = list[tuple[float, ...]]


def _world(people: People, kind: str, number: int) -> tuple[Rows, Rows, int]:
    """Effects of the campaign that nobody has run, the same without the other experiments, and their number."""
    rng = seeded_rng("never run", kind, number)
    types = rng.permutation(TYPES).tolist()
    spreads = WORLDS[kind](rng, types)
    campaigns = Campaigns(rng, people, spreads[0])
    tested = types[1 : int(rng.integers(2, len(types) + 1))]
    results: list[ExperimentResult] = []
    reaches: dict[str, Reach] = {}
    count = int(rng.choice(COUNTS))
    for experiment in range(count):
        name = str(rng.choice(tested))
        config = random_campaign(rng, name)[0]
        n = int(np.exp(rng.uniform(*np.log(SIZES))))
        effects = campaigns.of_other_type(spreads[types.index(name)]).effects(config)
        results.append(run_experiment(str(experiment), config, people, effects, n, rng))
        groups = [(group.dimension, group.level) for group in results[-1].subgroups]
        reaches[str(experiment)] = SimulationEngine(people.twins).reach(config, subgroups=groups)
    config = random_campaign(rng, types[0])[0]
    prior, truth = catalogue_prior(types[0]), campaigns.effects(config)
    engine = SimulationEngine(people.twins, priors={types[0]: calibrate(prior, [], reaches, results)})
    return compared(engine, people, config, truth), compared(SimulationEngine(people.twins), people, config, truth), count


def _figures(runs: Mapping[str, Run]) -> Iterator[Figure]:
    for name, of_kind in runs.items():
        share, error = share_inside(of_kind.inside[:, :1])
        groups, groups_error = share_inside(of_kind.inside[:, 2:])
        yield Figure(
            f"campaigns that nobody has run inside their 95 % interval, factors {name}",
            share,
            at_least=LOW if name == "as assumed" else None,
            at_most=HIGH if name == "as assumed" else None,
            form=".1%",
            note=f"standard error {error:.1%}; subgroups {groups:.1%} ({groups_error:.1%});"
            f" median width {np.nanmedian(of_kind.width[:, 0]):.2f} of that without the other experiments",
        )


def share_inside(inside: Floats) -> tuple[float, float]:
    """Share inside of ``(worlds, rows)``, and its standard error: rows of one world are missed together."""
    shares = np.nanmean(inside, axis=1)
    return float(np.nanmean(shares)), float(np.nanstd(shares) / math.sqrt(np.isfinite(shares).sum()))


def _table(runs: Mapping[str, Run]) -> Table:
    rows = [
        (
            f"{what}, factors {name}",
            *(
                f"{share_inside(of_kind.inside[of_kind.counts == count][:, part])[0]:.1%},"
                f" {np.nanmedian(of_kind.width[of_kind.counts == count][:, part]):.2f}"
                for count in COUNTS
            ),
        )
        for name, of_kind in runs.items()
        for what, part in (("all people", slice(0, 1)), ("a filter", slice(1, 2)), ("17 subgroups", slice(2, None)))
    ]
    columns = ("", *(f"after {count}" for count in COUNTS))
    return Table(
        "Truth inside the interval, and its median width relative to that without the other experiments", columns, tuple(rows)
    )

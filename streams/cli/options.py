"""What a campaign is on the command line: the words for it, and for whom and on which line it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from schemas import INTERVENTIONS, Brand, Channel, Frequency, InterventionConfig, PopulationFilter, TwinType

__all__ = [
    "TABLE",
    "brand_option",
    "campaign",
    "campaign_options",
    "filter_of",
    "filter_option",
    "filters_of",
    "intervention_argument",
    "line_options",
    "target_option",
    "twin_type_option",
]

F = TypeVar("F", bound=Callable[..., Any])

TABLE = click.Path(dir_okay=False, path_type=Path)

twin_type_option = click.option(
    "--twin-type", type=click.Choice([kind.value for kind in TwinType]), default=TwinType.HCP.value, show_default=True
)
brand_option = click.option(
    "--brand", type=click.Choice([brand.value for brand in Brand]), default=Brand.KISQALI.value, show_default=True
)
target_option = click.option("--target", help="Target column; the twin type's own by default.")
intervention_argument = click.argument("intervention", type=click.Choice(sorted(INTERVENTIONS)))
filter_option = click.option(
    "--filter", "filters", multiple=True, metavar="WORD=VALUE[,VALUE]", help="For example region=south,west or min_decile=8."
)

_OPTIONS = (
    click.option("--channel", type=click.Choice([c.value for c in Channel]), help="The intervention's own by default."),
    click.option(
        "--frequency", type=click.Choice([f.value for f in Frequency]), default=Frequency.MONTHLY.value, show_default=True
    ),
    click.option("--weeks", type=click.IntRange(1, 104), default=12, show_default=True),
    click.option("--intensity", type=float, help="Strength of one contact, 1 is usual."),
)


def campaign_options(command: F) -> F:
    """The dose of a campaign, as options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def line_options(command: F) -> F:
    """Which model line is meant, as options: ``twin_type``, ``brand``, ``target``."""
    return twin_type_option(brand_option(target_option(command)))


def campaign(intervention: str, channel: str | None, frequency: str, weeks: int, intensity: float | None) -> InterventionConfig:
    """The campaign that was typed."""
    return InterventionConfig(
        intervention_type=intervention,
        channel=channel or INTERVENTIONS[intervention].channel.value,
        frequency=frequency,
        duration_weeks=weeks,
        intensity=intensity,
    )


def filter_of(said: str) -> tuple[str, Any]:
    """``word=value`` or ``word=value,value`` of the command line; whole numbers are numbers.

    Raises:
        ValueError: when there is no ``=``.
    """
    word, sign, listed = said.partition("=")
    if not sign or not word or not listed:
        raise ValueError(f"filter {said!r} is not WORD=VALUE, for example region=south,west or min_decile=8")
    values = [int(value) if value.lstrip("-").isdigit() else value for value in listed.split(",")]
    return word, values[0] if word.startswith(("min_", "max_")) else values


def filters_of(said: tuple[str, ...]) -> PopulationFilter:
    """All filters that were typed."""
    return PopulationFilter.model_validate(dict(map(filter_of, said)))

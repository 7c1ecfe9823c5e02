"""Options that describe a campaign and the model line it is asked about; their choices come from the catalogues of the schemas."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from schemas import INTERVENTIONS, Brand, Channel, Frequency, InterventionConfig, TwinType
from streams.cli.options import require_value

__all__ = [
    "BrandOption",
    "ChannelOption",
    "FrequencyOption",
    "IntensityOption",
    "InterventionArgument",
    "InterventionName",
    "TargetOption",
    "TwinTypeOption",
    "WeeksOption",
    "make_campaign",
]

if TYPE_CHECKING:
    InterventionName = str
else:  # Typer validates and completes the members of an enumeration
    InterventionName = StrEnum("InterventionName", {name: name for name in sorted(INTERVENTIONS)})

TwinTypeOption = Annotated[TwinType, typer.Option(help="What a twin stands for.")]
BrandOption = Annotated[Brand, typer.Option(help="Brand of the model line.")]
TargetOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="Target column; the twin type's own target by default.")]
InterventionArgument = Annotated[
    InterventionName, typer.Argument(metavar="INTERVENTION", help="What the campaign does.", show_default=False)
]
ChannelOption = Annotated[Channel | None, typer.Option(help="Channel of the contacts; the intervention's usual one by default.")]
FrequencyOption = Annotated[Frequency, typer.Option(help="How often each entity is contacted.")]
WeeksOption = Annotated[int, typer.Option(min=1, max=104, metavar="NUMBER", help="Duration of the campaign in weeks.")]
IntensityOption = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Strength of one contact, at most 3; 1 is usual.",
        callback=require_value(lambda value: 0 < value <= 3, "must be above 0 and at most 3"),
    ),
]


def make_campaign(
    intervention: str, channel: Channel | None, frequency: Frequency, weeks: int, intensity: float | None
) -> InterventionConfig:
    """Build the campaign that the options describe."""
    return InterventionConfig(
        intervention_type=str(intervention),
        channel=channel or INTERVENTIONS[intervention].channel,
        frequency=frequency,
        duration_weeks=weeks,
        intensity=intensity,
    )

"""Options that describe a campaign and the model line it is asked about; their choices come from the catalogues of the schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from schemas import INTERVENTIONS, Channel, Frequency, InterventionConfig, TwinType, catalogue_in_effect
from schemas.base import require_one_of
from streams.cli.options import require_value

__all__ = [
    "BrandOption",
    "ChannelOption",
    "FrequencyOption",
    "IntensityOption",
    "InterventionArgument",
    "TargetOption",
    "TwinTypeOption",
    "WeeksOption",
    "complete_intervention",
    "make_campaign",
]


def _complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Complete a name of the catalogue; the command itself checks it, against the catalogue of the service."""
    return lambda incomplete: [name for name in sorted(names()) if name.startswith(incomplete)]


_complete_brand = _complete(lambda: catalogue_in_effect().brands)
complete_intervention = _complete(lambda: INTERVENTIONS)
TwinTypeOption = Annotated[TwinType, typer.Option(help="What a twin stands for.")]
BrandOption = Annotated[
    str, typer.Option(metavar="NAME", help="Brand of the model line, of the catalogue.", autocompletion=_complete_brand)
]
TargetOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="Target column; the twin type's own target by default.")]
InterventionArgument = Annotated[
    str,
    typer.Argument(
        metavar="INTERVENTION", help="What the campaign does.", show_default=False, autocompletion=complete_intervention
    ),
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
    """Build the campaign that the options describe; its default channel is that of the catalogue in effect."""
    require_one_of("intervention", intervention, INTERVENTIONS)
    return InterventionConfig(
        intervention_type=str(intervention),
        channel=channel or INTERVENTIONS[intervention].channel,
        frequency=frequency,
        duration_weeks=weeks,
        intensity=intensity,
    )

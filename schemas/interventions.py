"""Interventions: prior effects, dose response, channels, and moderators, those of the catalogue in effect and the built-in ones.

Effects are priors: a mean and a standard deviation as a fraction on the target's own scale, at the entry's own channel, monthly,
for 12 weeks, at intensity 1. A new built-in intervention is one entry here; the contract suite covers it automatically.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated

from pydantic import ConfigDict, PlainSerializer

from schemas.catalogue_in_effect import MappingView, SequenceView
from schemas.twin_types import TwinType

__all__ = [
    "BUILT_IN_INTERVENTIONS",
    "BUILT_IN_MODERATORS",
    "CONTACTS_PER_MONTH",
    "INTERVENTIONS",
    "MODERATORS",
    "REFERENCE_FREQUENCY",
    "REFERENCE_INTENSITY",
    "REFERENCE_WEEKS",
    "UNCALIBRATED_SPREAD",
    "Channel",
    "Frequency",
    "Intervention",
    "Moderator",
    "PastExperiment",
    "Positive",
    "Uncertain",
    "moderator_form",
    "moderator_level",
]

UNCALIBRATED_SPREAD = 0.40
REFERENCE_WEEKS = 12
REFERENCE_INTENSITY = 1.0


class Channel(StrEnum):
    """The channel through which an intervention reaches people."""

    EMAIL = "email"
    PHONE = "phone"
    IN_PERSON = "in_person"
    VIDEO = "video"
    MAIL = "mail"
    WEB = "web"


class Frequency(StrEnum):
    """Frequency of contacts."""

    ONCE = "once"
    WEEKLY = "weekly"
    BIWEEKLY = "biweekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


REFERENCE_FREQUENCY = Frequency.MONTHLY

CONTACTS_PER_MONTH: Mapping[Frequency, float] = MappingProxyType(
    {
        Frequency.ONCE: 0.0,
        Frequency.WEEKLY: 52 / 12,
        Frequency.BIWEEKLY: 26 / 12,
        Frequency.MONTHLY: 1.0,
        Frequency.QUARTERLY: 1 / 3,
    }
)
"""Contacts per month after the first; at any rate, a campaign has at least one contact."""


_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_SORTED = PlainSerializer(sorted, return_type=list[str])  # equal sets have equal texts


@dataclass(frozen=True)
class Uncertain:
    """An uncertain quantity: mean and standard deviation of its normal prior."""

    __pydantic_config__ = _STRICT

    mean: float
    sd: float


@dataclass(frozen=True)
class Positive:
    """An uncertain positive quantity: median and standard deviation of the logarithm of its log-normal prior."""

    __pydantic_config__ = _STRICT

    median: float
    spread: float


@dataclass(frozen=True)
class Moderator:
    """How a feature moderates an effect: the log of the factor per ``spread`` of a number, or at a level of a category.

    Numbers are centred by ``center``, and a level that is not listed has the factor 1, so that the base effect is that of a twin
    with average moderators. Levels are compared in lower case, each run of other characters than letters and digits as one
    underscore, without a plural s: "Hematology/Oncology" is ``hematology_oncology``.

    Attributes:
        column: name of the feature.
        slope: log of the factor per ``spread`` of a number; None for a category.
        center, spread: by which a number is centred and scaled.
        levels: log of the factor at each level of a category.
        channels: channels in which it matters; empty for all.
    """

    __pydantic_config__ = _STRICT

    column: str
    slope: Uncertain | None = None
    center: float = 0.0
    spread: float = 1.0
    levels: Mapping[str, Uncertain] = field(default_factory=dict)
    channels: Annotated[frozenset[Channel], _SORTED] = frozenset()


def moderator_level(level: object) -> str:
    """A level in lower case, each run of other characters than letters and digits as one underscore, without a plural s.

    >>> moderator_level("Early Adopters"), moderator_level(" Hematology/Oncology ")
    ('early_adopter', 'hematology_oncology')
    """
    return _level_of(str(level))


def moderator_form(level: str) -> tuple[str, ...]:
    """The forms in which a moderator may list a level: that of :func:`moderator_level`, and one that keeps letters of any alphabet.

    >>> moderator_form("Süd"), moderator_form("Early Adopters")
    (('s_d', 'süd'), ('early_adopter',))
    """
    return tuple(form for form in dict.fromkeys((_level_of(level), _own_letters(level))) if form)


@lru_cache(maxsize=1024)
def _level_of(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_").removesuffix("s")


@lru_cache(maxsize=1024)
def _own_letters(text: str) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", text.lower())).strip("_").removesuffix("s")


@dataclass(frozen=True)
class PastExperiment:
    """The result of an earlier experiment at the usual dose: effect and standard error, fractions on the target's scale."""

    __pydantic_config__ = _STRICT

    effect: float
    standard_error: float
    source: str = ""


@dataclass(frozen=True)
class Intervention:
    """Prior effect and dose response of one type of intervention.

    Attributes:
        name: type of the intervention in requests and results.
        label: its name on screens.
        effect: at the reference dose, as a fraction on the target's scale.
        channel: its own channel.
        source: origin of the numbers, shown with results.
        channels: log of the factor of each channel; exactly 0 for its own.
        half_contacts, half_weeks, half_intensity: dose of half the maximal response, in contacts over the whole duration, weeks,
            and intensity (1 is a usual contact).
        twin_types: whom it is for; empty for all.
        past_experiments: experiments that ``effect`` was pooled from; empty where it was given.
    """

    __pydantic_config__ = _STRICT

    name: str
    label: str
    effect: Uncertain
    channel: Channel
    source: str
    channels: Mapping[Channel, Uncertain]
    half_contacts: Positive = Positive(3.0, 0.4)
    half_weeks: Positive = Positive(4.0, 0.4)
    half_intensity: Positive = Positive(1.0, 0.4)
    twin_types: Annotated[frozenset[TwinType], _SORTED] = frozenset()
    past_experiments: tuple[PastExperiment, ...] = ()


def _uncalibrated(mean: float) -> Uncertain:
    return Uncertain(mean, UNCALIBRATED_SPREAD * mean)


_SOURCE = "base effect of the catalogue, not yet calibrated by a real experiment"
_FAR, _NEAR = Uncertain(-0.5, 0.25), Uncertain(-0.2, 0.2)


def _channels(own: Channel, near: tuple[Channel, ...]) -> Mapping[Channel, Uncertain]:
    return MappingProxyType({c: Uncertain(0.0, 0.0) if c is own else _NEAR if c in near else _FAR for c in Channel})


BUILT_IN_INTERVENTIONS: Mapping[str, Intervention] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Intervention(
                "email_campaign",
                "E-mail campaign",
                _uncalibrated(0.05),
                Channel.EMAIL,
                _SOURCE,
                _channels(Channel.EMAIL, (Channel.WEB, Channel.MAIL)),
            ),
            Intervention(
                "call_frequency_increase",
                "More representative visits",
                _uncalibrated(0.08),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.VIDEO, Channel.PHONE)),
            ),
            Intervention(
                "speaker_program_invitation",
                "Speaker program",
                _uncalibrated(0.12),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.VIDEO, Channel.EMAIL)),
            ),
            Intervention(
                "educational_content_share",
                "Educational content",
                _uncalibrated(0.06),
                Channel.WEB,
                _SOURCE,
                _channels(Channel.WEB, (Channel.EMAIL, Channel.VIDEO)),
            ),
            Intervention(
                "peer_to_peer_referral",
                "Peer referral",
                _uncalibrated(0.10),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.PHONE, Channel.VIDEO)),
            ),
        )
    }
)

_DIGITAL = frozenset({Channel.EMAIL, Channel.VIDEO, Channel.WEB})
_ONCOLOGY, _PRIMARY_CARE = Uncertain(0.10, 0.10), Uncertain(-0.10, 0.10)

BUILT_IN_MODERATORS: tuple[Moderator, ...] = (
    Moderator(
        "specialty",
        levels=MappingProxyType(
            {
                "oncology": _ONCOLOGY,
                "hematology": _ONCOLOGY,
                "hematology_oncology": _ONCOLOGY,
                "medical_oncology": _ONCOLOGY,
                "primary_care": _PRIMARY_CARE,
                "family_medicine": _PRIMARY_CARE,
                "family_practice": _PRIMARY_CARE,
                "general_practice": _PRIMARY_CARE,
                "internal_medicine": _PRIMARY_CARE,
            }
        ),
    ),
    Moderator("priority_tier", slope=Uncertain(-0.08, 0.05), center=3.0, spread=1.0),
    Moderator("decile", slope=Uncertain(0.05, 0.05), center=5.5, spread=2.9),
    Moderator("average_hcp_decile", slope=Uncertain(0.05, 0.05), center=5.5, spread=2.9),
    Moderator(
        "region",
        levels=MappingProxyType(
            {"urban": Uncertain(0.05, 0.05), "suburban": Uncertain(0.0, 0.05), "rural": Uncertain(-0.10, 0.08)}
        ),
    ),
    Moderator("urban_rural_mix", slope=Uncertain(0.05, 0.05), center=0.6, spread=0.25),
    Moderator(
        "adoption_stage",
        # Averages to 0 over the shares of Rogers (Diffusion of Innovations): 2.5, 13.5, 34, 34 and 16 %.
        levels=MappingProxyType(
            {
                "innovator": Uncertain(0.25, 0.10),
                "early_adopter": Uncertain(0.17, 0.08),
                "early_majority": Uncertain(0.05, 0.05),
                "late_majority": Uncertain(-0.05, 0.08),
                "laggard": Uncertain(-0.18, 0.12),
            }
        ),
    ),
    Moderator("digital_engagement_score", slope=Uncertain(0.08, 0.06), center=0.5, spread=0.25, channels=_DIGITAL),
)

INTERVENTIONS: Mapping[str, Intervention] = MappingView(lambda catalogue: catalogue.campaigns)
"""Interventions of the catalogue in effect, by name."""

MODERATORS = SequenceView[Moderator](lambda catalogue: catalogue.moderator_list)
"""Moderators of the catalogue in effect."""

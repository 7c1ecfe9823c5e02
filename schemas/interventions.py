"""The catalogue of interventions: what each is believed to do, where, how often, for how long, and to whom.

Effects are priors, not bare numbers: a mean and a standard deviation as a fraction on the target's own scale, at the entry's own
channel, monthly, for 12 weeks, at intensity 1. A new intervention is one entry here; the contract suite follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

__all__ = [
    "CONTACTS_A_MONTH",
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
    "Positive",
    "Uncertain",
]

UNCALIBRATED_SPREAD = 0.40
REFERENCE_WEEKS = 12
REFERENCE_INTENSITY = 1.0


class Channel(StrEnum):
    """How an intervention reaches people."""

    EMAIL = "email"
    PHONE = "phone"
    IN_PERSON = "in_person"
    VIDEO = "video"
    MAIL = "mail"
    WEB = "web"


class Frequency(StrEnum):
    """How often."""

    ONCE = "once"
    WEEKLY = "weekly"
    BIWEEKLY = "biweekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


REFERENCE_FREQUENCY = Frequency.MONTHLY

CONTACTS_A_MONTH: Mapping[Frequency, float] = MappingProxyType(
    {
        Frequency.ONCE: 0.0,
        Frequency.WEEKLY: 52 / 12,
        Frequency.BIWEEKLY: 26 / 12,
        Frequency.MONTHLY: 1.0,
        Frequency.QUARTERLY: 1 / 3,
    }
)
"""Contacts a month after the first; whatever the rate, a campaign makes at least one contact."""


@dataclass(frozen=True)
class Uncertain:
    """A quantity that is believed, not known: mean and standard deviation of a normal distribution."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Positive:
    """A positive quantity that is believed, not known: its median, and the standard deviation of its logarithm."""

    median: float
    spread: float


@dataclass(frozen=True)
class Moderator:
    """How a feature bends an effect: the log of the factor per ``spread`` of ``column``, or at a level of it.

    A number is centred by ``center`` first, a level that is not listed has the factor 1: the base effect is that of a twin at the
    centre of everything. Levels are compared in lower case, without a plural s.

    Attributes:
        channels: where it matters; empty: everywhere.
    """

    column: str
    slope: Uncertain | None = None
    center: float = 0.0
    spread: float = 1.0
    levels: Mapping[str, Uncertain] = field(default_factory=dict)
    channels: frozenset[Channel] = frozenset()


@dataclass(frozen=True)
class Intervention:
    """What a kind of intervention is believed to do.

    Attributes:
        effect: at the reference dose, as a fraction on the target's scale.
        channel: its own channel.
        source: where the numbers come from, for the reader of a result.
        channels: log of the factor of each channel; the own one is exactly 0.
        half_contacts, half_weeks, half_intensity: dose at which half of the greatest response is reached, in contacts over the
            whole duration, weeks, and strengths of a usual contact.
    """

    name: str
    label: str
    effect: Uncertain
    channel: Channel
    source: str
    channels: Mapping[Channel, Uncertain]
    half_contacts: Positive = Positive(3.0, 0.4)
    half_weeks: Positive = Positive(4.0, 0.4)
    half_intensity: Positive = Positive(1.0, 0.4)


def _believed(mean: float) -> Uncertain:
    return Uncertain(mean, UNCALIBRATED_SPREAD * mean)


_SOURCE = "base effect of the catalogue, not yet calibrated by a real experiment"
_FAR, _NEAR = Uncertain(-0.5, 0.25), Uncertain(-0.2, 0.2)


def _channels(own: Channel, near: tuple[Channel, ...]) -> Mapping[Channel, Uncertain]:
    return MappingProxyType({c: Uncertain(0.0, 0.0) if c is own else _NEAR if c in near else _FAR for c in Channel})


INTERVENTIONS: Mapping[str, Intervention] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Intervention(
                "email_campaign",
                "E-mail campaign",
                _believed(0.05),
                Channel.EMAIL,
                _SOURCE,
                _channels(Channel.EMAIL, (Channel.WEB, Channel.MAIL)),
            ),
            Intervention(
                "call_frequency_increase",
                "More representative visits",
                _believed(0.08),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.VIDEO, Channel.PHONE)),
            ),
            Intervention(
                "speaker_program_invitation",
                "Speaker program",
                _believed(0.12),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.VIDEO, Channel.EMAIL)),
            ),
            Intervention(
                "educational_content_share",
                "Educational content",
                _believed(0.06),
                Channel.WEB,
                _SOURCE,
                _channels(Channel.WEB, (Channel.EMAIL, Channel.VIDEO)),
            ),
            Intervention(
                "peer_to_peer_referral",
                "Peer referral",
                _believed(0.10),
                Channel.IN_PERSON,
                _SOURCE,
                _channels(Channel.IN_PERSON, (Channel.PHONE, Channel.VIDEO)),
            ),
        )
    }
)

_DIGITAL = frozenset({Channel.EMAIL, Channel.VIDEO, Channel.WEB})
_ONCOLOGY, _PRIMARY_CARE = Uncertain(0.10, 0.10), Uncertain(-0.10, 0.10)

MODERATORS: tuple[Moderator, ...] = (
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

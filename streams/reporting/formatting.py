"""Formats numbers, shares and times for people: one way for the page, the text reports and the command line.

Numbers, shares and times are in ASCII, so that a script can read them: a missing value is ``-``, and a negative number has a
hyphen-minus. The page shows both with :func:`typographic`. Every time is in UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from schemas import catalogue_in_effect, line_parts
from schemas.twin_types import dimension_of_other

__all__ = [
    "ago",
    "align_columns",
    "campaign_label",
    "change",
    "clock",
    "count",
    "effect",
    "in_utc",
    "labelled",
    "line_title",
    "metric_name",
    "moment",
    "number",
    "one_decimal",
    "plain_words",
    "segment_label",
    "share",
    "short_id",
    "signed_number",
    "signed_share",
    "signed_share_range",
    "span",
    "standard_error",
    "standard_error_share",
    "state_label",
    "typographic",
]

MISSING = "-"

_METRIC_NAMES = {"mae": "MAE", "rmse": "RMSE", "coverage_95pct": "coverage"}
_SECONDS_OF_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with ``digits`` significant digits; larger ones as a whole number with separators.

    >>> number(0.0512345), number(-0.5, 2), number(None), number(12345.6), number(1768.35, 3), number(3.14e88, 3)
    ('0.05123', '-0.5', '-', '12,346', '1,768', '3.14e+88')
    """
    return MISSING if value is None else _significant(value, digits)


def signed_number(value: float, digits: int = 4) -> str:
    """Format a difference with its sign.

    >>> signed_number(0.125), signed_number(-0.125)
    ('+0.125', '-0.125')
    """
    return _significant(value, digits, sign="+")


def count(value: float | None) -> str:
    """Format a count as a whole number with separators.

    >>> count(21_600), count(None)
    ('21,600', '-')
    """
    return MISSING if value is None else f"{value:,.0f}"


def standard_error(value: float | None) -> str:
    """Format a standard error with two significant digits.

    >>> standard_error(0.001234)
    '0.0012'
    """
    return number(value, 2)


def share(value: float | None) -> str:
    """Format a fraction as a percentage.

    >>> share(0.951), share(-0.012)
    ('95.1%', '-1.2%')
    """
    return MISSING if value is None else f"{value:.1%}"


def signed_share(value: float) -> str:
    """Format a fraction as a percentage with its sign.

    >>> signed_share(0.109)
    '+10.9%'
    """
    return f"{value:+.1%}"


def signed_share_range(lower: float, upper: float) -> str:
    """Format an interval of fractions as percentages with their signs.

    >>> signed_share_range(-0.012, 0.109)
    '-1.2% to +10.9%'
    """
    return f"{signed_share(lower)} to {signed_share(upper)}"


def effect(value: float, unit: str) -> str:
    """Format an effect with what it is a fraction of.

    >>> effect(0.109, "of last year's prescriptions")
    "+10.9% of last year's prescriptions"
    """
    return f"{signed_share(value)} {unit}".rstrip()


def standard_error_share(value: float | None) -> str:
    """Format the standard error of a fraction as a percentage with two significant digits.

    >>> standard_error_share(0.001234)
    '0.12%'
    """
    return MISSING if value is None else f"{_significant(100 * value, 2)}%"


def change(value: float | None, base: float | None) -> str:
    """Format the relative change from a base; empty where either is missing or the base is zero.

    >>> change(0.06, 0.05), change(0.06, None)
    ('+20.0%', '')
    """
    return "" if value is None or not base else signed_share(value / base - 1)


def moment(at: datetime | None) -> str:
    """Format a time with its date, to the second.

    >>> moment(datetime(2025, 3, 4, 12, tzinfo=UTC))
    '2025-03-04 12:00:00'
    """
    return MISSING if at is None else f"{in_utc(at):%Y-%m-%d %H:%M:%S}"


def clock(at: datetime | None) -> str:
    """Format the time of day, to the second."""
    return MISSING if at is None else f"{in_utc(at):%H:%M:%S}"


def in_utc(at: datetime) -> datetime:
    """A time in UTC; at the ends of the calendar, which Postgres returns without a zone, as it is written.

    >>> in_utc(datetime.min).isoformat()
    '0001-01-01T00:00:00+00:00'
    """
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (OverflowError, ValueError):
        return at.replace(tzinfo=UTC)


def ago(at: datetime | None, now: datetime) -> str:
    """Format the time that has passed, in the largest unit that fits.

    >>> ago(datetime(2025, 3, 4, 10, 15, tzinfo=UTC), datetime(2025, 3, 4, 12, tzinfo=UTC))
    '1 h ago'
    """
    if at is None:
        return MISSING
    seconds = max(0.0, (now - in_utc(at)).total_seconds())
    unit_s = next((unit_s for unit_s, _ in _SECONDS_OF_UNITS if seconds >= unit_s), 1)
    return f"{span(seconds // unit_s * unit_s)} ago"


def span(seconds: float) -> str:
    """Format a length of time in the largest unit that fits.

    >>> span(3600.0), span(15.0)
    ('1 h', '15 s')
    """
    unit_s, unit = next(((unit_s, unit) for unit_s, unit in _SECONDS_OF_UNITS if seconds >= unit_s), (1, "s"))
    return f"{seconds / unit_s:g} {unit}"


def one_decimal(value: float) -> str:
    """Format a length of time in the unit of its heading, with one decimal.

    >>> one_decimal(1234.56)
    '1,234.6'
    """
    return f"{value:,.1f}"


def line_title(line: str) -> str:
    """Format the name of a model line: its twin type and brand.

    >>> line_title("hcp:kisqali:prescribing_change")
    'HCP · Kisqali'
    """
    twin_type, brand, _ = line_parts(line)
    kind = twin_type.upper() if len(twin_type) <= 3 else twin_type.capitalize()
    return f"{kind} · {catalogue_in_effect().label_of(brand)}"


def campaign_label(name: object) -> str:
    """Name of a campaign on screens, that of the catalogue in effect; its own in words where this has no such campaign.

    >>> campaign_label("email_campaign"), campaign_label("sample_drop")
    ('E-mail campaign', 'sample drop')
    """
    campaign = catalogue_in_effect().campaigns.get(str(name))
    return campaign.label if campaign else plain_words(name)


def plain_words(name: object) -> str:
    """Format an identifier as words.

    >>> plain_words("do_not_deploy")
    'do not deploy'
    """
    return str(name).replace("_", " ")


def short_id(value: object) -> str:
    """The first eight characters of an id, as the command line accepts them."""
    return str(value)[:8]


def align_columns(rows: Sequence[Sequence[str]], numeric: Collection[int] = ()) -> list[str]:
    """Pad the cells of a table to the widest of their column, with two blanks between columns, and return a line for each row.

    Args:
        rows: the cells, with as many in each row.
        numeric: indices of the columns that are aligned to the right.

    Example:
        >>> align_columns([["segment", "n"], ["all", "1,200"]], numeric=[1])
        ['segment      n', 'all      1,200']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [
            cell.rjust(width) if index in numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return ["  ".join(cells).rstrip() for cells in aligned]


def labelled(label: str, lines: Sequence[str], width: int) -> list[str]:
    """Lines below each other, indented, with a label of so many characters before the first one."""
    return [f"  {label if index == 0 else '':<{width}} {line}" for index, line in enumerate(lines)]


def segment_label(segment: str) -> str:
    """Format the name of a segment.

    >>> segment_label("region=south"), segment_label("region:other")
    ('region=south', 'region: all other values')
    """
    dimension = dimension_of_other(segment)
    return segment if dimension is None else f"{dimension}: all other values"


def metric_name(name: str) -> str:
    """Format the name of a metric.

    >>> metric_name("mae"), metric_name("coverage_95pct"), metric_name("correlation")
    ('MAE', 'coverage', 'correlation')
    """
    return _METRIC_NAMES.get(name) or plain_words(name)


def state_label(state: str) -> str:
    """Format a drift state.

    >>> state_label("alarm"), state_label("insufficient")
    ('alarm', 'insufficient data')
    """
    return "insufficient data" if state == "insufficient" else state


def typographic(text: str) -> str:
    """A formatted number as the page shows it: with a minus sign, and a dash where the value is missing.

    >>> typographic("-0.5") == "\N{MINUS SIGN}0.5", typographic("-") == "\N{EN DASH}"
    (True, True)
    """
    return "\N{EN DASH}" if text == MISSING else text.replace("-", "\N{MINUS SIGN}")


def _significant(value: float, digits: int, sign: str = "") -> str:
    """A number with so many significant digits; from a thousand on as a whole number, and with an exponent beyond a trillion."""
    is_whole = min(10**digits, 1000) <= abs(float(f"{value:.{digits}g}")) < 1e12
    return f"{value:{sign},.0f}" if is_whole else f"{value:{sign}.{digits}g}"

"""How a number is written in a file, for texts that may mean one."""

from __future__ import annotations

__all__ = ["number_advice"]


def number_advice(text: str) -> str:
    """How a number is written that a text may mean.

    >>> number_advice("8%"), number_advice("0,02")
    ('write 0.08, a fraction', 'write 0.02, with a point for decimals')
    """
    percent = text.strip().removesuffix("%").strip().replace(",", ".")
    try:
        number = float(percent)
    except ValueError:
        return "a number is written with digits and a point for decimals, such as 0.05"
    if text.strip().endswith("%"):
        return f"write {number / 100:.10g}, a fraction"
    return f"write {number:.10g}, with a point for decimals"

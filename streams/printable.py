"""Makes text from outside safe to show: control characters become visible, and passwords in addresses are hidden.

So no id or reason forges a line of a log or commands a terminal, and no error of a client library shows the password of its server.
"""

from __future__ import annotations

import re

__all__ = ["escape_line", "escape_text", "hide_passwords"]

_C0_C1 = r"\x00-\x08\x0b-\x1f\x7f-\x9f"
_INVISIBLE = r"\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f"
_CONTROLS = re.compile(f"[{_C0_C1}{_INVISIBLE}]")
_CONTROLS_AND_BREAKS = re.compile(f"[\\t\\n{_C0_C1}{_INVISIBLE}]")


_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/]*@")


def hide_passwords(text: str) -> str:
    """Text with three stars in place of every password that is part of an address.

    >>> hide_passwords("no answer from http://ann:secret@mlflow:5000/api")
    'no answer from http://ann:***@mlflow:5000/api'
    """
    return _PASSWORD.sub(r"\1:***@", text)


def escape_line(text: str) -> str:
    r"""Text as one line: control characters, line breaks and marks that change the direction of writing are written as escapes.

    >>> escape_line("id\n2026 INFO forged \x1b[2J")
    'id\\n2026 INFO forged \\x1b[2J'
    """
    return _CONTROLS_AND_BREAKS.sub(_escape, text)


def escape_text(text: str) -> str:
    r"""Text of several lines: the same but for line breaks and tabs.

    >>> escape_text("first\nsecond \u202e")
    'first\nsecond \\u202e'
    """
    return _CONTROLS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode()

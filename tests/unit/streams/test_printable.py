"""Control characters in text from outside become visible, and nothing else changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.printable import escape_line, escape_text, hide_passwords

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("character", "escape"),
    [
        ("\x1b", r"\x1b"),
        ("\x7f", r"\x7f"),
        ("\x9b", r"\x9b"),
        ("\r", r"\r"),
        ("\u2028", r"\u2028"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_a_control_character_is_written_as_an_escape(character: str, escape: str):
    assert escape_line(f"a{character}b") == escape_text(f"a{character}b") == f"a{escape}b"


def test_breaks_of_lines_are_left_in_a_text_and_escaped_in_a_line():
    assert escape_text("a\n\tb") == "a\n\tb"
    assert escape_line("a\n\tb") == r"a\n\tb"


@given(st.text())
def test_an_escaped_text_holds_no_control_character_and_can_be_encoded(text: str):
    for escaped in (escape_line(text), escape_text(text)):
        assert not CONTROLS.search(escaped)
        escaped.encode()
    assert len(escape_line(text).splitlines()) <= 1


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_printable_text_stays_as_it_is(text: str):
    assert escape_line(text) == escape_text(text) == text


@pytest.mark.parametrize(("text", "shown"), [
    ("postgresql://service:hunter2@db:5432/twins", "postgresql://service:***@db:5432/twins"),
    ("no answer from http://:hunter2@mlflow/api, nor https://a:hunter2@b", "no answer from http://:***@mlflow/api, nor https://a:***@b"),
    ("with an @ in it: http://a:hunter@2@mlflow", "with an @ in it: http://a:***@mlflow"),
    ("http://mlflow:5000/a@b and ann@example.net: 12:30", "http://mlflow:5000/a@b and ann@example.net: 12:30"),
])  # fmt: skip
def test_passwords_in_addresses_are_hidden_and_other_text_stays(text: str, shown: str):
    assert hide_passwords(text) == shown

"""An id is found in every form that is said to be looked for, in a time in proportion to the text, and nothing else is."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.readings import base64_needles, spellings
from schemas.redaction import ERASED, ERASED_VALUE, names_entity, redact, replace_entity, texts_in

ID = "José Ruíz-7"


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def in_base64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


FORMS: dict[str, Callable[[str], bytes]] = {
    "NFC": lambda text: text.encode(),
    "NFD": lambda text: nfd(text).encode(),
    "Latin-1": lambda text: text.encode("latin-1"),
    "URL": lambda text: quote(text).encode(),
    "URL of NFD": lambda text: quote(nfd(text)).encode(),
    "URL in small letters": lambda text: quote(text).lower().replace("jos", "Jos").replace("ru", "Ru").encode(),
    "URL twice": lambda text: quote(quote(text)).encode(),
    "URL of a form": lambda text: quote_plus(text).encode(),
    "URL of Latin-1": lambda text: quote(text, encoding="latin-1").encode(),
    "URL of every character": lambda text: "".join(f"%{octet:02X}" for octet in text.encode()).encode(),
    "base64": lambda text: in_base64(text.encode()),
    "base64 of NFD": lambda text: in_base64(nfd(text).encode()),
    "base64 of Latin-1": lambda text: in_base64(text.encode("latin-1")),
    "base64 of UTF-16": lambda text: in_base64(text.encode("utf-16-le")),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(f"??>>~{text}~?".encode()).rstrip(b"="),
    "base64 of JSON": lambda text: in_base64(json.dumps({"a": {"entity_id": text}}).encode()),
    "base64 of more, first position": lambda text: in_base64(f"a: {text}; and so on".encode()),
    "base64 of more, second position": lambda text: in_base64(f"ab: {text}; and so on".encode()),
    "base64 of more, third position": lambda text: in_base64(f"abc: {text}; and so on".encode()),
    "escapes": lambda text: json.dumps(json.dumps(text)).encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "place",
    [b"%b", b"{broken, %b|", b"x/%b/y", b'["a", "%b"]', b'{"deep": [{"note": "see %b, or ask"}]}'],
    ids=["alone", "in broken JSON", "in a path", "in an array", "in an object"],
)
def test_an_id_is_found_in_every_form(form: str, place: bytes):
    value = place.replace(b"%b", FORMS[form](ID))

    redacted = redact(value, names_entity(ID))

    assert redacted != value
    assert redact(redacted, names_entity(ID)) is redacted
    assert ERASED.encode() in (redacted or b"")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("before", [b"", b"\1", b"\0\3\7"])
def test_an_id_is_found_in_utf_16_at_any_position(before: bytes, encoding: str):
    for text, is_named in ((ID, True), (f"a: {ID}; b", True), (nfd(ID), True), (f"{ID}7", False), (f"x{ID}", False)):
        value = before + text.encode(encoding)
        assert (redact(value, names_entity(ID)) == ERASED_VALUE) == is_named


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_the_id_is_not_found_in_any_form(form: str):
    for other in ("José Ruíz-77", "Jose Ruiz-7", "María-7", "xJosé Ruíz-7"):
        value = b"{broken, " + FORMS[form](other)
        assert redact(value, names_entity(ID)) is value


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form not in ("base64 of Latin-1", "base64 of UTF-16", "base64 for URLs")]
)
def test_what_arrives_later_is_read_in_the_same_forms(form: str):
    """Of an erased id only hashes are stored, of every spelling: the texts of a record have to hold one of them."""
    texts = texts_in(b"{broken; " + FORMS[form]("José-7"))
    assert not texts.isdisjoint(spellings("José-7"))


def test_an_accent_makes_another_id():
    for text in ("José", nfd("José")):
        assert not names_entity("Jose")(text)
        assert not names_entity("Ruíz")(nfd("Ruízá"))


def test_a_text_with_an_encoded_id_is_replaced_as_a_whole_and_a_written_one_in_its_place():
    value = {"a": f"ask {nfd(ID)} or me", "b": f"q={quote(ID)}", "c": base64.b64encode(ID.encode()).decode(), "d": "José Ruíz"}

    assert replace_entity(value, ID) == {"a": f"ask {ERASED} or me", "b": ERASED, "c": ERASED, "d": "José Ruíz"}


@given(st.binary(max_size=8), st.binary(max_size=8), st.text(min_size=4, max_size=12))
@example(b"\0", b"", "~~~~")
def test_every_base64_of_bytes_with_an_id_has_a_needle_of_it(before: bytes, after: bytes, entity: str):
    entity = entity.encode(errors="ignore").decode()
    if len(entity.encode()) < 4:
        return
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(before + entity.encode() + after).decode()
        assert any(needle in text for needle in base64_needles(entity))


def test_random_base64_is_no_person():
    value = in_base64(bytes(range(256)) * 4000)

    assert redact(value, names_entity("hcp-7")) is value


@pytest.mark.parametrize(
    "piece",
    [b"%25", b"%", b"%41", b"+", b"%2525", b"aGNwLTc ", b"aGNwLTc", b"aGNwLT", b"\\u0025" * 2, b"/", b"\xe9", b"\0h"],
    ids=repr,
)
def test_texts_that_are_made_to_be_slow_are_read_in_few_steps(piece: bytes):
    """A megabyte of anything takes a second or two; a step for each pair of characters would take hours."""
    value = b"{" + piece * (1_000_000 // len(piece))

    redact(value, names_entity("hcp-7"))
    redact(json.dumps({"a": value.decode("latin-1")}).encode(), names_entity(ID))
    texts_in(value)


def test_a_value_with_an_encoded_id_leaves_nothing():
    assert redact(b"note=" + quote(ID).encode(), names_entity(ID)) == ERASED_VALUE

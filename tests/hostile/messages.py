"""Draws hostile records from a seed: each starts as a valid event of its topic and is then damaged in one way.

Equal seeds give equal records. A record that stays valid by chance is allowed: the service must store, answer, refuse or park each.
No record is a well-formed forgery of the service's own sums, because such a one cannot be told from a real one; write access to
internal topics prevents it.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schemas.events import SUM_FIELDS

__all__ = ["DAMAGES", "TEMPLATES", "HostileRecord", "hostile_records"]

Body = dict[str, Any]
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class HostileRecord:
    """A record to publish.

    Attributes:
        kind: name of the damage.
        compression: codec of its batch; null for none.
    """

    kind: str
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    compression: str | None = None


# -- valid events, one template for each topic


def _outcome(rng: random.Random) -> Body:
    return {
        "event_id": _uuid(rng),
        "observed_at": "2026-03-02T08:00:00Z",
        "twin_type": "hcp",
        "brand": rng.choice(["kisqali", "fabhalta", "remibrutinib"]),
        "metric_type": "prescribing_change",
        "actual_value": round(rng.gauss(0, 1), 4),
        "predicted_value": round(rng.gauss(0, 1), 4),
        "segment": {"region": rng.choice(["west", "east"])},
    }


def _request(rng: random.Random) -> Body:
    return {
        "simulation_id": _uuid(rng),
        "requested_at": "2026-03-02T08:00:00Z",
        "twin_type": "hcp",
        "brand": "kisqali",
        "intervention": _intervention(rng),
        "twin_count": 100,
        "filters": {"min_decile": 3},
    }


def _intervention(rng: random.Random) -> Body:
    return {
        "intervention_type": rng.choice(["email_campaign", "speaker_program_invitation"]),
        "channel": "email",
        "frequency": "monthly",
        "duration_weeks": 12,
    }


def _experiment(rng: random.Random) -> Body:
    return {
        "experiment_id": f"trial {rng.getrandbits(32)}",
        "observed_at": "2026-03-02T08:00:00Z",
        "twin_type": "hcp",
        "brand": "kisqali",
        "intervention": _intervention(rng),
        "effect": 0.04,
        "standard_error": 0.02,
        "n_treated": 200,
        "n_control": 200,
    }


def _sums(rng: random.Random) -> Body:
    """Sums of a model that does not exist."""
    row = {
        "model_id": _uuid(rng),
        "segment": "all",
        "pane": 1.7e9,
        "width_s": 60.0,
        "version": 1,
        "last_offset": 7,
        "sums": [1] * len(SUM_FIELDS),
    }
    source = {"topic": "outcome-events", "partition": rng.randrange(4), "incarnation": 0}
    return {"line": "hcp:kisqali:prescribing_change", "source": source, "watermark": "2026-03-02T08:00:00Z", "rows": [row]}


def _retrain(rng: random.Random) -> Body:
    """A retrain of a model that does not exist."""
    return {
        "retrain_id": _uuid(rng),
        "line": "hcp:kisqali:prescribing_change",
        "model_id": _uuid(rng),
        "attempt": 0,
        "requested_at": "2026-03-02T08:00:00Z",
        "cause": "drift",
        "reason": "MAE 0.25 is above 0.14",
    }


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _training(rng: random.Random) -> Body:
    """A training on a table that does not exist."""
    columns = {"entity_id": {"column": "NPI"}, "decile": {"column": "Decile"}, "prescribing_change": {"column": "TRx Chg"}}
    return {
        "training_id": _uuid(rng),
        "requested_at": "2026-03-02T08:00:00Z",
        "table_id": _uuid(rng),
        "twin_type": "hcp",
        "brand": "kisqali",
        "mapping": {"name": "acme", "twin_type": "hcp", "columns": columns},
    }


TEMPLATES: Mapping[str, Callable[[random.Random], Body]] = {
    "outcome-events": _outcome,
    "simulation-requests": _request,
    "experiment-results": _experiment,
    "fidelity-errors": _sums,
    "retrain-events": _retrain,
    "training-requests": _training,
}
"""A valid event of each topic that the service reads."""

_WEIGHTS = (12, 4, 2, 3, 3, 1)
_OWN_TOPICS = ("simulation-results", "fidelity-windows", "drift-events", "model-events", "effect-priors", "dead-letters")
"""Topics that only the service writes; programs of operators read them."""
_COMPACTED = ("model-events", "effect-priors")


# -- damages: each turns the body of a valid event into bytes


def _random_bytes(rng: random.Random, _body: Body) -> bytes | None:
    return rng.randbytes(rng.randrange(1, 300))


def _flipped_bits(rng: random.Random, body: Body) -> bytes | None:
    octets = bytearray(_json(body))
    for _ in range(rng.randrange(1, 5)):
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
    return bytes(octets)


def _cut_short(rng: random.Random, body: Body) -> bytes | None:
    octets = _json(body)
    return octets[: rng.randrange(len(octets))]


def _no_value(_rng: random.Random, _body: Body) -> bytes | None:
    return None


def _other_encoding(rng: random.Random, body: Body) -> bytes | None:
    return _json(body).decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"]))


def _other_json(rng: random.Random, _body: Body) -> bytes | None:
    return rng.choice(
        [b"null", b"true", b"12", b"-0.0", b'"text"', b"[]", b"{}", b"[[]]", b"[null]", b"[1, 2]", b"NaN", b'{"a"', b" "]
    )


def _missing_field(rng: random.Random, body: Body) -> bytes | None:
    return _json({name: value for name, value in body.items() if name != rng.choice(list(body))})


def _unknown_field(rng: random.Random, body: Body) -> bytes | None:
    return _json(body | {rng.choice(["weather", "", "\0", "__class__", "schema_version", "a" * 5000]): rng.choice(_VALUES)})


def _hostile_value(rng: random.Random, body: Body) -> bytes | None:
    return _json(body | {rng.choice(list(body)): rng.choice(_VALUES)})


def _hostile_literal(rng: random.Random, body: Body) -> bytes | None:
    """A field with a literal that Python's encoder would not write."""
    marked = _json(body | {rng.choice(list(body)): "MARK"})
    return marked.replace(b'"MARK"', rng.choice(_LITERALS))


def _deep(rng: random.Random, body: Body) -> bytes | None:
    depth = rng.choice([40, 300, 20_000])
    nested = rng.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth])
    return rng.choice([nested, _json(body | {rng.choice(list(body)): "MARK"}).replace(b'"MARK"', nested)])


def _repeated_keys(rng: random.Random, body: Body) -> bytes | None:
    name = rng.choice(list(body))
    return _json(body)[:-1] + b", " + _json({name: rng.choice(_VALUES)})[1:]


def _many_elements(rng: random.Random, body: Body) -> bytes | None:
    element = rng.choice([b"null", b"1", b"{}", b"[]", _json({"event_id": "x"}), _json(body)])
    return b"[" + b",".join([element] * rng.choice([2, 10, 10, 200])) + b"]"


def _long_text(rng: random.Random, body: Body) -> bytes | None:
    return _json(body | {rng.choice(list(body)): rng.choice("aü\U0001f600") * rng.choice([300, 300, 5000, 5000, 100_000])})


def _other_event(rng: random.Random, _body: Body) -> bytes | None:
    return _json(TEMPLATES[rng.choice(list(TEMPLATES))](rng))


def _nested_value(rng: random.Random, body: Body) -> bytes | None:
    """A hostile value in the place of a value at any depth."""
    *path, last = rng.choice(list(_paths(body)))
    copy = json.loads(_json(body))
    parent = copy
    for step in path:
        parent = parent[step]
    parent[last] = rng.choice(_VALUES)
    return _json(copy)


def _other_type(rng: random.Random, body: Body) -> bytes | None:
    """A value written as another type: a number as a text, an id as an object, a text as an array."""
    name = rng.choice(list(body))
    value = body[name]
    return _json(body | {name: rng.choice([str(value), [value], {"value": value}, {"$oid": value}, _json({"a": value}).decode()])})


def _absurd_time(rng: random.Random, body: Body) -> bytes | None:
    times = [name for name in ("observed_at", "requested_at", "watermark") if name in body]
    return _json(body | {rng.choice(times): rng.choice(_TIMES)})


def _other_spelling(rng: random.Random, body: Body) -> bytes | None:
    """Names of fields as other systems write them."""
    spell = rng.choice([str.upper, str.title, lambda name: f" {name}", lambda name: f"{name}\u200b", _camel_case])
    name = rng.choice(list(body))
    return _json({spell(other) if other == name else other: value for other, value in body.items()})


def _other_format(rng: random.Random, body: Body) -> bytes | None:
    """The event in a format that is no JSON, or in several documents."""
    text = _json(body)
    return rng.choice(
        [
            b"\0" + rng.randrange(2**32).to_bytes(4) + rng.randbytes(60),  # Avro as schema registries frame it
            b"\0" + rng.randrange(2**32).to_bytes(4) + text,
            b"".join(b"%c%c%b" % (10, len(part), part) for part in (b"hcp", b"kisqali", rng.randbytes(20))),  # Protocol Buffers
            b"\x82\xa8event_id\xc4\x10" + rng.randbytes(16) + b"\xa4left\xc0",  # MessagePack
            b"\xd9\xd9\xf7\xa1aa" + rng.randbytes(8),  # CBOR
            gzip.compress(text, mtime=0),
            base64.b64encode(text),
            _json({"text": text.decode()})[9:-1],  # JSON as a text of JSON
            text + b"\n" + text,
            text + b"\0" * 20,
            text + b"garbage",
            b"\x1e" + text,
            text.replace(b'"', b"'"),
            text[:-1] + b",}",
            text + b" // a comment",
            b"<event>" + text + b"</event>",
            ",".join(map(str, body.values())).encode(),
            "&".join(f"{name}={value}" for name, value in body.items()).encode(),
        ]
    )


def _envelope(rng: random.Random, body: Body) -> bytes | None:
    """The event inside of what connectors and CloudEvents in structured mode put around it."""
    return rng.choice(
        [
            _json({"specversion": "1.0", "id": "1", "source": "/x", "type": "x", "data": body}),
            _json({"schema": {"type": "struct", "fields": []}, "payload": body}),
            _json({"before": None, "after": body, "op": "c", "ts_ms": 1}),
            _json({"data": [body]}),
            _json({"simulation_id": body.get("simulation_id"), "event": body}),
        ]
    )


def _blanks(rng: random.Random, body: Body) -> bytes | None:
    return b" " * rng.choice([10, 10_000, 10_000, 300_000]) + _json(body) + b"\n" * rng.choice([1, 1000])


DAMAGES: Mapping[str, Callable[[random.Random, Body], bytes | None]] = {
    damage.__name__.strip("_").replace("_", " "): damage
    for damage in (
        _random_bytes,
        _flipped_bits,
        _cut_short,
        _no_value,
        _other_encoding,
        _other_json,
        _missing_field,
        _unknown_field,
        _hostile_value,
        _hostile_literal,
        _deep,
        _repeated_keys,
        _many_elements,
        _long_text,
        _other_event,
        _nested_value,
        _other_type,
        _absurd_time,
        _other_spelling,
        _other_format,
        _envelope,
        _blanks,
    )
}
"""Ways to damage an event, by their names."""

_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    10**40,
    10**310,
    -0.0,
    5e-324,
    1.7e308,
    "",
    " ",
    "\0",
    "a\nERROR forged line",
    "\x1b[2J\x1b]0;title\x07",
    "\u202etxt",
    "\u2028",
    "<script>alert(1)</script>",
    "'; DROP TABLE fidelity_tracking; --",
    "\udcff",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999Z",
    "2026-02-30T00:00:00Z",
    "-1e9",
    "00000000-0000-0000-0000-000000000000",
    "../../etc/passwd",
    [],
    {},
    [[]],
    ["hcp"],
    {"a": {"b": {"c": []}}},
    {"region": "\0"},
    {"min_decile": 18446744073709551616},
    {"region": ["west"] * 500},
    {"": ""},
)
_OTHER_JSON = (b"null", b"true", b"12", b"-0.0", b'"text"', b"[]", b"{}", b"[[]]", b"[null]", b"[1, 2]", b"NaN", b'{"a"', b" ")
_LITERALS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"0x10",
    b"1_000",
    b"01",
    b"+1",
    b"'a'",
    b"9" * 5000,
    b'"\\ud800"',
    b'"\xff"',
    b'"a\tb"',
)

_TIMES: tuple[Any, ...] = (
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "1899-12-31T23:59:59Z",
    "1969-12-31T23:59:59.999999999Z",
    "2016-12-31T23:59:60Z",
    "2026-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-03-02T24:00:00Z",
    "2026-03-02T25:61:61Z",
    "2026-03-02T08:00:00+99:99",
    "2026-03-02T08:00:00-23:59",
    "2026-03-02T08:00:00+14:00",
    "2026-03-02T08:00:00",
    "2026-03-02",
    "2026-W10-1",
    "2026-061",
    "02/03/2026 08:00",
    "Mon, 02 Mar 2026 08:00:00 GMT",
    "\u0662\u0660\u0662\u0666-03-02T08:00:00Z",
    "2026-03-02T08:00:00Z\0",
    "now",
    "NaT",
    "9999-12-31T23:59:59.999999-14:00",
    "10000-01-01T00:00:00Z",
    0,
    -1,
    1.5e9,
    1_700_000_000_000,
    1e18,
    -(2**63),
    10**300,
    {"$date": 1},
)

_KEYS = (None, b"", b"key", b"\xff\x00", b"hcp:kisqali:prescribing_change", b"k" * 10_000)
_HEADERS: tuple[Headers, ...] = (
    (),
    (),
    (("ce_id", None),),
    (("ce_type", b"\xff"), ("ce_type", b"again")),
    (("", b""),),
    (("name\nforged", b"value"),),
    (("twin_attempt", b"99999999999999"), ("twin_refusal_id", b"x"), ("twin_replay_of", b"\0")),
    tuple((f"h{number}", b"v") for number in range(300)),
)
_COMPRESSIONS = (None, None, "gzip", "snappy", "lz4", "zstd")


def hostile_records(seed: int, count: int) -> Iterator[HostileRecord]:
    """Draw ``count`` records; every damage and every topic occurs in a few hundred of them."""
    rng = random.Random(seed)
    names, topics = list(DAMAGES), list(TEMPLATES)
    for _ in range(count):
        kind, (topic,) = rng.choice(names), rng.choices(topics, _WEIGHTS)
        value = DAMAGES[kind](rng, TEMPLATES[topic](rng))
        if rng.random() < 0.05:
            topic, value = rng.choice(_OWN_TOPICS), rng.choice([value, value, None])
        key = rng.choice(_KEYS)
        if key is None and (value is None or topic in _COMPACTED):
            key = b""  # aiokafka sends no record without both, and the broker compacts no record without a key
        yield HostileRecord(kind, topic, key, value, rng.choice(_HEADERS), rng.choice(_COMPRESSIONS))


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside of a value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield from _paths(inner, (*path, step))


def _json(body: Body) -> bytes:
    return json.dumps(body, allow_nan=False, ensure_ascii=True).encode()

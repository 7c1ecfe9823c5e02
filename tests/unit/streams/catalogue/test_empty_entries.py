"""Null takes an entry out of a catalogue file; a null that takes nothing out is an entry without fields, and refused."""

from __future__ import annotations

import json

import pytest

from schemas import BUILT_IN
from schemas.catalogue_deletions import ENTRIES
from streams.catalogue import CatalogueFileError, catalogue_schema, parse_catalogue

NAMES = {"campaigns": "email_campaign", "moderators": "specialty", "twin_types": "hcp", "targets": "prescribing_change"}
OTHERS = {"levels": "region", "brands": "kisqali", "lines": "hcp:kisqali:prescribing_change"}


def path_of(place: tuple[str, ...]) -> list[str]:
    """A path of entries that the built-in catalogue has, or may have, with the name of one that it has not."""
    steps: list[str] = []
    for step in place:
        steps.append((NAMES | OTHERS)[steps[-1]] if step == "*" else step)
    return [*steps, "not_there"]


@pytest.mark.parametrize("place", ENTRIES, ids=".".join)
def test_a_null_that_takes_nothing_out_is_refused_where_it_stands(place):
    path = path_of(place)
    text = "".join(f"{'  ' * depth}{json.dumps(step)}:\n" for depth, step in enumerate(path))
    with pytest.raises(CatalogueFileError) as refused:
        parse_catalogue(text, "own.yaml")
    where = f"own.yaml:{len(path)}:{2 * len(path) - 1}: {'.'.join(path)}: there is no 'not_there' that null could take out"
    (line,) = [line for line in str(refused.value).splitlines() if where in line]
    assert "to add it write not_there: " in line


def schema_places(schema, root, path=()):
    """Places of the published schema that have entries by any name."""
    for choice in schema.get("anyOf", [schema]):
        resolved = root["$defs"][choice["$ref"].rsplit("/", 1)[-1]] if "$ref" in choice else choice
        for name, field in resolved.get("properties", {}).items():
            yield from schema_places(field, root, (*path, name))
        entries = [*resolved.get("patternProperties", {}).values(), resolved.get("additionalProperties")]
        for entry in (entry for entry in entries if isinstance(entry, dict)):
            yield path
            yield from schema_places(entry, root, (*path, "*"))


def test_every_place_with_entries_by_name_is_known():
    schema = catalogue_schema()
    assert {*schema_places(schema, schema)} == {*ENTRIES}


def test_what_to_write_is_told_with_the_name_that_may_be_meant():
    with pytest.raises(
        CatalogueFileError, match=r"brands.acme_two: .* write acme_two: \{label: Acme two\}, else leave the line out"
    ):
        parse_catalogue("brands:\n  acme_two:\n")
    with pytest.raises(CatalogueFileError, match="that null could take out: did you mean 'kisqali'"):
        parse_catalogue("brands:\n  kiskali:\n")
    with pytest.raises(ValueError, match=r"brands.acme: there is no 'acme' that null could take out"):
        BUILT_IN.with_entries({"brands": {"acme": None}})


def test_a_null_that_takes_something_out_does_so():
    assert "kisqali" not in parse_catalogue("brands:\n  kisqali:\n").brands
    assert parse_catalogue("brands:\n").brands == BUILT_IN.brands
    own = BUILT_IN.with_entries({"brands": {"acme": {}}})
    assert own.with_entries({"brands": {"acme": None}}) == BUILT_IN

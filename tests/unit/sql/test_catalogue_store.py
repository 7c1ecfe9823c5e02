"""Versions of the catalogue on a real PostgreSQL: only added, followed, and refused where they would break what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from schemas import BUILT_IN, Catalogue, catalogue_in_effect
from schemas.catalogue import laid_over
from schemas.events import SUM_FIELDS
from sql.catalogue_store import UnknownVersion, apply_version, catalogue_history, catalogues_at, follow_catalogue
from sql.catalogue_uses import CatalogueInUse, refuse_breaking
from sql.database import Pool, connect
from sql.pin_store import pin
from sql.simulation_store import find_runs
from tests.unit.sql.test_simulation_store import BODY, LINE, a_request, promoted, recipe


def make(fields) -> Catalogue:
    return Catalogue.model_validate(laid_over(fields))


def brand(name: str) -> Catalogue:
    return make({"brands": {name: {}}})


@pytest.fixture
async def owner(owned_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the owner of the tables, who may do what the service may not."""
    connection = await connect(owned_database)
    yield connection
    await connection.close()


async def test_without_a_version_the_built_in_catalogue_is_in_effect(pool: Pool) -> None:
    assert await follow_catalogue(pool) is BUILT_IN
    assert (await catalogues_at(pool, [0])) == {0: BUILT_IN}
    assert await catalogue_history(pool) == []


async def test_the_newest_version_is_followed_and_every_version_stays(pool: Pool) -> None:
    first = await apply_version(pool, brand("alpha"), applied_by="ana@desk", reason="ours")
    assert (first.version, first.sha256, first.applied_by, first.reason) == (1, brand("alpha").sha256, "ana@desk", "ours")
    assert "alpha" in (await follow_catalogue(pool)).brands
    await apply_version(pool, brand("beta"), applied_by="ben@desk")
    followed = await follow_catalogue(pool)
    assert (followed.version, "beta" in followed.brands) == (2, True)
    assert catalogue_in_effect() is followed
    assert {version: list(item.brands)[-1] for version, item in (await catalogues_at(pool, [0, 1, 2])).items()} == {
        0: "kisqali",
        1: "alpha",
        2: "beta",
    }
    assert [item.version for item in await catalogue_history(pool)] == [2, 1]


async def test_the_catalogue_in_effect_is_no_new_version(pool: Pool) -> None:
    assert await apply_version(pool, BUILT_IN, applied_by="ana@desk") is None
    await apply_version(pool, brand("alpha"), applied_by="ana@desk")
    assert await apply_version(pool, brand("alpha"), applied_by="ana@desk") is None
    back = await apply_version(pool, BUILT_IN, applied_by="ana@desk")
    assert back.version == 2
    assert (await follow_catalogue(pool)).sha256 == BUILT_IN.sha256


async def test_versions_applied_at_the_same_time_are_one_after_the_other(pool: Pool) -> None:
    applied = await asyncio.gather(*(apply_version(pool, brand(f"brand_{n}"), applied_by="ana@desk") for n in range(4)))
    assert sorted(item.version for item in applied) == [1, 2, 3, 4]


async def test_a_version_that_is_not_there_is_named(pool: Pool) -> None:
    with pytest.raises(UnknownVersion, match="there is no version 7 of the catalogue"):
        await catalogues_at(pool, [7])


async def test_the_order_of_entries_survives_the_database(pool: Pool) -> None:
    fields = {"campaigns": {name: {"channel": "mail", "effect": {"mean": 0.1, "sd": 0.1}} for name in ("zebra", "ape", "a")}}
    await apply_version(pool, make(fields), applied_by="ana@desk")
    assert list((await follow_catalogue(pool)).campaigns)[-3:] == ["zebra", "ape", "a"]


async def test_nobody_rewrites_a_version(pool: Pool, owner: asyncpg.Connection) -> None:
    await apply_version(pool, brand("alpha"), applied_by="ana@desk")
    for statement in (
        "UPDATE catalogue_versions SET content = ''",
        "DELETE FROM catalogue_versions",
        "TRUNCATE catalogue_versions",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await owner.execute(statement)


async def test_a_brand_that_is_no_name_is_refused_by_the_database_too(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval("SELECT 'acmezumab'::brand::text") == "acmezumab"
    for name in ("Acme", "", "a:b", "x" * 61):
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.fetchval("SELECT $1::text::brand", name)


async def test_a_run_is_read_under_the_version_that_it_was_pinned_to(pool: Pool) -> None:
    await promoted(pool)
    stronger = make({"campaigns": {"email_campaign": {"effect": {"mean": 0.2, "sd": 0.1}}}})
    await apply_version(pool, stronger, applied_by="ana@desk")
    await follow_catalogue(pool)
    request = a_request()
    pins = await pin(pool, request, BODY, recipe)
    assert pins.catalogue.version == 1
    await apply_version(pool, BUILT_IN, applied_by="ana@desk")
    await follow_catalogue(pool)
    again = (await find_runs(pool, [request.simulation_id]))[request.simulation_id]
    assert again.catalogue.campaigns["email_campaign"].effect.mean == 0.2
    stored = await pool.fetchval("SELECT catalogue_version FROM twin_populations")
    assert stored == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"brands": {"kisqali": None}}, f"the brand kisqali has the model line {LINE}: keep its entry"),
        (
            {"twin_types": {"hcp": {"targets": {"prescribing_change": {"direction": -1, "unit": "scripts"}}}}},
            "unit, direction of the target prescribing_change would change the meaning of the outcomes",
        ),
        ({"brands": {"fabhalta": None}}, ""),
        ({"campaigns": {"email_campaign": {"effect": {"mean": 0.2, "sd": 0.1}}}}, ""),
    ],
)
async def test_what_a_line_needs_cannot_be_taken_out(pool: Pool, fields, sentence: str) -> None:
    await promoted(pool)
    if not sentence:
        await refuse_breaking(pool, BUILT_IN, make(fields))
        return
    with pytest.raises(CatalogueInUse, match=sentence):
        await refuse_breaking(pool, BUILT_IN, make(fields))


async def test_a_segment_with_open_windows_cannot_be_taken_out_until_they_are_closed(pool: Pool, owner: asyncpg.Connection) -> None:
    await promoted(pool)
    without = make({"twin_types": {"hcp": {"segments": ["specialty"]}}})
    await refuse_breaking(pool, BUILT_IN, without)
    await owner.execute("INSERT INTO source_positions (source, topic, partition, incarnation) VALUES ('x:0:0', 'x', 0, 0)")
    insert = (
        f"INSERT INTO fidelity_panes (model_id, segment, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)})"
        " SELECT champion, 'region=south', extract(epoch FROM now()) - $2, 300, 'x:0:0', line, 0"
        f"{', 0' * len(SUM_FIELDS)} FROM model_lines WHERE line = $1"
    )
    await owner.execute(insert, LINE, 10_000_000.0)
    await refuse_breaking(pool, BUILT_IN, without)
    await owner.execute(insert, LINE, 10.0)
    with pytest.raises(CatalogueInUse, match=r"the segment region of hcp twins has open windows until 20..-..-.. ..:..:.. UTC"):
        await refuse_breaking(pool, BUILT_IN, without)


def feature(name: str, **fields) -> dict[str, object]:
    return {"twin_types": {"hcp": {"features": {name: fields}}}}


def plausible(low: float, high: float) -> dict[str, object]:
    target = {"plausible": {"low": low, "high": high}}
    return {"twin_types": {"hcp": {"targets": {"prescribing_change": target}}}}


@pytest.mark.parametrize(
    ("fields", "refused", "warned"),
    [
        (feature("decile", high=8), "2 of 10 stored values of decile of {line}, 1 to 10, lie beyond the bounds 1 to 8", ""),
        (feature("decile", low=2), "1 of 10 stored values of decile of {line}, 1 to 10, lies beyond the bounds 2 to 10", ""),
        (feature("decile", low=0, high=12), "", ""),
        (
            feature("decile", unit="tenth"),
            "the champion of {line} has learned decile in '{unit}', not in 'tenth': keep its unit",
            "",
        ),
        (feature("years_experience", high=3), "", ""),  # no row has it
        (plausible(-1, 0.35), "6 of 10 stored values of prescribing_change of {line}, 0 to 0.9, lie beyond the plausible", ""),
        (plausible(-1, 0.85), "", "1 of 10 stored values of prescribing_change of {line}, 0 to 0.9, lies beyond the plausible"),
        (plausible(-1, 0.95), "", ""),
        (plausible(-9, 9), "", ""),
    ],
)
async def test_ranges_and_units_that_learned_values_contradict_are_refused_or_told(pool: Pool, fields, refused, warned) -> None:
    await promoted(pool)
    unit = {"twin_types": {"hcp": {"features": {"decile": {"unit": "decile of volume"}}}}}
    before = make(unit)
    after = before.with_entries(fields)
    insert = """
    INSERT INTO entity_history (line, entity_id, observed_at, features, target, source)
    SELECT $1, 'e' || n, now(), jsonb_build_object('decile', n, 'years_experience', NULL), (n - 1) / 10.0, 'x'
    FROM generate_series(1, 10) n"""
    await pool.execute(insert, LINE)
    if refused:
        with pytest.raises(CatalogueInUse, match=refused.format(line=LINE, unit="decile of volume")):
            await refuse_breaking(pool, before, after)
        return
    told = await refuse_breaking(pool, before, after)
    assert [text.startswith(warned.format(line=LINE)) for text in told] == ([True] if warned else [])


async def test_ranges_of_features_that_no_champion_predicts_from_may_shrink(pool: Pool) -> None:
    await promoted(pool)
    assert (
        await refuse_breaking(pool, BUILT_IN, make({"twin_types": {"territory": {"features": {"total_hcps": {"high": 1}}}}})) == []
    )

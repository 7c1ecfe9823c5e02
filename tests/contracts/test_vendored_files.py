"""What others wrote and the pages contain: unchanged, with its licence beside it, and small enough to load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from streams.web import assets
from tests.accessibility import AXE

STATIC = Path(assets.__file__).parent / "static"
VENDORED = json.loads((STATIC / "vendor" / "vendored.json").read_text(encoding="utf-8"))
LIMIT_BYTES = 1_500_000


@pytest.mark.parametrize("package", VENDORED, ids=lambda package: package["package"])
def test_each_file_of_a_vendored_package_is_the_one_that_was_published(package):
    digests = {name: hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() for name in package["files"]}
    assert digests == package["files"]


def test_the_checker_of_accessibility_is_the_one_that_was_published():
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in AXE.iterdir()}
    assert digests == {
        "axe.min.js": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
        "LICENSE": "af175b9d96ee93c21a036152e1b905b0b95304d4ae8c2c921c7609100ba8df7e",
        "LICENSE-3RD-PARTY.txt": "4f8563870d0fca38bbc3e00b6f670cb7fa9f380ba9f26a7f7d1184a6b18b1653",
    }


def test_every_file_in_the_vendored_folder_is_declared():
    found = {str(path.relative_to(STATIC / "vendor")) for path in (STATIC / "vendor").rglob("*") if path.is_file()}
    assert found == {"vendored.json"}.union(*(package["files"] for package in VENDORED))


@pytest.mark.parametrize("package", VENDORED, ids=lambda package: package["package"])
def test_a_vendored_package_has_its_licence_and_notice_beside_it(package):
    folder = STATIC / "vendor" / f"{package['package']}-{package['version']}"
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "Apache ECharts" in (folder / "NOTICE").read_text(encoding="utf-8")
    assert "Redistribution and use" in (folder / "licenses" / "LICENSE-d3").read_text(encoding="utf-8")


def test_scripts_and_styles_of_a_page_are_less_than_a_megabyte_and_a_half():
    sizes = [len(assets.asset(name).content.encode()) for name in (*assets.STYLES, *assets.SCRIPTS, *assets.LIVE_SCRIPTS)]
    assert sum(sizes) < LIMIT_BYTES


def test_our_own_scripts_evaluate_nothing_and_write_no_markup():
    for name in (*assets.SCRIPTS, *assets.LIVE_SCRIPTS):
        if not name.startswith("vendor/"):
            text = assets.asset(name).content
            assert not any(word in text for word in ("eval(", "new Function", "innerHTML", "outerHTML", "document.write")), name


@pytest.mark.parametrize("name", [*assets.STYLES, *assets.SCRIPTS, *assets.LIVE_SCRIPTS])
def test_an_asset_can_be_part_of_a_page(name):
    text = assets.asset(name).content
    assert "</script" not in text
    assert "</style" not in text


def test_an_address_changes_with_its_content_and_leads_to_it():
    one, other = assets.Asset("page.css", "a"), assets.Asset("page.css", "b")
    assert one.address != other.address
    style = assets.asset("page.css")
    assert assets.find_asset(style.address) is style
    assert assets.find_asset(one.address) is None

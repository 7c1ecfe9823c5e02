"""Checks a page with axe-core: the rules of WCAG 2.2 AA, and the best practices that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page

__all__ = ["AXE", "violations"]

AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1"


async def violations(page: Page) -> list[str]:
    """What axe-core finds on the page, a line for each rule and element."""
    await page.evaluate((AXE / "axe.min.js").read_text(encoding="utf-8"))
    result: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {', '.join(str(node['target'][0]) for node in rule['nodes'][:3])}: {rule['help']}"
        for rule in result["violations"]
    ]

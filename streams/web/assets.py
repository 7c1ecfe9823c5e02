"""Scripts and styles of the pages: served under addresses that change with their content, or written into a file of its own.

A served page loads them from the service, so that its policy allows nothing else. A report is one file that opens without a
network: it contains them, and its policy names their digests.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup

__all__ = [
    "CHART_LIBRARY",
    "FORM_SCRIPTS",
    "LIVE_SCRIPTS",
    "PAGE_POLICY",
    "SCRIPTS",
    "STYLES",
    "UPLOAD_SCRIPTS",
    "Asset",
    "asset",
    "document_policy",
    "find_asset",
]

CHART_LIBRARY = "vendor/echarts-6.1.0/echarts.min.js"
STYLES = ("page.css",)
SCRIPTS = (CHART_LIBRARY, "charts.js")
LIVE_SCRIPTS = ("live.js", "act.js")
FORM_SCRIPTS = ("ask.js",)
UPLOAD_SCRIPTS = ("learn.js",)
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript"}

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of a served page: everything comes from the service, and nothing is evaluated."""


@dataclass(frozen=True)
class Asset:
    """A script or a style.

    Attributes:
        name: its path below the folder of assets.
    """

    name: str
    content: str

    @property
    def media_type(self) -> str:
        """Its media type."""
        return _MEDIA_TYPES[self.name.rpartition(".")[2]]

    @property
    def address(self) -> str:
        """Where it is served; the address changes with the content, so that a browser may keep the content for ever."""
        return f"/static/{hashlib.sha256(self.content.encode()).hexdigest()[:16]}/{self.name}"

    @property
    def source(self) -> str:
        """The digest that a policy allows it by."""
        return f"'sha256-{b64encode(hashlib.sha256(self.content.encode()).digest()).decode()}'"

    @property
    def inline(self) -> Markup:
        """The content as part of a page."""
        return Markup(self.content)  # noqa: S704  # our own file


@cache
def asset(name: str) -> Asset:
    """The asset of a name."""
    return Asset(name, files("streams.web").joinpath("static", name).read_bytes().decode())


def find_asset(path: str) -> Asset | None:
    """The asset that is served at a path; None where there is none."""
    return next(
        (item for item in map(asset, STYLES + SCRIPTS + LIVE_SCRIPTS + FORM_SCRIPTS + UPLOAD_SCRIPTS) if item.address == path), None
    )


def document_policy(styles: Iterable[Asset], scripts: Iterable[Asset]) -> str:
    """The Content-Security-Policy of a file that contains these styles and scripts and loads nothing."""
    style_sources, script_sources = (" ".join(item.source for item in items) for items in (styles, scripts))
    return f"default-src 'none'; style-src {style_sources}; script-src {script_sources}; img-src data: blob:"

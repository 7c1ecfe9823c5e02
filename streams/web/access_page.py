"""The pages of a browser that may not see what it has asked for: the log-in, and errors as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader

from streams.printable import escape_text
from streams.web.assets import asset

__all__ = ["AccessPage", "access_style", "render_access_page"]


@dataclass(frozen=True)
class AccessPage:
    """What such a page shows.

    Attributes:
        heading: of the page.
        sentences: below it.
        has_form: whether a token can be entered.
        problem: what is wrong with the one that was entered.
        target: the address to go to after the log-in.
        has_session: whether there is somebody to log out.
        again: the address that the page loads by itself.
        link: an address to go on with, and its text.
    """

    heading: str
    sentences: Sequence[str] = ()
    has_form: bool = False
    problem: str = ""
    target: str = "/"
    has_session: bool = False
    again: str = ""
    link: tuple[str, str] | None = None


def render_access_page(page: AccessPage) -> str:
    """The page as an HTML document, which loads one style and no script."""
    return _templates().get_template("access.html").render(page=page)


@cache
def access_style() -> str:
    """The style of these pages: they are shown to browsers that may not load anything else."""
    return asset("page.css").content + asset("access.css").content


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("streams.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )


def _without_controls(value: object) -> object:
    return escape_text(value) if type(value) is str else value

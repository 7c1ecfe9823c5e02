"""Brands: the built-in ones, and any that the catalogue in effect adds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from schemas.base import require_one_of, shorten
from schemas.catalogue_in_effect import catalogue_in_effect

__all__ = ["Brand", "KnownBrand", "StoredBrand", "brand_name", "catalogue_brand"]


class Brand(StrEnum):
    """The built-in brands; the catalogue may have more, which are plain texts."""

    REMIBRUTINIB = "remibrutinib"
    FABHALTA = "fabhalta"
    KISQALI = "kisqali"


_BRANDS: Mapping[str, str] = MappingProxyType({brand.value: brand for brand in Brand})
_BRAND = re.compile(r"[a-z][a-z0-9_]{0,59}")


def brand_name(value: Any) -> str:
    """A brand as models of any catalogue have it: a member of :class:`Brand` where it is built in, else a text.

    Raises:
        ValueError: for what can be no brand of any catalogue.

    >>> brand_name("kisqali"), brand_name("acmezumab")
    (<Brand.KISQALI: 'kisqali'>, 'acmezumab')
    """
    if not isinstance(value, str) or not _BRAND.fullmatch(value):
        raise ValueError(f"{shorten(value)} is no brand: small letters, digits and underscores are allowed, a letter first")
    return _BRANDS.get(value, value)


def catalogue_brand(value: Any) -> str:
    """A brand of the catalogue in effect, as :func:`brand_name` gives it.

    Raises:
        ValueError: for a brand that it does not have; the message names those that it has.
    """
    brands = catalogue_in_effect().brands
    if not isinstance(value, str) or value not in brands:
        for name, entry in brands.items():
            if isinstance(value, str) and value and value.casefold() == entry.label.casefold():
                raise ValueError(f"{shorten(value)} is the label of the brand {name}: give its name")
        require_one_of("brand", value, brands)
    return brand_name(value)


_BRAND_FIELD = WithJsonSchema({"type": "string", "pattern": f"^{_BRAND.pattern}$", "examples": list(_BRANDS)})
StoredBrand = Annotated[str, PlainValidator(brand_name), _BRAND_FIELD]
"""Field with the brand of a model that exists."""
KnownBrand = Annotated[str, PlainValidator(catalogue_brand), _BRAND_FIELD]
"""Field with a brand of the catalogue in effect."""

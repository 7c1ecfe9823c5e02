"""The user's catalogue: its file, its versions, and how the processes of the service follow it."""

from streams.catalogue.catalogue_file import CatalogueFileError, find_catalogue_file, parse_catalogue, read_catalogue
from streams.catalogue.json_schema import catalogue_schema

__all__ = ["CatalogueFileError", "catalogue_schema", "find_catalogue_file", "parse_catalogue", "read_catalogue"]

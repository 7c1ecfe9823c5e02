"""Finds out which column of a table is which feature: profiles it, guesses with a score and a reason, and saves the mapping.

It imports ``schemas`` and ``streams.tables``, which reads tables by the mapping.
"""

from streams.mappings.choices import OWN, build_mapping, parse_choice
from streams.mappings.guess import ACCEPTED, Candidate, ColumnGuess, guess_columns
from streams.mappings.profile import ColumnProfile, profile_table
from streams.mappings.saved import FOLDER, load_mapping, mapping_name, mapping_path, matching_mappings, save_mapping

__all__ = [
    "ACCEPTED",
    "FOLDER",
    "OWN",
    "Candidate",
    "ColumnGuess",
    "ColumnProfile",
    "build_mapping",
    "guess_columns",
    "load_mapping",
    "mapping_name",
    "mapping_path",
    "matching_mappings",
    "parse_choice",
    "profile_table",
    "save_mapping",
]

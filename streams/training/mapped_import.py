"""Imports a table whose columns have names of its own: a proposal that the user may change, and the table by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from schemas import TwinType
from streams.mappings import (
    Candidate,
    ColumnGuess,
    ColumnProfile,
    build_mapping,
    guess_columns,
    mapping_name,
    matching_mappings,
    parse_choice,
    profile_table,
)
from streams.tables import (
    RawTable,
    TableMapping,
    TableOptions,
    TableRefused,
    convert_table,
    entity_columns,
    load_table,
    table_headers,
)
from streams.tables.doubts import header_below
from streams.tables.headers import header_key
from streams.training.datasets import has_declared_names, is_known_layout, mapped_table
from streams.training.imported_table import ImportedTable

__all__ = ["Proposal", "import_by_mapping", "needs_mapping", "propose", "reading_notes"]


def needs_mapping(path: Path, twin_type: TwinType, target: str | None, options: TableOptions, *, is_asked: bool) -> bool:
    """Whether a table is to be mapped, rather than read by its layout or its declared names.

    Args:
        path: of the table.
        twin_type: of the entities.
        target: of the line.
        options: of reading; with a mapping in them it is.
        is_asked: whether the user wants to see or change a mapping; a known layout needs none even so.
    """
    if options.mapping is not None:
        return True
    headers = table_headers(path, options)
    if is_known_layout(headers):
        return False
    return is_asked or not has_declared_names(headers, twin_type, target)


@dataclass(frozen=True)
class Proposal:
    """What is to become of each column of a table.

    Attributes:
        source: file of the table.
        twin_type: of the entities.
        options: of reading.
        raw: the table.
        profiles: of its columns.
        guesses: what becomes of each.
        decided: what is settled, by an earlier mapping or by the user; None for a column that is left out.
        earlier: the saved mapping that it starts from, if any.
    """

    source: Path
    twin_type: TwinType
    options: TableOptions
    raw: RawTable
    profiles: Sequence[ColumnProfile]
    guesses: Sequence[ColumnGuess]
    decided: Mapping[str, Candidate | None]
    earlier: TableMapping | None = None

    @property
    def title(self) -> str:
        """A line about the table."""
        by = f", by the saved mapping {self.earlier.name}" if self.earlier else ""
        return f"{self.source.name}: {len(self.raw.rows):,} rows, {len(self.profiles)} columns{by}"

    def answered(self, answers: Sequence[str]) -> Proposal:
        """The proposal with answers such as ``NPI=entity_id``; a feature that another column had is taken from it.

        Raises:
            ValueError: for an answer that cannot be read, and for two that make two columns the same feature.
        """
        decided = dict(self.decided)
        column_of: dict[str, str] = {}
        for answer in answers:
            column, use = parse_choice(answer, self.profiles, self.twin_type)
            if use and (first := column_of.setdefault(use.feature, column)) != column:
                raise ValueError(
                    f"{first!r} and {column!r} would both be {use.feature}: leave one out with --map 'COLUMN=', or name an own"
                    f" feature with --map {column!r}=own:NAME"
                )
            _refuse_second_own(decided, column, use, self.twin_type)
            decided = {name: item for name, item in decided.items() if not (item and use and item.feature == use.feature)}
            decided[column] = use
        return replace(self, decided=decided, guesses=guess_columns(self.profiles, self.twin_type, decided))

    def mapping(self, name: str | None) -> TableMapping:
        """The mapping under a name, by default the earlier one's or the file's; cuts of the earlier one are kept.

        Raises:
            ValueError: when no column has a use, or two have the same.
        """
        built = build_mapping(name or mapping_name(self.source), self.guesses, self.raw, self.twin_type, self.options)
        zone = self.options.timezone or (self.earlier.timezone if self.earlier else None)
        changed = built if self.earlier is None else _changed(self.earlier, built, self.raw.headers, name)
        return changed.model_copy(update={"timezone": zone})


def _refuse_second_own(decided: Mapping[str, Candidate | None], column: str, use: Candidate | None, twin_type: TwinType) -> None:
    """Refuse an own feature of the name that the own feature of another column has, which would be lost.

    Raises:
        ValueError: with both columns.
    """
    others = [name for name, item in decided.items() if use and item and item.feature == use.feature and name != column]
    if use and others and use.feature not in entity_columns(twin_type):
        raise ValueError(
            f"{others[0]!r} and {column!r} would both be {use.feature}: name this one with --map {column!r}=own:NAME, or leave"
            f" the other out before with --map {others[0]!r}="
        )


def _changed(earlier: TableMapping, built: TableMapping, headers: Sequence[str], name: str | None) -> TableMapping:
    """A saved mapping with what was changed of it for a table; what concerns columns that this table lacks stays."""
    keys = set(map(header_key, headers))

    def is_same(feature: str) -> bool:
        first, second = earlier.columns.get(feature), built.columns.get(feature)
        return bool(first and second and header_key(first.column) == header_key(second.column) and first.by == second.by)

    absent = {
        feature: use
        for feature, use in earlier.columns.items()
        if feature not in built.columns and not keys & set(map(header_key, use.columns))
    }
    present = {feature: earlier.columns[feature] if is_same(feature) else use for feature, use in built.columns.items()}
    order = [*earlier.columns, *(feature for feature in present if feature not in earlier.columns)]
    columns = {feature: (present | absent)[feature] for feature in order if feature in present or feature in absent}
    used = {column for use in columns.values() for column in use.columns}
    left_out = {column: earlier.left_out.get(column, reason) for column, reason in (earlier.left_out | built.left_out).items()}
    return TableMapping(
        name=name or earlier.name,
        twin_type=earlier.twin_type,
        columns=columns,
        left_out={column: reason for column, reason in left_out.items() if column not in used},
    )


def propose(
    path: Path,
    twin_type: TwinType,
    options: TableOptions,
    folder: Path,
    answers: Sequence[str] = (),
    save_as: str | None = None,
) -> Proposal:
    """Profile a table and guess its columns, on the base of the mapping in the options or the only one in a folder that fits.

    Of several that fit, that of the name ``save_as`` is taken.

    Raises:
        TableRefused: when the file cannot be read.
        ValueError: for an answer that cannot be read, and when several mappings fit, of which none is named.
    """
    raw = load_table(path, options, frozenset(map(header_key, entity_columns(twin_type))))
    if below := header_below(raw, frozenset(map(header_key, entity_columns(twin_type)))):
        raise TableRefused(raw.name, [below])
    earlier = options.mapping
    if earlier is None and not options.ignores_mappings:
        earlier = _saved(path, raw.headers, twin_type, folder, save_as)
    zone = options.timezone or (earlier.timezone if earlier else None)
    profiles = profile_table(raw, replace(options, timezone=zone))
    decided = _decided(earlier, raw.headers) if earlier else {}
    guesses = guess_columns(profiles, twin_type, decided)
    return Proposal(path, twin_type, options, raw, profiles, guesses, decided, earlier).answered(answers)


def _saved(path: Path, headers: Sequence[str], twin_type: TwinType, folder: Path, save_as: str | None) -> TableMapping | None:
    """The saved mapping that fits a table; of several the one that is named."""
    saved = {mapping.name: mapping for mapping in matching_mappings(headers, folder) if mapping.twin_type is twin_type}
    if save_as in saved:
        return saved[save_as]
    if len(saved) > 1:
        names = ", ".join(saved)
        raise ValueError(
            f"{path.name}: several saved mappings fit, {names}: name the one to start from with --mapping, or none to start anew"
        )
    return next(iter(saved.values()), None)


def _decided(mapping: TableMapping, headers: Sequence[str]) -> dict[str, Candidate | None]:
    by_key = {header_key(header): header for header in headers}
    reason = f"by the mapping {mapping.name}"
    uses = {
        by_key[header_key(use.column)]: Candidate(by_key[header_key(use.column)], feature, use.by, 1.0, reason)
        for feature, use in mapping.columns.items()
        if header_key(use.column) in by_key
    }
    return {**uses, **{header: None for header in headers if header not in uses}}


def reading_notes(proposal: Proposal, mapping: TableMapping) -> list[str]:
    """What a user should be told of reading the table by a mapping that is only saved; what is wrong with it is told too."""
    try:
        reading = convert_table(proposal.raw, entity_columns(proposal.twin_type), replace(proposal.options, mapping=mapping))
    except TableRefused as refused:
        return [*proposal.raw.notes, *(f"the table cannot be read by it yet: {problem}" for problem in refused.problems)]
    return reading.remarks()


def import_by_mapping(proposal: Proposal, mapping: TableMapping, target: str | None) -> ImportedTable:
    """The table, read by a mapping.

    Raises:
        TableRefused: when a column can be read in two ways, or too many rows are bad.
        ValueError: when no column is a feature of the twin type.
    """
    options = replace(proposal.options, mapping=mapping)
    reading = convert_table(proposal.raw, entity_columns(proposal.twin_type), options)
    return mapped_table(reading.require_usable(strict=options.strict), proposal.twin_type, target)

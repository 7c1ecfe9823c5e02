"""The command that finds out which column of a table is which feature, saves that, and writes a training table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas import TwinType
from schemas.base import require_one_of
from streams.cli.campaigns import TargetOption, TwinTypeOption
from streams.cli.connection import mappings_folder, use_file_catalogue
from streams.cli.options import JsonOption, examples, table_path
from streams.cli.output import Table, is_terminal, notify, print_result
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from streams.mappings import ColumnGuess
    from streams.training import ImportedTable
    from streams.training.mapped_import import Proposal
    from streams.training.part_d_drugs import DrugChoice

app = typer.Typer()

_CLAIMS = "Claims by month, and by drug"
_COLUMNS = ("Column", "Values", "Feature", "Rule", "Score", "Reason")
_EDITOR = (
    "COLUMN=FEATURE or COLUMN=FEATURE:RULE changes a line, COLUMN=own or COLUMN=own:NAME makes it a feature of your own, "
    "COLUMN= leaves it out; Enter saves"
)


@app.command(
    "import",
    epilog=examples(
        "twinstream import hcps.csv",
        "twinstream import hcps.csv history.parquet --map 'Grad Yr=years_experience:years_before 2026'",
        "twinstream import partd_2019.csv partd_2020.csv history.parquet",
        "twinstream import drugs_2019.csv drugs_2020.csv history.parquet --product Kisqali --market Ibrance",
        "twinstream import claims.parquet history.parquet --as-of 2025-06 --product Kisqali",
    ),
)
@reads_table
def import_table(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            parser=table_path,
            help="A CSV, Parquet or Excel file, a folder of them, or a .sql file with a query; years of Medicare Part D; "
            "then OUT, the .csv, .csv.gz or .parquet file to write, if any.",
        ),
    ],
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=FEATURE[:RULE]",
            help="What a column is, such as NPI=entity_id; COLUMN=own or COLUMN=own:NAME[:RULE] for a feature of your own, "
            "COLUMN= for none; repeatable.",
        ),
    ] = None,
    save_as: Annotated[
        str | None, typer.Option("--save-as", metavar="NAME", help="Name of the mapping; that of SOURCE by default.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="YYYY-MM",
            help="SOURCE is a claims extract with a row for each entity and month: the last month of its features.",
            rich_help_panel=_CLAIMS,
        ),
    ] = None,
    months: Annotated[
        int, typer.Option(min=1, metavar="N", help="Months of the features, up to --as-of.", rich_help_panel=_CLAIMS)
    ] = 12,
    then: Annotated[
        int, typer.Option(min=1, metavar="N", help="Months after it that the target is of.", rich_help_panel=_CLAIMS)
    ] = 12,
    product: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The product whose claims make the target; in Medicare Part D by drug a brand or generic name.",
            rich_help_panel=_CLAIMS,
        ),
    ] = None,
    market: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="In Medicare Part D by drug what the product competes with; every drug of the file without it; repeatable.",
            rich_help_panel=_CLAIMS,
        ),
    ] = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    r"""Find out which column of a table is which feature.

    Each column is guessed by its name and values, with a score and the reason. A guess below 0.7, or one that is as likely as
    another, is left open: answer with --map, or on the terminal. The mapping is saved as mappings/NAME.yaml, and later files with
    these columns are read by it, in every command.

    With OUT the training table is written: ids, features and target. The files of Medicare Part D by provider, by provider and
    drug, and by geography and drug, which CMS publishes for each year, need no mapping: several SOURCEs, the earliest year first,
    give the features of each and the change to the next. The general payments of Open Payments, one or several years, give
    features by physician and year. A claims extract with a row for each entity and month needs --as-of: features are sums of the
    months up to it, the target is of the months after it, and no feature knows of a later month.

    \b
    Rules:
      value             as it is written (the default)
      us_region         Census region of a US state
      decile, tier      by the deciles or fifths of the first file
      percent           a hundredth
      years_before YEAR, days_before DATE
      change from COLUMN
    """
    use_file_catalogue()
    from streams.training.mapped_import import needs_mapping
    from streams.training.part_d_drugs import DrugChoice

    sources, out = (files[:-1], files[-1]) if len(files) > 1 else (files, None)
    _refuse_source(sources, out, reading)
    drugs = DrugChoice(product, tuple(market or ())) if product or market else None
    if as_of is not None:
        if market:
            raise ValueError("--market is for Medicare Part D by drug: claims by month take --product alone")
        _import_claims(sources, out, answers or [], (as_of, months, then, product), twin_type, reading, as_json=as_json)
        return
    if len(sources) > 1 or not needs_mapping(
        sources[0], twin_type, target, reading, is_asked=bool(answers or save_as) or out is None
    ):
        _import_known(sources, out, twin_type, target, reading, drugs, as_json=as_json)
        return
    if drugs is not None:
        raise ValueError("--product and --market are for claims by month (--as-of) and Medicare Part D by drug: no file is one")
    _import_mapped(sources[0], out, answers or [], save_as, twin_type, target, reading, as_json=as_json)


def _refuse_source(sources: list[Path], out: Path | None, reading: TableOptions) -> None:
    """Refuse to write over a file that looks like a further SOURCE, as where OUT was forgotten.

    Raises:
        ValueError: when it has the columns of one, or of public data.
    """
    from streams.tables import TableRefused, table_headers
    from streams.training import is_known_layout

    if out is None or not out.exists():
        return
    try:
        headers = table_headers(out, reading)
        is_source = is_known_layout(headers) or any(headers == table_headers(source, reading) for source in sources)
    except TableRefused:
        return
    if is_source:
        raise ValueError(
            f"{out} is a table like {sources[0].name}, and OUT, the file that is written, comes last: name another one"
        )


def _import_claims(
    sources: list[Path],
    out: Path | None,
    answers: Sequence[str],
    windows: tuple[str, int, int, str | None],
    twin_type: TwinType,
    reading: TableOptions,
    *,
    as_json: bool,
) -> None:
    """Import a claims extract by its windows."""
    from streams.training.claims import ROLES, ClaimsWindows, claims_table, parse_month

    named = {}
    for answer in answers:
        column, _, role = answer.rpartition("=")
        named[require_one_of("column of a claims extract", role, ROLES)] = column
    as_of, months, then, product = windows
    imported = claims_table(sources, ClaimsWindows(parse_month(as_of), months, then, product), twin_type, reading, named)
    _finish(imported, out, as_json=as_json)


def _import_known(
    sources: list[Path],
    out: Path | None,
    twin_type: TwinType,
    target: str | None,
    reading: TableOptions,
    drugs: DrugChoice | None,
    *,
    as_json: bool,
) -> None:
    """Import tables whose columns need no mapping."""
    from streams.training import read_training_table

    _finish(read_training_table(sources, twin_type, target, reading, drugs=drugs), out, as_json=as_json)


def _finish(imported: ImportedTable, out: Path | None, *, as_json: bool) -> None:
    """Write and print an imported table."""
    from streams.training import write_table

    notify_remarks(imported.remarks)
    if out is not None:
        write_table(imported.frame, out)
    print_result(_payload(imported), lambda: _import_text(imported, out), as_json=as_json)


def _import_mapped(
    source: Path,
    out: Path | None,
    answers: Sequence[str],
    save_as: str | None,
    twin_type: TwinType,
    target: str | None,
    reading: TableOptions,
    *,
    as_json: bool,
) -> None:
    """Guess, show, ask on a terminal, save, and write."""
    from streams.mappings import mapping_path, save_mapping
    from streams.training import write_table
    from streams.training.mapped_import import import_by_mapping, propose, reading_notes

    folder = mappings_folder()
    proposal = propose(source, twin_type, reading, folder, answers, save_as)
    if not as_json and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        proposal = _edit(proposal)
    mapping = proposal.mapping(save_as)
    path = mapping_path(mapping.name, folder)
    is_new = mapping != proposal.earlier
    if is_new:
        _refuse_other_mapping(path, proposal)
    imported = None if out is None else import_by_mapping(proposal, mapping, target)
    if is_new:  # not before the table was read by it: what fails leaves the saved one as it is
        save_mapping(mapping, path)
    notify_remarks(reading_notes(proposal, mapping) if imported is None else imported.remarks)
    if imported is not None and out is not None:
        write_table(imported.frame, out)
    payload = {
        "mapping": str(path),
        "columns": [_guess_dict(guess) for guess in proposal.guesses],
        **({} if imported is None else _payload(imported)),
    }
    notes = [f"mapping {'saved to' if is_new else 'of'} {path}", *_doubted(proposal.guesses), *_open_hints(proposal.guesses)]
    if imported is not None:
        notes.append(_import_text(imported, out))
    print_result(payload, lambda: [_guess_table(proposal, notes)], as_json=as_json)


def _refuse_other_mapping(path: Path, proposal: Proposal) -> None:
    """Refuse to write over a mapping of another table, which would be lost.

    Raises:
        ValueError: when the file has one that the table does not fit; it says which columns are absent.
    """
    from streams.mappings import load_mapping
    from streams.tables.headers import header_key

    if not path.is_file() or (proposal.earlier is not None and proposal.earlier.name == path.stem):
        return
    saved = load_mapping(str(path))
    present = set(map(header_key, proposal.raw.headers))
    absent = [column for column in dict.fromkeys(saved.headers()) if header_key(column) not in present]
    if absent:
        raise ValueError(
            f"{path} is the mapping of another table, with {', '.join(absent)}: --save-as NAME gives this one a name of its own,"
            f" --mapping {saved.name} starts from that one"
        )


def _edit(proposal: Proposal) -> Proposal:
    """Let the user change lines until nothing is entered."""
    while True:
        print_result([], lambda proposal=proposal: [_guess_table(proposal, [_EDITOR])], as_json=False)  # type: ignore[misc]  # the default binds it
        answer = typer.prompt("change", default="", show_default=False).strip()
        if not answer:
            return proposal
        try:
            proposal = proposal.answered([answer])
        except ValueError as error:
            notify(str(error))


def _guess_table(proposal: Proposal, notes: Sequence[str]) -> Table:
    rows = [_guess_cells(guess) for guess in proposal.guesses]
    table = Table(_COLUMNS, rows, title=proposal.title, notes=notes, numeric=(4,))
    return table._replace(text="\n".join([table.format_text(), *notes]))


def _guess_cells(guess: ColumnGuess) -> list[str]:
    candidate = guess.use or guess.best
    values = ", ".join(guess.profile.samples)
    if candidate is None:
        return [guess.profile.name, values, "-", "", "", guess.reason]
    feature = candidate.feature if guess.use else f"open: {candidate.feature}?"
    reason = candidate.reason if guess.use else f"{guess.reason}; {candidate.reason}"
    return [guess.profile.name, values, feature, candidate.rule, f"{candidate.score:.2f}", reason]


def _guess_dict(guess: ColumnGuess) -> dict[str, Any]:
    candidate = guess.use or guess.best
    return {
        "column": guess.profile.name,
        "used": guess.use is not None,
        "feature": candidate.feature if candidate else None,
        "rule": candidate.rule if candidate else None,
        "score": candidate.score if candidate else None,
        "reason": "; ".join(filter(None, (guess.reason, candidate.reason if candidate else ""))),
    }


def _open_hints(guesses: Sequence[ColumnGuess]) -> list[str]:
    """How to settle each column that is left open."""
    answers = [f"--map {shlex.quote(f'{item.column}={item.feature}:{item.rule}')}" for guess in guesses if (item := guess.best)]
    return [f"left open, to be settled with for example {' '.join(answers)}"] if answers else []


def _doubted(guesses: Sequence[ColumnGuess]) -> list[str]:
    """Answers that the cells contradict: they are taken, and told."""
    return [
        f"warning: {guess.profile.name!r} as {guess.use.feature} by {guess.use.rule}, {guess.use.reason}"
        for guess in guesses
        if guess.use is not None and ", though " in guess.use.reason
    ]


def _payload(imported: ImportedTable) -> dict[str, Any]:
    return {
        "recognised": imported.source,
        "rows": len(imported.frame),
        "target": imported.target if imported.has_target else None,
        "left_out": imported.left_out,
        "notes": imported.notes,
        "remarks": imported.remarks,
    }


def _import_text(imported: ImportedTable, out: Path | None) -> str:
    done = "name a file OUT to write them" if out is None else f"written to {out}"
    lines = [f"{imported.source}: {len(imported.frame):,} rows {done}", *imported.notes]
    if imported.left_out:
        lines.append(f"features without a column in the table: {', '.join(imported.left_out)}")
    return "\n".join(lines)

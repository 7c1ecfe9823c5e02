"""The group ``twinstream catalogue``: brands, campaigns, features and limits of one's own."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.connection import load_settings, with_pool, with_read_pool
from streams.cli.options import DryRunOption, JsonOption, ReasonOption, examples
from streams.cli.output import Table, is_terminal, notify, print_result, show_progress

if TYPE_CHECKING:
    from schemas import Catalogue
    from sql.catalogue_store import AppliedVersion
    from streams.catalogue.applying import Applied
    from streams.catalogue.deep_check import Finding

app = typer.Typer()

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", dir_okay=False, help="The catalogue file; TWIN_CATALOGUE or twinstream.yaml without it."),
]

VersionOption = Annotated[int | None, typer.Option(metavar="NUMBER", min=0, help="An applied version; 0 is the built-in one.")]


@app.command(epilog=examples("twinstream catalogue init"))
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", dir_okay=False, help="Where to write it.")] = Path("twinstream.yaml"),
) -> None:
    """Write a commented catalogue file to start from."""
    template = (files("streams.catalogue") / "template.yaml").read_text(encoding="utf-8")
    with file.open("x", encoding="utf-8") as text:  # never over a file that exists
        text.write(template)
    notify(f"wrote {file}: take out the # of what you need, then run twinstream catalogue check")


@app.command(epilog=examples("twinstream catalogue check", "twinstream catalogue check twinstream.yaml --deep"))
def check(
    file: FileArgument = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also run the engine over it: models, twins, campaigns and drift rules; takes a minute.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a catalogue file.

    It prints line and column of everything that is wrong, with what is allowed there; the exit status is then 1.
    """
    from streams.catalogue import CatalogueFileError

    try:
        name, catalogue = _read(file)
    except CatalogueFileError as error:
        if as_json:
            print_result(_problems(error), str, as_json=True)
        else:
            for line in str(error).splitlines():
                notify(line)
        raise typer.Exit(1) from None
    summary = _summary(catalogue)
    findings = _deep_findings(catalogue) if deep else []
    broken = [finding for finding in findings if finding.problem]
    problems = [{"path": entry, "problem": f"{requirement}: {problem}"} for entry, requirement, problem in broken]
    payload = {"file": name, "sha256": catalogue.sha256, "problems": problems, "checked": len(findings), **summary}
    print_result(payload, lambda: _check_text(name, summary, findings), as_json=as_json)
    if broken:
        raise typer.Exit(1)


@app.command(
    epilog=examples("twinstream catalogue show", "twinstream catalogue show --diff", "twinstream catalogue show --version 3 --diff")
)
def show(
    file: FileArgument = None,
    version: VersionOption = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs from the built-in catalogue.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the whole catalogue that a file makes.

    With --version it is that of an applied version; 0 is the built-in one.
    """
    from schemas import BUILT_IN
    from streams.catalogue.comparison import differences

    catalogue = _read(file)[1] if version is None else _of_version(version)
    if diff:
        changes = differences(BUILT_IN, catalogue)
        print_result(
            [change._asdict() for change in changes], lambda: "\n".join(map(str, changes)) or "no difference", as_json=as_json
        )
        return
    content = catalogue.model_dump(mode="json")
    content["brands"] = {name: entry.model_dump(exclude_defaults=True) for name, entry in catalogue.brands.items()}  # as in a file
    print_result(content, lambda: _yaml(content), as_json=as_json)


@app.command(
    epilog=examples("twinstream catalogue apply", "twinstream catalogue apply --dry-run", "twinstream catalogue apply --expect 3")
)
def apply(
    file: FileArgument = None,
    reason: ReasonOption = "",
    expect: Annotated[
        int | None,
        typer.Option(metavar="VERSION", min=0, help="Only if this version is in effect; 0 while none was applied."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Also take out entries, and undo what others have applied.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put the catalogue of a file into effect.

    Running workers follow within seconds. It is refused when it would break stored models, experiments or open windows. A file
    that lacks entries of the version in effect, or that changes values after somebody else has applied a version, may be an old
    one: what it would undo is named, and needs a confirmation on the terminal, or --yes.
    """
    _, catalogue = _read(file)
    _apply(catalogue, reason, dry_run=dry_run, as_json=as_json, expected=expect, may_lose=yes)


@app.command(epilog=examples("twinstream catalogue history"))
def history(as_json: JsonOption = False) -> None:
    """List the applied versions, newest first."""
    from sql.catalogue_store import catalogue_history

    versions = with_read_pool(lambda _, pool: catalogue_history(pool))
    print_result([version._asdict() for version in versions], lambda: _history_table(versions), as_json=as_json)


@app.command(epilog=examples("twinstream catalogue rollback 3", "twinstream catalogue rollback 0"))
def rollback(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=0, help="A version of the history; 0 is the built-in one.")],
    reason: ReasonOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put the catalogue of an earlier VERSION into effect again.

    It becomes a new version: what was made under others stays as it is.
    """
    _apply(_of_version(version), reason or f"rollback to version {version}", dry_run=dry_run, as_json=as_json)


@app.command(epilog=examples("twinstream catalogue schema > twinstream.schema.json"))
def schema() -> None:
    """Print the JSON Schema of catalogue files, for editors."""
    from streams.catalogue import catalogue_schema

    typer.echo(json.dumps(catalogue_schema(), indent=2))


def _read(file: Path | None) -> tuple[str, Catalogue]:
    """Name of the file, and the catalogue that it makes."""
    from streams.catalogue import find_catalogue_file, read_catalogue

    place = find_catalogue_file(file or load_settings().catalogue)
    return str(place or "the built-in catalogue"), read_catalogue(place)


def _of_version(version: int) -> Catalogue:
    from streams.catalogue.applying import catalogue_of_version

    return with_read_pool(lambda _, pool: catalogue_of_version(pool, version))


def _apply(
    catalogue: Catalogue, reason: str, *, dry_run: bool, as_json: bool, expected: int | None = None, may_lose: bool = True
) -> None:
    from streams.catalogue.applying import CatalogueConflict, apply_catalogue, preview_catalogue
    from streams.operations.operator import operator_name

    by = operator_name()

    def run(expected: int | None, may_lose: bool) -> Applied:
        return with_pool(
            lambda settings, pool: apply_catalogue(
                settings, pool, catalogue, applied_by=by, reason=reason, expected=expected, may_lose=may_lose
            ),
            "kafka",
        )

    if dry_run:
        applied = with_read_pool(lambda _, pool: preview_catalogue(pool, catalogue))
    else:
        try:
            applied = run(expected, may_lose)
        except CatalogueConflict as conflict:
            if as_json or not is_terminal(sys.stdin) or expected not in (None, conflict.version):
                raise
            typer.confirm(f"{conflict}\nApply it all the same?", abort=True, err=True)
            applied = run(conflict.version, may_lose=True)
    payload = {
        "version": applied.version._asdict() if applied.version else None,
        "changes": [change._asdict() for change in applied.changes],
        "warnings": [*applied.warnings],
    }
    print_result(payload, lambda: _applied_text(applied, by, dry_run=dry_run), as_json=as_json)


def _applied_text(applied: Applied, by: str, *, dry_run: bool) -> str:
    from streams.catalogue.applying import losses

    number = applied.version.version if applied.version else 0
    if not applied.changes:
        return f"nothing to change: version {number} is this catalogue"
    result = "nothing is stored that it would break" if dry_run else f"version {number} is in effect"
    if dry_run and (undone := losses(applied.version, applied.changes, by)):
        result += f"; --yes is needed, as it undoes {len(undone)} of these entries of version {number}"
    return "\n".join([*map(str, applied.changes), *(f"warning: {warning}" for warning in applied.warnings), result])


def _history_table(versions: list[AppliedVersion]) -> Table:
    from streams.reporting import moment

    rows = [
        (str(version), moment(applied_at), applied_by, sha256[:12], reason)
        for version, sha256, applied_at, applied_by, reason in versions
    ]
    return Table(("Version", "At", "By", "Digest", "Reason"), [*rows, ("0", "", "built in", "", "")], numeric=(0,))


def _problems(error: Any) -> dict[str, Any]:
    problems = [{"line": mark.line, "column": mark.column, "path": path, "problem": text} for mark, path, text in error.problems]
    return {"file": error.file, "problems": problems}


def _summary(catalogue: Catalogue) -> dict[str, int]:
    counts = {name: len(getattr(catalogue, name)) for name in ("brands", "campaigns", "moderators", "drift_rules")}
    features = sum(len(fields.features) for fields in catalogue.twin_types.values())
    targets = sum(len(fields.targets) for fields in catalogue.twin_types.values())
    return {**counts, "features": features, "targets": targets}


def _deep_findings(catalogue: Catalogue) -> list[Finding]:
    from streams.catalogue.deep_check import deep_check

    with show_progress("running the engine over the catalogue"):
        return list(deep_check(catalogue))


def _check_text(name: str, summary: dict[str, int], findings: list[Finding]) -> str:
    counts = ", ".join(f"{count} {section.replace('_', ' ')}" for section, count in summary.items())
    broken = [f"{entry}: {requirement}: {problem}" for entry, requirement, problem in findings if problem]
    checked = f"\n{len(findings)} requirements were checked, {len(broken)} are not met" if findings else ""
    return "\n".join([f"{name} is valid: {counts}{checked}", *broken])


def _yaml(content: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return text.rstrip()

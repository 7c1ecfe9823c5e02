"""The group ``twinstream catalogue``: brands, campaigns, features and limits of one's own."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.connection import load_settings
from streams.cli.options import JsonOption, examples
from streams.cli.output import notify, print_result

if TYPE_CHECKING:
    from schemas import Catalogue

app = typer.Typer()

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", dir_okay=False, help="The catalogue file; TWIN_CATALOGUE or twinstream.yaml without it."),
]


@app.command(epilog=examples("twinstream catalogue init"))
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", dir_okay=False, help="Where to write it.")] = Path("twinstream.yaml"),
) -> None:
    """Write a commented catalogue file to start from."""
    template = (files("streams.catalogue") / "template.yaml").read_text(encoding="utf-8")
    with file.open("x", encoding="utf-8") as text:  # never over a file that exists
        text.write(template)
    notify(f"wrote {file}: take out the # of what you need, then run twinstream catalogue check")


@app.command(epilog=examples("twinstream catalogue check", "twinstream catalogue check twinstream.yaml --json"))
def check(file: FileArgument = None, as_json: JsonOption = False) -> None:
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
    payload = {"file": name, "sha256": catalogue.sha256, "problems": [], **summary}
    counts = ", ".join(f"{count} {section.replace('_', ' ')}" for section, count in summary.items())
    print_result(payload, lambda: f"{name} is valid: {counts}", as_json=as_json)


@app.command(epilog=examples("twinstream catalogue show", "twinstream catalogue show --diff"))
def show(
    file: FileArgument = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs from the built-in catalogue.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the whole catalogue that a file makes."""
    from schemas import BUILT_IN
    from streams.catalogue.comparison import differences

    _, catalogue = _read(file)
    if diff:
        changes = differences(BUILT_IN, catalogue)
        print_result(
            [change._asdict() for change in changes], lambda: "\n".join(map(str, changes)) or "no difference", as_json=as_json
        )
        return
    content = catalogue.model_dump(mode="json")
    print_result(content, lambda: _yaml(content), as_json=as_json)


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


def _problems(error: Any) -> dict[str, Any]:
    problems = [{"line": mark.line, "column": mark.column, "path": path, "problem": text} for mark, path, text in error.problems]
    return {"file": error.file, "problems": problems}


def _summary(catalogue: Catalogue) -> dict[str, int]:
    counts = {name: len(getattr(catalogue, name)) for name in ("brands", "campaigns", "moderators", "drift_rules")}
    features = sum(len(fields.features) for fields in catalogue.twin_types.values())
    targets = sum(len(fields.targets) for fields in catalogue.twin_types.values())
    return {**counts, "features": features, "targets": targets}


def _yaml(content: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return text.rstrip()

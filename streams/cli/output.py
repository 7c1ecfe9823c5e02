"""What commands print: results on stdout as JSON, text or a table, and notices and progress on stderr.

Text may quote records that anyone can send. Everything for people is printed here, with control characters as visible escapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

import typer

from streams.printable import escape_line, escape_text

__all__ = ["Table", "is_terminal", "notify", "notify_once", "print_result", "show_progress"]

_MIN_LAST_COLUMN = 24
_COLUMN_GAP = 3

_GOOD, _ATTENTION, _BAD = "green", "yellow", "red"
_STYLES = {
    **dict.fromkeys(("ok", "promoted", "counted"), _GOOD),
    **dict.fromkeys(("warning", "suppressed", "suggested", "rejected", "stopped"), _ATTENTION),
    **dict.fromkeys(("alarm", "failed", "rolled_back"), _BAD),
}
"""Colours of states, where a cell holds nothing else."""


class Table(NamedTuple):
    """Rows to show: a table with colours on a terminal, aligned text elsewhere.

    Attributes:
        columns: one heading per column.
        rows: cells as text.
        title: a line above the table, if any.
        text: what to print without a terminal instead of the aligned rows, if any.
        notes: lines below the table on a terminal.
        numeric: indices of the columns of numbers, which are aligned to the right.
        empty: what to print when there are no rows instead of the headings, if anything.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    text: str = ""
    notes: Sequence[str] = ()
    numeric: Collection[int] = ()
    empty: str = ""

    def escaped(self) -> Table:
        """The table with control characters as escapes; a cell may have several lines."""
        return self._replace(
            rows=[[escape_text(cell) for cell in row] for row in self.rows],
            title=escape_text(self.title),
            text=escape_text(self.text),
            notes=[escape_text(note) for note in self.notes],
        )

    def format_text(self) -> str:
        """Format the table as ``text``, else as aligned rows: two blanks between columns, headings in capitals."""
        if self.text:
            return self.text
        from streams.reporting import align_columns

        text = align_columns([[heading.upper() for heading in self.columns], *self.rows], self.numeric)
        return "\n".join([self.title, *text] if self.title else text)


def print_result(
    payload: dict[str, Any] | list[Any], render: Callable[[], str | Table | Sequence[Table]], *, as_json: bool
) -> None:
    """Print the result of a command: ``payload`` as JSON for programs, or what ``render`` returns for people."""
    if as_json:
        typer.echo(json.dumps(payload, default=str, indent=2).replace("\x7f", r"\u007f"))
        return
    result = render()
    if isinstance(result, Table) and result.empty and not result.rows:
        result = result.empty
    if isinstance(result, str):
        typer.echo(escape_text(result))
        return
    tables = [result] if isinstance(result, Table) else result
    if is_terminal(sys.stdout):
        for table in tables:
            _print_rich_table(table.escaped())
    else:
        typer.echo("\n\n".join(table.escaped().format_text() for table in tables))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is a terminal; it is None where the process was started with it closed."""
    return stream is not None and stream.isatty()


def _print_rich_table(table: Table) -> None:
    """Print a table; where the terminal is wide enough only the last column wraps, so that IDs and times stay on one line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    rich_table = RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    is_wide = _min_width(table) <= console.width
    for index, heading in enumerate(table.columns):
        is_last = index == len(table.columns) - 1
        rich_table.add_column(
            heading,
            style="" if index else "cyan",
            justify="right" if index in table.numeric else "left",
            no_wrap=is_wide and not is_last,
            overflow="fold",
        )
    for row in table.rows:
        rich_table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    if table.title:
        console.print(Text(table.title))
    if table.rows:
        console.print(rich_table)
    for line in table.notes:
        console.print(Text(line))


def _min_width(table: Table) -> int:
    """Width of the terminal that lets only the last column wrap."""
    columns = zip(table.columns, *table.rows, strict=True)
    *widths, last = (max(len(line) for cell in column for line in cell.splitlines() or [""]) for column in columns)
    return sum(widths) + len(widths) * _COLUMN_GAP + min(last, _MIN_LAST_COLUMN)


def notify(line: str) -> None:
    """Print a notice on stderr: stdout is for the result."""
    typer.echo(escape_line(line), err=True)


def notify_once(line: str) -> None:
    """Print a notice as :func:`notify` does, each but once in a command."""
    if line not in _NOTICES:
        _NOTICES.add(line)
        notify(line)


_NOTICES: set[str] = set()


@contextmanager
def show_progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work on a terminal, and nothing elsewhere.

    Args:
        description: what is being done.
        total: number of steps; without it only the elapsed time is shown.

    Yields:
        A function that takes the number of completed steps.
    """
    if not is_terminal(sys.stderr):
        yield lambda _completed: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), *_bar_columns(total), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape_line(description), total=total)
        yield lambda completed: progress.update(task, completed=completed)


def _bar_columns(total: int | None) -> list[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn

    return [] if total is None else [BarColumn(), MofNCompleteColumn()]

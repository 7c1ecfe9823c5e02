"""Output of commands: JSON, text and tables on stdout, progress on stderr of a terminal only."""

from __future__ import annotations

import json
import re
import sys

import pytest

from streams.cli.output import Table, notify, notify_once, print_result, show_progress

TABLE = Table(("ID", "Reason"), [("1a2b", "a [bold] reason"), ("3c", "")], title="2 [rows]")


def test_a_table_is_aligned_text_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_result([], lambda: TABLE, as_json=False)
    assert capsys.readouterr().out.splitlines() == ["2 [rows]", "ID    REASON", "1a2b  a [bold] reason", "3c"]


def test_numbers_are_aligned_to_the_right_and_columns_never_touch() -> None:
    table = Table(("Name", "Rows"), [("a", "12,000"), ("a longer name", "3")], numeric=(1,))
    assert table.format_text().splitlines() == [
        "NAME             ROWS",
        "a              12,000",
        "a longer name       3",
    ]


def test_numbers_are_aligned_to_the_right_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.cli.output.is_terminal", lambda _stream: True)
    print_result([], lambda: Table(("n", "State"), [("12,000", ""), ("3", "")], numeric=(0,)), as_json=False)
    assert "     3" in capsys.readouterr().out


def test_a_table_may_have_a_text_of_its_own_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_result([], lambda: TABLE._replace(text="one line\nfact"), as_json=False)
    assert capsys.readouterr().out == "one line\nfact\n"


def test_a_table_has_borders_on_a_terminal_and_its_cells_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.cli.output.is_terminal", lambda stream: stream is sys.stdout)
    print_result([], lambda: [TABLE._replace(notes=["a [note]"]), TABLE], as_json=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "a [bold] reason" in text
    assert text.count("2 [rows]") == 2
    assert "a [note]" in text
    assert "───" in text


@pytest.mark.parametrize(
    ("environment", "is_coloured"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_states_are_coloured_unless_no_color_is_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, is_coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("streams.cli.output.is_terminal", lambda _stream: True)
    print_result([], lambda: Table(("Segment", "State"), [("all", "alarm")]), as_json=False)
    assert ("\x1b[31malarm" in capsys.readouterr().out) == is_coloured


def test_json_is_printed_without_rendering_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"a": 1}, lambda: pytest.fail("not needed"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_notices_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    notify("using the local stack")
    assert tuple(capsys.readouterr()) == ("", "using the local stack\n")


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("publishing", 10) as report_progress:
        report_progress(5)
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize("total", [10, None])
def test_progress_is_shown_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, total: int | None
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_progress("publishing", total) as report_progress:
        report_progress(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "publishing" in err
    assert ("10/10" in err) == (total is not None)


EVIL = "a\x1b]0;title\x07\x1b[2J\x9b1m\u202e\x7fb"
ESCAPED = r"a\x1b]0;title\x07\x1b[2J\x9b1m\u202e\x7fb"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_cell_title_note_or_text_commands_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("streams.cli.output.is_terminal", lambda _stream: is_terminal)
    for result in (Table(("ID", "Reason"), [(EVIL, EVIL)], title=EVIL, notes=[EVIL]), Table(("ID",), [("1",)], text=EVIL), EVIL):
        print_result([], lambda result=result: result, as_json=False)
    notify(EVIL)

    captured = capsys.readouterr()
    assert not set(captured.out + captured.err) & set("\x1b\x07\x9b\u202e\x7f")
    assert ESCAPED in captured.out
    assert captured.err == f"{ESCAPED}\n"


def test_a_notice_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    notify("refused: id\ntwinstream: all is well")
    assert capsys.readouterr().err == "refused: id\\ntwinstream: all is well\n"


def test_json_is_valid_and_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"reason": EVIL}, lambda: "", as_json=True)
    text = capsys.readouterr().out
    assert not set(text) & set("\x1b\x07\x9b\u202e\x7f")
    assert json.loads(text) == {"reason": EVIL}


def test_a_notice_about_the_stack_is_printed_once_however_often_a_command_connects(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("using the local stack in a", "using the local stack in a", "using the local stack in b"):
        notify_once(line)
    assert capsys.readouterr().err.splitlines() == ["using the local stack in a", "using the local stack in b"]

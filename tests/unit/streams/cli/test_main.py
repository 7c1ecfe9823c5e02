"""The command line: results on stdout, notices and errors on stderr, and an exit status that scripts can rely on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from aiokafka.errors import KafkaError
from asyncpg import PostgresError
from typer.main import get_group
from typer.testing import CliRunner, Result

from deploy.stack import StackError
from sql.ledger import POLICIES
from streams import cli
from streams.cli.app import app
from streams.cli.decisions import PolicyName
from streams.cli.lazy import LazyCommand
from streams.settings import ROLES

HEAVY = ("pandas", "numpy", "pydantic", "aiokafka", "asyncpg", "mlflow", "sklearn", "faust", "schemas", "engine", "sql")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="twinstream")


def lazy_commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], LazyCommand]]:
    """Every command below ``group``, with the names that lead to it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from lazy_commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(lazy_commands(get_group(app)))


MODULES = sorted({path.stem for path in Path(cli.__path__[0]).glob("*.py")} - {"app", "__init__"})


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_examples(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: twinstream {' '.join(path)}")
    assert "{" not in result.output
    assert not re.search(r"<(list\[.*\]|str|int|float|int range|file|dir)>", result.output)
    assert f"Examples:\n    twinstream {' '.join(path)}" in result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_list_of_commands_shows_the_first_sentence_of_each_commands_help(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert (command.load().help or "").split("\n")[0] == command.help
    assert "..." not in command.get_short_help_str(80 - 6 - max(len(name) for *group, name in COMMANDS if group == list(path[:-1])))


def test_the_lists_of_commands_cut_no_summary() -> None:
    for group in {path[:-1] for path in COMMANDS}:
        commands = run(*group, "--help").output.partition("Commands:")[2].partition("Examples:")[0]
        assert "..." not in commands


@pytest.mark.parametrize("module", MODULES)
def test_every_command_of_a_module_is_in_a_list_of_commands(module: str) -> None:
    commands = getattr(import_module(f"streams.cli.{module}"), "app", None)
    defined = [info.name or info.callback.__name__ for info in commands.registered_commands] if commands else []
    assert {name.replace("_", "-") for name in defined} <= {name for *_, name in COMMANDS}


def test_usage_errors_are_plain_text_where_stderr_is_no_terminal() -> None:
    script = (  # a process of its own: `main` ends a process whose threads still wait, and those of the tests do
        "import sys\n"
        "from streams.cli.main import main\n"
        "import streams.cli.app\n"
        "streams.cli.app.is_terminal = lambda stream: stream is sys.stdout\n"
        "sys.argv[1:] = ['frob']\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith("Error: No such command 'frob'.\n")
    assert "\x1b" not in ended.stderr
    assert "╭" not in ended.stderr


def test_every_group_explains_itself_with_examples() -> None:
    for group in {path[:-1] for path in COMMANDS}:
        result = run(*group, "--help")
        assert result.exit_code == 0
        assert "Examples:\n    twinstream" in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "--help"], ["outcomes", "--help"]])
def test_help_and_version_import_no_library_of_the_service(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from streams.cli.main import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(json.loads(ended.stderr.replace("'", '"')))
    assert imported <= ({"pydantic"} if arguments[0] != "--version" and len(arguments) > 1 else set())  # Typer reads options by it


def test_the_help_of_a_command_imports_neither_a_server_s_client_nor_a_learning_library() -> None:
    heavy = ("aiokafka", "asyncpg", "faust", "matplotlib", "mlflow", "scipy", "skops", "sklearn")
    script = (  # a process of its own: those of the other tests import everything
        "import sys\n"
        "from typer.main import get_group\n"
        "from streams.cli.app import app\n"
        "def load(group):\n"
        "    return sum(load(item) if hasattr(item, 'commands') else bool(item.load()) for item in group.commands.values())\n"
        "print(load(get_group(app)))\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == f"{len(COMMANDS)}\n[]\n"


def test_the_module_is_the_same_program_as_the_script() -> None:
    ended = subprocess.run([sys.executable, "-m", "streams", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == run("--version").output
    assert ended.stdout.startswith("twinstream, version ")


def test_without_arguments_the_help_is_shown_and_the_status_is_2() -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: twinstream")


def test_a_script_for_shell_completion_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = run("--show-completion", "bash")
    assert result.exit_code == 0
    assert "_TWINSTREAM_COMPLETE" in result.output


def test_the_shell_completes_commands_options_and_choices() -> None:
    for typed, completion in {
        "twinstream mod": "models",
        "twinstream models pol": "policy",
        "twinstream demo --brand kis": "kisqali",
    }.items():
        result = CliRunner().invoke(
            app,
            [],
            prog_name="twinstream",
            env={"_TWINSTREAM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))},
        )
        assert result.output.split() == [completion], typed


def test_a_failure_is_one_line_on_stderr_and_status_1(tmp_path: Path) -> None:
    result = run("import", str(tmp_path / "absent.csv"), str(tmp_path / "out.csv"))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [f"twinstream: there is no file {tmp_path / 'absent.csv'}"]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("streams.cli.connection.load_settings", fail)


@pytest.mark.parametrize("error", [ValueError("wrong"), KafkaError("wrong"), PostgresError("wrong"), StackError("wrong")])
def test_every_expected_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fail_with(monkeypatch, error)
    result = run("fidelity")
    assert result.exit_code == 1
    assert result.stderr.startswith("twinstream: ")
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_is_status_130_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    result = run("fidelity")
    assert (result.exit_code, result.stderr) == (130, "twinstream: interrupted\n")


def test_a_bug_shows_a_traceback_without_local_variables() -> None:
    script = (
        "from streams.cli import connection, main\n"
        "def load_settings():\n    password = 'top' + 'secret'\n    raise TypeError(len(password))\n"
        "connection.load_settings = load_settings\n"
        "import sys; sys.argv[1:] = ['fidelity']\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "TypeError: 9" in ended.stderr
    assert "topsecret" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate"], "name an INTERVENTION"),
        (["simulate", "email_campaign", "--weeks", "105"], "input should be less than or equal to 104, not '105'"),
        (["up", "--port", "99999999"], "'--port': input should be less than or equal to 65535, not '99999999'"),
        (["up", "--port", "-1"], "'--port': input should be greater than or equal to 0, not '-1'"),
        (["outcomes", "publish", ""], "'FILE': the name of the file is empty"),
        (["import"], "Missing argument 'SOURCE'"),
        (["demo", "--brand", "nobody"], "'nobody' is not one of 'remibrutinib', 'fabhalta', 'kisqali'"),
        (["demo", "--twin-type", "nurse"], "'nurse' is not one of 'hcp', 'patient', 'territory'"),
        (["design", "email_campaign", "--channel", "fax"], "'fax' is not one of 'email', 'phone'"),
        (["dlq", "list", "--limit", "0"], "input should be greater than or equal to 1, not '0'"),
        (["dlq", "replay"], "name refused records by ID"),
        (["models", "policy", "line", "never"], "'never' is not one of 'off', 'suggest', 'approve', 'auto'"),
        (["models", "history"], "give either a LINE or --simulation ID"),
        (["fly"], "No such command 'fly'"),
        (["fidelity", "--jsn"], "No such option"),
    ],
)
def test_wrong_usage_is_status_2_and_names_the_value_and_what_is_allowed(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", "email_campaign", "--twins", "0"], "--twins must be between 100 and 1,000,000,000, not 0"),
        (["simulate", "email_campaign", "--timeout", "nan"], "--timeout must be a positive number of seconds, not nan"),
        (["simulate", "email_campaign", "--intensity", "nan"], "--intensity must be above 0 and at most 3, not nan"),
        (["design", "email_campaign", "--effect", "0"], "--effect must be a number other than 0, not 0.0"),
        (["design", "email_campaign", "--power", "1"], "--power must be between 0 and 1, not 1.0"),
        (["design", "email_campaign", "--available", "9" * 20], f"--available must be between 4 and 1,000,000,000, not {'9' * 20}"),
    ],
)
def test_a_number_that_is_not_allowed_is_refused_by_the_name_of_its_option(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"twinstream: {message}\n")


def test_an_unknown_role_is_refused_with_the_names_of_all_roles() -> None:
    result = run("worker", "--role", "simulation,painter")
    assert result.exit_code == 1
    assert "unknown role 'painter': use one of experiments, fidelity, outcomes, simulation, trainer, web" in result.stderr
    assert ", ".join(ROLES) in " ".join(run("worker", "--help").output.split())


def test_the_policies_of_the_command_line_are_those_of_the_ledger() -> None:
    assert get_args(PolicyName) == POLICIES


def test_a_table_is_turned_into_features_and_missing_features_are_named(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    pd.DataFrame({"id": [1], "decile": [3], "prescribing_change": [0.5]}).to_csv(source, index=False)
    result = run("import", str(source), str(tmp_path / "out.parquet"), "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["rows"] == 1
    assert "specialty" in summary["left_out"]
    assert pd.read_parquet(tmp_path / "out.parquet")["decile"].tolist() == [3]

"""The group ``twinstream tokens``: who may use the HTTP API from a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.connection import connected_service, with_read_pool
from streams.cli.options import JsonOption, examples
from streams.cli.output import Table, notify, print_result
from streams.cli.running import run_command

if TYPE_CHECKING:
    from sql.api_token_store import ApiToken

app = typer.Typer()

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Names the program or the person who uses the token.", show_default=False)
]


@app.command(epilog=examples("twinstream tokens create crm --scope ask", "twinstream tokens create report --days 90"))
def create(
    name: NameArgument,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="What it allows: read, ask (and read), or operate (and ask and read).")
    ] = "read",
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, metavar="NUMBER", help="Days after which it expires.", show_default="until it is revoked"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a token for the HTTP API, and print it once.

    Only its hash is stored. It is created as the user of TWIN_POSTGRES_MIGRATE_DSN.
    """
    from streams.operations.api_tokens import issue_token

    if not name.isprintable() or not 1 <= len(name) <= 100:
        raise ValueError(f"NAME must have 1 to 100 printable characters, not {name!r}")
    with connected_service(may_create=False) as settings:
        issued = run_command(settings, issue_token(settings, name, scope, days), "postgres")
    print_result(
        {**_fields(issued.token), "secret": issued.secret},
        lambda: f"{issued.secret}\nallows {', '.join(issued.token.scopes)}, {_expiry(issued.token)}",
        as_json=as_json,
    )
    notify("the token is shown only now: send it as the header Authorization: Bearer TOKEN")


@app.command("list", epilog=examples("twinstream tokens list"))
def list_all(as_json: JsonOption = False) -> None:
    """List the tokens of the HTTP API, without their secrets."""
    from sql.api_token_store import list_tokens

    tokens = with_read_pool(lambda _, pool: list_tokens(pool))
    print_result([_fields(token) for token in tokens], lambda: _table(tokens), as_json=as_json)


@app.command(epilog=examples("twinstream tokens revoke crm"))
def revoke(name: NameArgument, as_json: JsonOption = False) -> None:
    """Revoke the token NAME.

    Requests with it are refused a few seconds later.
    """
    from streams.operations.api_tokens import withdraw_token

    with connected_service(may_create=False) as settings:
        token = run_command(settings, withdraw_token(settings, name), "postgres")
    print_result(_fields(token), lambda: f"token {token.name} is revoked", as_json=as_json)


def _fields(token: ApiToken) -> dict[str, Any]:
    return {**token._asdict(), "token_id": str(token.token_id), "scopes": [*token.scopes]}


def _expiry(token: ApiToken) -> str:
    from streams.reporting import moment

    return f"until {moment(token.expires_at)}" if token.expires_at else "until it is revoked"


def _table(tokens: list[ApiToken]) -> Table:
    from streams.reporting import moment

    rows = [
        (
            token.name,
            ", ".join(token.scopes),
            token.created_by,
            moment(token.created_at),
            f"revoked {moment(token.revoked_at)}" if token.revoked_at else _expiry(token),
            f"{token.last_used_on:%Y-%m-%d}" if token.last_used_on else "never",
        )
        for token in tokens
    ]
    columns = ("Name", "Allows", "Created by", "Created at", "Valid", "Last used")
    return Table(columns, rows, empty="no token yet: twinstream tokens create NAME")

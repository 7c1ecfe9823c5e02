"""The users of the database of a local stack, and the SQL that creates them before the server listens.

The superuser of the cluster prepares the database, and the service never uses it: migrations, the service, and commands that only
read have a user each, with a password that is stored in the folder of the server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from deploy.stack.child import StackError

__all__ = ["LOGINS", "bootstrap_script", "new_passwords", "read_passwords", "write_passwords"]

LOGINS: Mapping[str, str] = {
    "twinstream_migrate": "twinstream_migrator",
    "twinstream_write": "twinstream_writer",
    "twinstream_read": "twinstream_reader",
}
"""Users and the role of each; ``sql/roles.sql`` explains the roles."""

# A server that exits on errors exits on an error that a block handles, too.
_CREATE_LOGIN = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{user}') THEN
        CREATE ROLE {user} LOGIN IN ROLE {role};
    END IF;
END $$"""


def new_passwords() -> dict[str, str]:
    """Return a new password for each user."""
    return {user: secrets.token_urlsafe(24) for user in LOGINS}


def read_passwords(file: Path) -> dict[str, str] | None:
    """Return the stored passwords; None where the users were not created yet, or a loss of power has left the file incomplete."""
    try:
        passwords: dict[str, str] = json.loads(file.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return passwords if LOGINS.keys() <= passwords.keys() else None


def write_passwords(file: Path, passwords: Mapping[str, str]) -> None:
    """Store the passwords atomically, readable by the owner of the file only."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps(passwords, indent=2) + "\n", encoding="ascii")
    new.replace(file)


def bootstrap_script(passwords: Mapping[str, str]) -> bytes:
    """The statements for a server in single-user mode that create roles and users, as its option ``-j`` reads them.

    It ends a statement at a semicolon before an empty line; there is none inside of a statement.
    """
    files = [_roles_file(), Path(__file__).parents[1] / "postgres" / "take_ownership.sql"]
    statements = [file.read_text(encoding="utf-8").rstrip().removesuffix(";") for file in files]
    for user, role in LOGINS.items():
        statements += [_CREATE_LOGIN.format(user=user, role=role), f"ALTER ROLE {user} PASSWORD '{passwords[user]}'"]
    return "".join(re.sub(r"\n\s*\n", "\n", statement.strip()) + ";\n\n" for statement in statements).encode()


def roles_digest() -> str:
    """Digest of the file that creates the roles, in hexadecimal."""
    return hashlib.sha256(_roles_file().read_bytes()).hexdigest()


def _roles_file() -> Path:
    """The file that creates the roles; its package is located without importing it, because an import loads the database client."""
    package = importlib.util.find_spec("sql")
    if package is None or package.origin is None:
        raise StackError("the package sql of twinstream is not installed beside the package deploy")
    return Path(package.origin).parent / "roles.sql"

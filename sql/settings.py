"""Settings of the Postgres connections, read from environment variables with the prefix ``TWIN_`` and from files of secrets."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, quote

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sql.secret_files import SecretFiles

__all__ = ["PostgresSettings", "server_address"]

# Scheme, user with password, hosts with ports, and the rest. A password with an unencoded / or ? ends the hosts too early.
_DSN = re.compile(
    r"(postgres(?:ql)?://)(?:([^/?#]*)@)?((?:\[[^\]/?#]*\]|[^/?#@:,\[\]]*)(?::\d+)?(?:,[^/?#@:,]*(?::\d+)?)*)([/?].*)?"
)
_DSN_PASSWORDS = {
    "postgres_dsn": "postgres_password",
    "postgres_migrate_dsn": "postgres_migrate_password",
    "postgres_read_dsn": "postgres_read_password",
}


class PostgresSettings(BaseSettings):
    """Addresses, pool size and timeouts in seconds.

    The service and commands that write use ``postgres_dsn``; migrations use ``postgres_migrate_dsn`` and commands that only read
    ``postgres_read_dsn``, where these are set. A password that is not part of its address is added to it. Each secret can also be
    in a file that a variable with the suffix ``_FILE`` names.

    The statement, lock, idle and TCP timeouts must be below the session timeout of the consumer group: a frozen worker must lose
    its locks before its successor requests them.
    """

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore", frozen=True, hide_input_in_errors=True)

    postgres_dsn: SecretStr = SecretStr("")
    postgres_password: SecretStr = SecretStr("")
    postgres_migrate_dsn: SecretStr = SecretStr("")
    postgres_migrate_password: SecretStr = SecretStr("")
    postgres_read_dsn: SecretStr = SecretStr("")
    postgres_read_password: SecretStr = SecretStr("")
    postgres_pool_size: int = Field(default=4, ge=1)
    postgres_connect_timeout_s: float = Field(default=10.0, gt=0)
    postgres_statement_timeout_s: float = Field(default=12.0, gt=0)
    postgres_lock_timeout_s: float = Field(default=8.0, gt=0)
    postgres_idle_in_transaction_timeout_s: float = Field(default=8.0, gt=0)
    postgres_tcp_user_timeout_s: float = Field(default=12.0, gt=0)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from files too."""
        return init_settings, SecretFiles(settings_cls), env_settings, dotenv_settings, file_secret_settings

    @model_validator(mode="before")
    @classmethod
    def _add_passwords(cls, values: Any) -> Any:
        """Put each password that has a setting of its own into its address."""
        for name, password_name in _DSN_PASSWORDS.items():
            dsn, password = _secret(values.get(name)), _secret(values.get(password_name))
            if dsn and password:
                values = {**values, name: _with_password(name, dsn, password)}
        return values

    @field_validator("postgres_dsn", "postgres_migrate_dsn", "postgres_read_dsn")
    @classmethod
    def _is_address(cls, dsn: SecretStr, info: ValidationInfo) -> SecretStr:
        """Refuse what is no address here, because the client's own error may have a part of the password."""
        if dsn and not _DSN.fullmatch(dsn.get_secret_value()):
            raise ValueError(
                f"TWIN_{info.field_name}".upper() + " is not an address such as postgresql://user:password@host:5432/database;"
                " / ? # and @ in a password are written as %2F %3F %23 and %40"
            )
        return dsn

    @property
    def server_dsn(self) -> str:
        """Address of the server, as any of the users; empty when no address is set."""
        return (self.postgres_dsn or self.postgres_read_dsn or self.postgres_migrate_dsn).get_secret_value()

    @property
    def migrate_dsn(self) -> str:
        """Address for migrations."""
        return (self.postgres_migrate_dsn or self.postgres_dsn).get_secret_value()

    @property
    def read_dsn(self) -> str:
        """Address for work that only reads."""
        return (self.postgres_read_dsn or self.postgres_dsn).get_secret_value()


def server_address(dsn: str) -> str:
    """The host and port in an address, for messages."""
    match = _DSN.fullmatch(dsn)
    return (match and match[3]) or "its address"


def _secret(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value if isinstance(value, str) else ""


def _with_password(name: str, dsn: str, password: str) -> str:
    """The address with the password; one that has this password already is returned as it is.

    Raises:
        ValueError: when it has another one.
    """
    match = _DSN.fullmatch(dsn)
    if match is None:
        return dsn
    scheme, user, hosts, rest = match.groups(default="")
    name_part, _, stored = user.partition(":")
    if stored == (encoded := quote(password, safe="")):
        return dsn
    if stored or parse_qs(rest.partition("?")[2]).get("password"):
        settings = f"TWIN_{name}".upper(), f"TWIN_{_DSN_PASSWORDS[name]}".upper()
        raise ValueError(f"{settings[0]} has a password, and {settings[1]} is set too: remove one of them")
    return f"{scheme}{name_part}:{encoded}@{hosts}{rest}"

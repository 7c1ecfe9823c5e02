"""Settings of the Postgres connections, read from environment variables with the prefix ``TWIN_``."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["PostgresSettings"]


class PostgresSettings(BaseSettings):
    """Address, pool size and timeouts in seconds.

    The statement, lock, idle and TCP timeouts must be below the session timeout of the consumer group: a frozen worker must lose
    its locks before its successor requests them.
    """

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore", frozen=True)

    postgres_dsn: SecretStr = SecretStr("")
    postgres_pool_size: int = Field(default=4, ge=1)
    postgres_connect_timeout_s: float = Field(default=10.0, gt=0)
    postgres_statement_timeout_s: float = Field(default=12.0, gt=0)
    postgres_lock_timeout_s: float = Field(default=8.0, gt=0)
    postgres_idle_in_transaction_timeout_s: float = Field(default=8.0, gt=0)
    postgres_tcp_user_timeout_s: float = Field(default=12.0, gt=0)

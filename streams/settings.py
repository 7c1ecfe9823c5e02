"""Settings of the service, read from environment variables with the prefix ``TWIN_``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, TypeAdapter, model_validator

from schemas.causal_graphs import CAUSAL_GRAPHS, CausalGraph
from schemas.twin_models import ModelType
from schemas.twin_types import TwinType
from sql.retention import RetentionSettings
from sql.retrain_store import RetrainLimits
from sql.secret_files import InFile
from sql.segment_store import SegmentLimits
from sql.settings import PostgresSettings
from streams.bounds import BoundSettings

__all__ = ["EVENT_ROLES", "MAX_FILTER_VALUES", "PORTS", "ROLES", "Role", "Settings", "settings"]

MAX_FILTER_VALUES = 1000

Role = Literal["simulation", "outcomes", "fidelity", "experiments", "trainer", "web"]
EVENT_ROLES: tuple[Role, ...] = ("simulation", "outcomes", "fidelity", "experiments", "trainer")
"""Roles that read a topic."""
ROLES: tuple[Role, ...] = (*EVENT_ROLES, "web")
PORTS = len(ROLES) + 1
"""Ports in a row, from ``web_port`` on, that the roles use: one for the health of each, and that of the HTTP API."""


class Settings(PostgresSettings, BoundSettings, RetentionSettings):
    """All settings with their defaults.

    Names that end in ``_s`` are in seconds. Without addresses of Kafka and Postgres, commands use the local stack in ``home``.

    Attributes:
        tables_url: SQLAlchemy URL of the database that queries in ``.sql`` files are run on.
        idle_s: a partition of outcomes with nothing left to read, and without an outcome for this time, holds no window open.
        heartbeat_limit_s: a role whose event loop does not turn for longer is killed and restarted; time in which it waits for a
            processor does not count.
        event_limit_s: a role that works longer on one event, while every part answers, is killed and restarted. The limit of the
            trainer is at least twice ``training_timeout_s``.
        progress_limit_s: a partition with waiting records whose position does not move for longer makes its role not ready.
        stop_limit_s: a role that stops for longer, after SIGTERM or an error, ends without finishing its events.
        max_waiting_bytes: of the records of all partitions that a role has read and not processed yet; above it, one partition at a
            time is polled.
        probe_interval_s: pause between two probes of Kafka, Postgres and MLflow by every role.
        probe_timeout_s: a probe without an answer in this time has failed; a part whose probe fails twice in a row is out.
        web_connections: most connections at once to the page and to each role; a new one takes the place of the oldest without a
            request in work.
        web_idle_s: a connection to the page or a role without a complete request for this time is closed.
        api_host: address at which the role web serves the HTTP API and the page. One that is not loopback needs TLS, by
            ``api_certificate_file`` and ``api_key_file``, or ``web_behind_proxy``; then every request needs a token.
        api_port: its port; the one after those of the roles by default.
        api_pool_size: most connections of the role web to Postgres.
        api_statement_timeout_s: a query of the role web that takes longer is cancelled.
        api_rate_per_s: requests a second that each caller may make on average; ten seconds' worth at once.
        api_max_body_mb: largest body of a request that is not an upload.
        api_max_upload_mb: largest table or array of outcomes in one request.
    """

    kafka_bootstrap: str = ""
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_ca_file: Path | None = None
    kafka_replication: int = Field(default=1, ge=1)
    kafka_connect_timeout_s: float = Field(default=10.0, gt=0)
    mlflow_uri: Annotated[str, InFile()] = ""
    mlflow_connect_timeout_s: float = Field(default=10.0, gt=0)
    tables_url: SecretStr = SecretStr("")
    home: Path = Path(".twinstream")

    pane_s: float = Field(default=300.0, gt=0)
    window_s: float = Field(default=3600.0, gt=0)
    skew_s: float = Field(default=300.0, ge=0)
    grace_s: float = Field(default=600.0, ge=0)
    idle_s: float = Field(default=60.0, gt=0)
    restatement_s: float = Field(default=30 * 86_400.0, gt=0)
    n_min: int = Field(default=200, ge=2)
    average_run_length: float = Field(default=1e6, gt=1)
    retrain_on_estimate: bool = False

    cooldown_s: float = Field(default=3600.0, ge=0)
    retrain_budget_a_day: int = Field(default=4, ge=1)
    breaker_failures: int = Field(default=3, ge=1)
    breaker_s: float = Field(default=86_400.0, gt=0)
    training_timeout_s: float = Field(default=1800.0, gt=0)
    training_memory_mb: int = Field(default=8192, ge=512)
    lease_s: float = Field(default=60.0, gt=0)
    model_type: ModelType = "auto"
    causal_graphs: Path | None = None
    catalogue: Path | None = None

    max_simulated_twins: int = Field(default=110_000_000, ge=100)
    large_simulation_twins: int = Field(default=110_000, ge=0)
    max_filter_values: int = Field(default=MAX_FILTER_VALUES, ge=1)
    simulation_deadline_s: float = Field(default=300.0, gt=0)
    simulation_memory_mb: int = Field(default=8192, ge=512)
    simulation_lease_s: float = Field(default=15.0, gt=0)
    shard_twins: int = Field(default=262_144, ge=1)
    shard_processes: int = Field(default=2, ge=1)
    simulation_cache_mb: int = Field(default=256, ge=0)

    session_timeout_s: float = Field(default=20.0, gt=0)
    start_stall_s: float = Field(default=60.0, gt=0)
    slice_records: int = Field(default=4000, ge=1)
    max_waiting_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024)
    park_attempts: int = Field(default=5, ge=1)
    park_in_a_row: int = Field(default=10, ge=1)
    max_segment_values: int = Field(default=200, ge=1)
    max_segment_characters: int = Field(default=100, ge=1, le=500)
    model_cache_size: int = Field(default=8, ge=1)
    heartbeat_limit_s: float = Field(default=8.0, ge=3)
    event_limit_s: float = Field(default=900.0, gt=0)
    progress_limit_s: float = Field(default=120.0, gt=0)
    stop_limit_s: float = Field(default=12.0, gt=0)
    probe_interval_s: float = Field(default=2.0, gt=0)
    probe_timeout_s: float = Field(default=2.0, gt=0)
    web_host: str = "127.0.0.1"
    allowed_hosts: str = Field(default="", pattern=r"^[^/]*$")
    web_port: int = Field(default=6066, ge=1, le=65_000)
    web_connections: int = Field(default=100, ge=1)
    web_idle_s: float = Field(default=10.0, gt=0)
    web_behind_proxy: bool = False
    api_host: str = "127.0.0.1"
    api_port: int | None = Field(default=None, ge=1, le=65_535)
    api_certificate_file: Path | None = None
    api_key_file: Path | None = None
    api_pool_size: int = Field(default=4, ge=1)
    api_statement_timeout_s: float = Field(default=5.0, gt=0)
    api_rate_per_s: float = Field(default=500.0, gt=0)
    api_max_body_mb: float = Field(default=1.0, gt=0)
    api_max_upload_mb: float = Field(default=64.0, gt=0)

    @model_validator(mode="after")
    def _locks_end_before_sessions(self) -> Self:
        """A frozen worker must lose its locks before the consumer group assigns its partitions to another."""
        for name in ("statement", "lock", "idle_in_transaction", "tcp_user"):
            seconds = getattr(self, f"postgres_{name}_timeout_s")
            if seconds >= self.session_timeout_s:
                allowed = f"below session_timeout_s, {self.session_timeout_s:g} s"
                raise ValueError(f"postgres_{name}_timeout_s is {seconds:g} s: it must be {allowed}")
        return self

    @model_validator(mode="after")
    def _rows_outlive_corrections(self) -> Self:
        """No row ages out that Kafka may deliver again, or that a correction may still change."""
        self.require_long_retention(self.restatement_s)
        return self

    @property
    def retrain_limits(self) -> RetrainLimits:
        """Limits on how often a line is retrained."""
        return RetrainLimits(self.lease_s, self.cooldown_s, self.retrain_budget_a_day, self.breaker_failures, self.breaker_s)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names of hosts that the page and the roles answer to, beside loopback: ``web_host`` and those in ``allowed_hosts``."""
        return (self.web_host, *(name.strip() for name in self.allowed_hosts.split(",") if name.strip()))

    @property
    def connection_limits(self) -> tuple[int, float]:
        """Most connections at once to the page and to each role, and the seconds after which one without a request is closed."""
        return self.web_connections, self.web_idle_s

    @property
    def segment_limits(self) -> SegmentLimits:
        """Limits on the segments of outcomes."""
        return SegmentLimits(self.max_segment_values, self.max_segment_characters)

    def graph_of(self, twin_type: TwinType) -> CausalGraph:
        """Return the causal graph of a twin type: from the JSON file ``causal_graphs``, or from the catalogue when it has none.

        Raises:
            ValueError: when the file cannot be read or is not valid, with the reason.
        """
        return (_read_graphs(self.causal_graphs) if self.causal_graphs else CAUSAL_GRAPHS).get(twin_type, CAUSAL_GRAPHS[twin_type])

    @property
    def api_address(self) -> tuple[str, int]:
        """Host and port of the HTTP API."""
        return self.api_host, self.api_port or self.web_port + len(ROLES)

    @property
    def is_api_on_loopback(self) -> bool:
        """Whether only programs of this machine reach the address of the HTTP API."""
        try:
            return self.api_host == "localhost" or ip_address(self.api_host).is_loopback
        except ValueError:
            return False

    @property
    def is_api_exposed(self) -> bool:
        """Whether somebody beyond this machine may reach the HTTP API, so that requests need a token."""
        return self.web_behind_proxy or self.api_certificate_file is not None or not self.is_api_on_loopback

    @property
    def local_api(self) -> str | None:
        """Beginning of the addresses of the HTTP API for browsers on this machine; None where it is opened to a network."""
        host, port = self.api_address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}" if not self.is_api_exposed else None

    def port_of(self, role: Role) -> int:
        """Port at which the process of a role serves ``/metrics``, ``/live`` and ``/ready``."""
        return self.web_port + ROLES.index(role)


def _read_graphs(file: Path) -> Mapping[TwinType, CausalGraph]:
    try:
        return TypeAdapter(dict[TwinType, CausalGraph]).validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"causal_graphs: {file} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()

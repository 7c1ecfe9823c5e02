"""Settings of how long rows are stored, in days, read from environment variables with the prefix ``TWIN_``."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["LEAST_DAYS", "RetentionSettings"]

LEAST_DAYS = 38
"""The shortest retention: Kafka holds a record for 30 days and the rest of its segment of 7 days, and may deliver it again."""

_DAY_S = 86_400.0
_FIELDS = ("outcomes", "refused", "windows", "simulations", "history", "replays", "retrains", "sweeps")


class RetentionSettings(BaseSettings):
    """Days after which the daily sweep deletes rows; 0 stores them for ever. The ledger of models is stored for ever in any case.

    Attributes:
        keep_outcomes_days: outcomes and the heads of their events, below the floor of their line; publications of files.
        keep_refused_days: refused records and their replays.
        keep_windows_days: panes, snapshots of windows, and drift states of models that are no longer champion, below the floor.
        keep_simulations_days: answered simulations that no outcome names, and the recipes of their populations.
        keep_history_days: imported training rows, by the time of their outcome.
        keep_replays_days: suppressions of drift during replays of topics.
        keep_retrains_days: closed retrain requests about models that are no longer champion, and trainings on uploaded tables.
        keep_sweeps_days: rows about sweeps.
        upload_days: tables that were uploaded for a training; not 0, and of any length, as Kafka delivers none of them.
    """

    model_config = SettingsConfigDict(env_prefix="TWIN_", extra="ignore", frozen=True)

    keep_outcomes_days: int = Field(default=730, ge=0, le=36_500)
    keep_refused_days: int = Field(default=180, ge=0, le=36_500)
    keep_windows_days: int = Field(default=1095, ge=0, le=36_500)
    keep_simulations_days: int = Field(default=730, ge=0, le=36_500)
    keep_history_days: int = Field(default=0, ge=0, le=36_500)
    keep_replays_days: int = Field(default=365, ge=0, le=36_500)
    keep_retrains_days: int = Field(default=1095, ge=0, le=36_500)
    keep_sweeps_days: int = Field(default=365, ge=0, le=36_500)
    upload_days: int = Field(default=7, ge=1, le=365)

    def require_long_retention(self, restatement_s: float) -> None:
        """Check that nothing ages out that Kafka may deliver again, or that a correction may still change.

        Raises:
            ValueError: for a retention that is too short; it names the setting and the bound.
        """
        for name in _FIELDS:
            days = getattr(self, f"keep_{name}_days")
            setting = f"TWIN_KEEP_{name.upper()}_DAYS"
            if 0 < days < LEAST_DAYS:
                raise ValueError(
                    f"{setting} is {days}: it must be 0, which means for ever, or at least {LEAST_DAYS}, as Kafka may deliver"
                    " records of that age again"
                )
            if name in {"outcomes", "windows"} and 0 < days * _DAY_S <= restatement_s:
                raise ValueError(
                    f"{setting} is {days}, which is {days * _DAY_S:.0f} s: it must be 0, which means for ever, or above"
                    f" TWIN_RESTATEMENT_S, {restatement_s:.0f} s, within which corrections still change windows"
                )

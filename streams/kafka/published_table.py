"""A Faust table that is written for external readers of its changelog, and never read by the service itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faust
from faust.stores import memory
from faust.tables import TableManager
from faust.types import TP

__all__ = ["PublishedTable", "PublishedTables"]


class PublishedTable(faust.Table):  # type: ignore[misc]  # untyped
    """A table whose recovery starts at the end of its changelog, so that the length of the changelog does not delay a start.

    The state that its values are made of is restored from Postgres. Faust replays a changelog record by record, at a few thousand
    records a second, before the first event is processed.
    """

    def _new_store(self) -> Any:
        return _EmptyStore(self.app.conf.store, self.app, self, table_name=self.name, loop=self.loop)


class PublishedTables(TableManager):  # type: ignore[misc]  # untyped
    """The tables of an app, which are recovered as soon as it starts: Faust waits a second for tables that are added late."""

    async def on_start(self) -> None:
        """Subscribe to the changelogs, and start the recovery."""
        await self._update_channels()
        await self.recovery.start()


class _EmptyStore(memory.Store):  # type: ignore[misc]  # untyped
    """Holds no value. Its persisted offset is the last record of the changelog when the partition was assigned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._last_offsets: dict[TP, int] = {}

    async def on_rebalance(
        self,
        assigned: set[TP],  # noqa: ARG002  # Faust's signature
        revoked: set[TP],  # noqa: ARG002
        newly_assigned: set[TP],  # noqa: ARG002
        generation_id: int = 0,  # noqa: ARG002
    ) -> None:
        """Find the end of each changelog partition; Faust asks for the persisted offsets right after this."""
        tps = {tp for tp in self.app.assignor.assigned_actives() if tp.topic == self.table.changelog_topic_name}
        ends = await self.app.consumer.highwaters(*tps) if tps else {}
        self._last_offsets = {tp: end - 1 for tp, end in ends.items()}

    def persisted_offset(self, tp: TP) -> int | None:
        """The last offset of the changelog, from which on nothing is to be recovered."""
        return self._last_offsets.get(tp)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Skip the records that were added between the assignment and the start of the recovery."""

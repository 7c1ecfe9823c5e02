"""What differs between two catalogues, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from schemas.catalogue import Catalogue

__all__ = ["Difference", "differences"]

_ABSENT = object()


class Difference(NamedTuple):
    """An entry or a field that differs; ``before`` or ``after`` is None where one catalogue does not have it."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {self.after}"
        return f"- {self.path}" if self.after is None else f"~ {self.path}: {self.before} -> {self.after}"


def differences(before: Catalogue, after: Catalogue) -> list[Difference]:
    """What ``after`` adds, takes out and changes, in the order of its sections."""
    return list(_compare("", before.model_dump(mode="json"), after.model_dump(mode="json")))


def _compare(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*after, *before]):
            yield from _compare(f"{path}.{name}" if path else name, before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif before != after:
        yield Difference(path, _text(before), _text(after))


def _text(value: Any) -> str | None:
    return None if value is _ABSENT else json.dumps(value, ensure_ascii=False)

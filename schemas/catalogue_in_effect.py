"""The catalogue in effect: the one place that holds it, and views of its parts that follow it.

A process has one catalogue, that of :func:`install`. Work whose answer depends on another version, because it is pinned to that,
runs inside :func:`in_effect`: only the code inside sees it, also on threads of ``asyncio.to_thread``, and no other task does.
The rest of the code reads views (``TWIN_TYPES``, ``INTERVENTIONS``, ...), which at each access are of the catalogue in effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from schemas.catalogue import Catalogue

__all__ = [
    "MappingView",
    "SequenceView",
    "catalogue_in_effect",
    "catalogue_of_process",
    "in_effect",
    "install",
    "under_own_catalogue",
]

Key = TypeVar("Key")
Entry = TypeVar("Entry")
Item_co = TypeVar("Item_co", covariant=True)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_OF_PROCESS: list[Catalogue] = []
_OF_TASK: ContextVar[Catalogue | None] = ContextVar("catalogue", default=None)


def catalogue_in_effect() -> Catalogue:
    """The catalogue of the enclosing :func:`in_effect`, else that of the process."""
    return _OF_TASK.get() or _OF_PROCESS[0]


def catalogue_of_process() -> Catalogue:
    """The catalogue of this process, whatever the enclosing :func:`in_effect`."""
    return _OF_PROCESS[0]


def install(catalogue: Catalogue) -> None:
    """Make a catalogue that of this process; what runs inside :func:`in_effect` keeps its own."""
    _OF_PROCESS[:] = [catalogue]


@contextmanager
def in_effect(catalogue: Catalogue) -> Iterator[Catalogue]:
    """Let the block, and what it awaits or calls, see this catalogue."""
    token = _OF_TASK.set(catalogue)
    try:
        yield catalogue
    finally:
        _OF_TASK.reset(token)


class _HasCatalogue(Protocol):
    catalogue: Catalogue | None


Owner = TypeVar("Owner", bound=_HasCatalogue)


def under_own_catalogue(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Let a method see the catalogue of its object; without one, None, it sees the one in effect where it is called."""

    @wraps(method)
    def run(self: Owner, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if self.catalogue is None:
            return method(self, *args, **kwargs)
        with in_effect(self.catalogue):
            return method(self, *args, **kwargs)

    return run


class MappingView(Mapping[Key, Entry], Generic[Key, Entry]):
    """A mapping that is part of the catalogue in effect."""

    def __init__(self, part: Callable[[Catalogue], Mapping[Key, Entry]]) -> None:
        self._part = part

    def __getitem__(self, key: Key) -> Entry:
        return self._part(catalogue_in_effect())[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._part(catalogue_in_effect()))

    def __len__(self) -> int:
        return len(self._part(catalogue_in_effect()))

    def __repr__(self) -> str:
        return repr(dict(self))


class SequenceView(Sequence[Item_co], Generic[Item_co]):
    """A sequence that is part of the catalogue in effect."""

    def __init__(self, part: Callable[[Catalogue], tuple[Item_co, ...]]) -> None:
        self._part = part

    @overload
    def __getitem__(self, index: int) -> Item_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item_co, ...]: ...
    def __getitem__(self, index: int | slice) -> Item_co | tuple[Item_co, ...]:
        return self._part(catalogue_in_effect())[index]

    def __len__(self) -> int:
        return len(self._part(catalogue_in_effect()))

    def __eq__(self, items: object) -> bool:
        return isinstance(items, SequenceView | tuple) and tuple(self) == tuple(items)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

"""The memory of large work is returned when it is done, that of small work when the garbage collector runs."""

from __future__ import annotations

import gc
import weakref

from streams.kafka.memory import LARGE_BYTES, release_after


class Held:
    """Refers to itself, as finished work can."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_cycle_holds_is_released_after_large_work_only():
    gc.disable()
    try:
        held = weakref.ref(Held())
        release_after(LARGE_BYTES - 1)
        assert held() is not None
        release_after(LARGE_BYTES)
        assert held() is None
    finally:
        gc.enable()

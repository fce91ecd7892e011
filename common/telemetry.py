"""Events that parts emit, and that metrics, logs and tests subscribe to.

The parts themselves know nothing of Prometheus or of log lines; they say what happened. An event is a frozen
`msgspec.Struct`, one for each batch where a batch exists. Events are dispatched by their exact class, synchronously, in
the thread that emits them; a subscriber must therefore be quick and, when it is fed from several threads, thread-safe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

E = TypeVar("E")

_log = logging.getLogger(__name__)


class Telemetry:
    """Hands events to their subscribers. Without a subscriber, `emit` costs one dictionary lookup."""

    __slots__ = ("_logged", "_subscribers")

    def __init__(self) -> None:
        self._subscribers: dict[type[Any], tuple[Callable[[Any], None], ...]] = {}
        self._logged: set[str] = set()

    def on(self, event_type: type[E], callback: Callable[[E], None]) -> None:
        """Call `callback` with each event of exactly `event_type`, after the callbacks that are there already."""
        self._subscribers[event_type] = (*self._subscribers.get(event_type, ()), callback)

    def off(self, event_type: type[E], callback: Callable[[E], None]) -> None:
        """Undo one `on`. Nothing happens when `callback` is not subscribed."""
        kept = list(self._subscribers.get(event_type, ()))
        if callback in kept:
            kept.remove(callback)
        self._subscribers[event_type] = tuple(kept)

    def emit(self, event: object) -> None:
        """Call the subscribers of the event's class.

        A subscriber that raises breaks neither the emitter nor the other subscribers; its first exception is logged.
        """
        subscribers = self._subscribers.get(type(event))
        if not subscribers:
            return
        for callback in subscribers:
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - the boundary: counting must never break the work that is counted
                self._log_once(callback, event)

    def _log_once(self, callback: Callable[[Any], None], event: object) -> None:
        subscriber = getattr(callback, "__qualname__", type(callback).__qualname__)
        if subscriber in self._logged:
            return
        self._logged.add(subscriber)
        _log.exception(
            "a telemetry subscriber failed",
            extra={"subscriber": subscriber, "event_type": type(event).__name__},
        )

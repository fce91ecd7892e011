"""How much of the system a queue, a task function or a fairness key may have: weight, rate, concurrency, pause.

Quotas are kept in the store and hold across all schedulers and workers; an operator changes them while the system runs
(`warren queue set`, `warren limit set`), and they count within a second.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from common.errors import InvalidQuota
from common.options import Key

MAX_WEIGHT: Final = 1000.0
MIN_WEIGHT: Final = 0.001
SHORTEST_SPAN: Final = 0.001
"""Seconds."""
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RATE: Final = re.compile(r"(?P<count>[0-9]{1,12})/(?P<spans>[0-9]{0,9}(?:\.[0-9]{1,9})?)(?P<unit>[smhd])")


QuotaName = Annotated[Key, Meta(min_length=1)]
"""A queue, a task function or a key."""


class Scope(StrEnum):
    """What a quota is about."""

    QUEUE = "queue"
    TASK = "task"
    KEY = "key"


class Rate(Struct, frozen=True, gc=False):
    """At most `count` dispatches in any `per` seconds: a window that slides, not one that begins anew.

    Attributes:
        count: from 1.
        per: seconds, 0.001 to 86,400.

    Example:
        >>> Rate.parse("100/s")
        Rate(count=100, per=1.0)
        >>> str(Rate(90, 60.0))
        '90/m'
    """

    count: Annotated[int, Meta(ge=1, le=10_000_000)]
    per: Annotated[float, Meta(ge=SHORTEST_SPAN, le=86_400)] = 1.0

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate in words such as ``100/s``, ``90/m``, ``3/10s``.

        Raises:
            InvalidQuota: it is not of this form, or nothing at all.
        """
        match = _RATE.fullmatch(text)
        if match is None or int(match["count"]) < 1:
            raise InvalidQuota(f"{text!r} is not a rate: write the number and the span, such as 100/s, 90/m or 3/10s")
        per = float(match["spans"] or 1) * _UNITS[match["unit"]]
        if not SHORTEST_SPAN <= per <= _UNITS["d"]:
            raise InvalidQuota(f"{text!r} is not a rate: the span has to be a millisecond at least and a day at most")
        return cls(int(match["count"]), per)

    def __str__(self) -> str:
        for unit, seconds in _UNITS.items():
            if self.per == seconds:
                return f"{self.count}/{unit}"
        return f"{self.count}/{self.per:.9g}s"


class Quota(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one queue, task function or key may have.

    Attributes:
        scope, name: whose quota this is.
        weight: its share beside others of its scope that have work: queues that share workers, keys of one queue.
        rate: how many may start in a span of time; None: as many as can.
        concurrency: how many may be dispatched and unfinished at a time; None: as many as the window has room for.
        paused: nothing of it is dispatched.
        ageing: of a queue: seconds of waiting that count as one step of priority, so that low priority is not starved
            for ever; None: strict priorities.
        known: False, in answers about quotas, of a queue that no task and no live worker has named so far. It may have
            one before its first task, or it is misspelt.
    """

    scope: Scope
    name: QuotaName
    weight: Annotated[float, Meta(ge=MIN_WEIGHT, le=MAX_WEIGHT)] = 1.0
    rate: Rate | None = None
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    paused: bool = False
    ageing: Annotated[float, Meta(gt=0, le=86_400 * 366)] | None = None
    known: bool = True

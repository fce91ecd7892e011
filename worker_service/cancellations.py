"""The leases that were cancelled: a bundle that arrives later may still carry one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

REMEMBERED: Final = 10_000


class Cancellations:
    """Remembers the last `REMEMBERED` cancelled leases."""

    def __init__(self) -> None:
        self._leases: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: str) -> bool:
        return lease in self._leases

    def add(self, leases: Iterable[str]) -> None:
        """Remember `leases` as the newest."""
        for lease in leases:
            self._leases.pop(lease, None)
            self._leases[lease] = None
        while len(self._leases) > REMEMBERED:
            del self._leases[next(iter(self._leases))]

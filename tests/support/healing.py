"""How soon what was lost on its way is found: what is dispatched when something breaks, and when it runs later."""

import statistics
import time

from tests.support.cluster import Cluster


class Dispatched:
    """What the store has, and has dispatched, at this moment.

    Args:
        cluster: whose.

    Attributes:
        ids: every task that the store has, in whatever state.
        at: when that was, seconds since the epoch.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        stored = cluster.store.tasks()
        self.ids = set(stored)
        self.at = time.time()
        self._dispatched = {id_ for id_, row in stored.items() if row.state == "dispatched"}

    def found(self, since: float) -> str:
        """Say how soon those that were dispatched began, or began anew.

        Args:
            since: when they could be found at the earliest, seconds since the epoch.
        """
        keys = {expected.key for id_, expected in self._cluster.journal.confirmed.items() if id_ in self._dispatched}
        first: dict[int, float] = {}
        for effect in self._cluster.effects.all():
            if effect.what == "start" and effect.key in keys and effect.at > since:
                first.setdefault(effect.key, effect.at)
        delays = sorted(at - since for at in first.values())
        if not delays:
            return f"none of {len(keys)} had to be found"
        return (
            f"{len(delays)} of {len(keys)} found after {statistics.median(delays):.1f} s, the last {delays[-1]:.1f} s"
        )

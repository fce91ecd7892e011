"""The ledger: what each queue, task function and key may have, and what it has.

Limits of all three scopes count at the same time, and the least wins. A task passes through the ledger in these steps::

    take ----> sent -------> landed        planned; its dispatch committed, about to be published; over
       `-----> give_back                   planned, and then not found

Between `take` and `sent` a task counts as if it went this moment, however long the transaction takes, so the rate holds
for the moments at which tasks are published. What nobody has limited costs next to nothing here.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from common.quotas import Quota, Scope
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.limits import Limit

UNLIMITED: Final = 2**31
"""How many may go when nothing limits it."""
EPSILON: Final = 1e-6
"""Seconds: so far may the difference of two wall clock times be off, as numbers have a limited precision."""


class _Account(Struct):
    lane: Lane
    out: int = 0
    pending: int = 0


class Ledger:
    """Quotas, and what was used of them. Without I/O and clock: `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._queues: dict[str, Limit] = {}
        self._tasks: dict[str, Limit] = {}
        self._keys: dict[str, Limit] = {}
        self._accounts: dict[int, _Account] = {}
        self._freed: set[str] = set()
        self._alarms: list[tuple[float, str]] = []  # with a key, or an empty one: keys of one moment are compared
        self._alarmed: set[tuple[float, str]] = set()
        self.version = 0
        """Counts the changes of quotas."""

    def set(self, quota: Quota) -> None:
        """Let `quota` hold from now on, in place of an earlier one of the same scope and name.

        What is out counts at once. A rate counts from when it was first set, or from what `recall_used` says.
        """
        self.version += 1
        limits = self._limits(quota.scope)
        limit = limits.get(quota.name)
        if limit is not None:
            limit.set(quota)
        else:
            limit = limits[quota.name] = Limit(quota)
            for account in self._accounts.values():
                if _name(account.lane, quota.scope) == quota.name:
                    limit.out += account.out
                    limit.pending += account.pending

    def quotas(self, scope: Scope | None = None) -> list[Quota]:
        """Every quota that was set, or those of one scope."""
        return [
            limit.quota
            for each in Scope
            if scope is None or scope is each
            for limit in self._limits(each).values()
        ]  # fmt: skip

    def quota(self, scope: Scope, name: str) -> Quota:
        """What `name` may have; without a word, everything, at weight 1."""
        limit = self._limits(scope).get(name)
        return limit.quota if limit is not None else Quota(scope=scope, name=name)

    def out(self, scope: Scope, name: str) -> int:
        """How many tasks of `name` are dispatched and unfinished, or about to be."""
        return sum(account.out for account in self._accounts.values() if _name(account.lane, scope) == name)

    def weight_of_queue(self, queue: str) -> float:
        """The weight of `queue` beside queues that share workers with it."""
        limit = self._queues.get(queue)
        return limit.quota.weight if limit is not None else 1.0

    def weight_of_key(self, key: str) -> float:
        """The weight of `key` beside other keys of a queue."""
        limit = self._keys.get(key)
        return limit.quota.weight if limit is not None else 1.0

    def ageing(self, queue: str) -> float | None:
        """Seconds of waiting that count as one step of priority in `queue`, or None."""
        limit = self._queues.get(queue)
        return limit.quota.ageing if limit is not None else None

    def limits(self, lane: Lane) -> bool:
        """Whether the task function or the key of `lane` has a quota."""
        return lane.task in self._tasks or lane.key in self._keys

    @property
    def limits_within(self) -> bool:
        """Whether any task function or key has a quota."""
        return bool(self._tasks or self._keys)

    def limits_task(self, task: str) -> bool:
        """Whether a task function has a quota."""
        return task in self._tasks

    def allowed(self, lane: Lane, now: float) -> int:
        """How many more tasks of `lane` may go at `now` as far as quotas say; `UNLIMITED` when they say nothing."""
        return min(self.queue_room(lane.queue, now), self.key_room(lane.key, now), self.task_room(lane.task, now))

    def queue_room(self, queue: str, now: float) -> int:
        """How many more tasks the quota of `queue` lets go."""
        return self._room(self._queues.get(queue), "", now)

    def task_room(self, task: str, now: float) -> int:
        """How many more tasks the quota of a task function lets go."""
        return self._room(self._tasks.get(task), "", now)

    def key_room(self, key: str, now: float) -> int:
        """How many more tasks the quota of `key` lets go."""
        return self._room(self._keys.get(key), key, now)

    def take(self, lane: Lane, count: int) -> None:
        """`count` tasks of `lane` are about to be dispatched."""
        account = self._account(lane)
        account.out += count
        account.pending += count
        for limit in self._of(account.lane):
            limit.out += count
            limit.pending += count

    def give_back(self, lane: Lane, count: int) -> None:
        """`count` tasks that were taken are not dispatched after all."""
        self._settle(lane, count, out=count)

    def sent(self, lane: Lane, count: int, now: float) -> None:
        """`count` tasks that were taken have been committed and are published now."""
        for limit in self._of(self._settle(lane, count, out=0)):
            limit.record(count, now)

    def doubt(self, lane: Lane, count: int, now: float) -> None:
        """Of `count` tasks that were taken nobody knows whether they were committed: they count for the rates.

        Those that are then found to be out are to be adopted (`adopt`).
        """
        self.sent(lane, count, now)
        self.landed(lane, count)

    def adopt(self, lane: Lane, count: int = 1) -> None:
        """`count` tasks of `lane` are found to be out in the store."""
        account = self._account(lane)
        account.out += count
        for limit in self._of(account.lane):
            limit.out += count

    def landed(self, lane: Lane, count: int = 1) -> None:
        """`count` tasks of `lane` are out no more."""
        account = self._accounts.get(lane.number)
        if account is None:
            return
        count = min(count, account.out)
        account.out -= count
        if account.out <= 0:
            del self._accounts[lane.number]
        if self._keys or self._tasks or self._queues:
            for limit in self._of(account.lane):
                limit.out = max(0, limit.out - count)
            if account.lane.key in self._keys:
                self._freed.add(account.lane.key)

    def recall_used(self, scope: Scope, name: str, count: int, age: float, now: float) -> None:
        """Before anything else is dispatched: `count` tasks of `name` were, `age` seconds ago.

        After a restart the store says what was dispatched in the last seconds, finished or not, so that a restart does
        not exceed a rate. To be called in the order of the ages, the oldest first; a moment in the future, after the
        wall clock was set back, counts as now.
        """
        limit = self._limits(scope).get(name)
        if limit is not None:
            limit.record(count, now - max(0.0, age - EPSILON))

    def take_freed(self, now: float, most: int) -> list[str]:
        """At most `most` of the keys of which a limit may let something go that it did not when last asked."""
        while self._alarms and self._alarms[0][0] <= now and len(self._freed) < most:
            alarm = heappop(self._alarms)
            self._alarmed.discard(alarm)
            if alarm[1]:
                self._freed.add(alarm[1])
        return [self._freed.pop() for _ in range(min(most, len(self._freed)))]

    @property
    def next_free(self) -> float | None:
        """When something may go again that was stopped by a limit of its key or by a rate, monotonic seconds.

        The past when it may go now; None when nothing is awaited but what lands.
        """
        if self._freed:
            return 0.0
        return self._alarms[0][0] if self._alarms else None

    @property
    def longest_span(self) -> float:
        """The longest span of any rate, seconds: so much of the past is asked of the store at the start."""
        return max((quota.rate.per for quota in self.quotas() if quota.rate is not None), default=0.0)

    def _room(self, limit: Limit | None, key: str, now: float) -> int:
        if limit is None:
            return UNLIMITED
        room = limit.room(now)
        if room is None:
            return UNLIMITED
        if room == 0:
            moment = limit.next_free(now)
            if moment is not None and (moment, key) not in self._alarmed:
                self._alarmed.add((moment, key))
                heappush(self._alarms, (moment, key))
        return room

    def _settle(self, lane: Lane, count: int, *, out: int) -> Lane:
        """The lane that is charged: the one that `take` charged."""
        account = self._account(lane)
        account.pending -= count
        account.out -= out
        if account.out <= 0:
            del self._accounts[lane.number]
        for limit in self._of(account.lane):
            limit.pending -= count
            limit.out -= out
        if account.lane.key in self._keys:
            # Also when all were sent: only now is it known when the rate lets the next one go.
            self._freed.add(account.lane.key)
        return account.lane

    def _account(self, lane: Lane) -> _Account:
        account = self._accounts.get(lane.number)
        if account is None:
            account = self._accounts[lane.number] = _Account(lane)
        return account

    def _of(self, lane: Lane) -> list[Limit]:
        found = (self._queues.get(lane.queue), self._tasks.get(lane.task), self._keys.get(lane.key))
        return [limit for limit in found if limit is not None]

    def _limits(self, scope: Scope) -> dict[str, Limit]:
        match scope:
            case Scope.QUEUE:
                return self._queues
            case Scope.TASK:
                return self._tasks
            case Scope.KEY:
                return self._keys


def _name(lane: Lane, scope: Scope) -> str:
    match scope:
        case Scope.QUEUE:
            return lane.queue
        case Scope.TASK:
            return lane.task
        case Scope.KEY:
            return lane.key

"""Express: tasks that go past the window, and do not wait behind what is in the broker.

What is out beyond the slots, the lead, keeps short tasks from leaving slots idle, but nothing can overtake it any
more. So a key that comes anew, and whose turn is now (its credit, see `fairness`), would wait as long as the lead
lasts: fifty of its own run times, when a task takes a millisecond. These tasks go to the direct queue of a worker
instead, and that worker starts them before whatever else waits there::

    plan:    the key whose turn it is came anew -> more is out than slots -> nothing of higher priority waits there
    worker:  [express] [express] | [lead] [lead] [lead] ...   the next free slot takes the first

They are charged to their key and their queue as all others are, and they count as out, so that as many fewer go to
the shared work queue until they are over: nobody has more than its share. And nothing is held up for long by them:

- A worker is sent no more at a time than it finishes in a `HORIZON`, as its replies told; so they start about that
  soon, and none at one whose slots are all held by long tasks.
- Only one of `RARITY` tasks that a worker finishes may be express; what one does not use is kept for a horizon's worth.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from common.wire import EXPRESS_TASKS
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.rates import CompletionRate

HORIZON: Final = 0.05
"""Seconds: what a worker finishes in so long, it may be sent by express at a time. Half of what a task waits for a slot
before it is given back."""
MOST: Final = EXPRESS_TASKS
"""But no more than so many (20), of tasks so short that they are over sooner: else those that they overtake, which have
waited for a longer lead where so much is finished, would be given back."""
RARITY: Final = 4
"""Of so many tasks that a worker finishes one may be express. Else those that it overtakes would wait for as long as
new keys come, and be given back as tasks for which there is no slot."""


class _Runner(Struct):
    """One worker: how fast it is, and how many tasks it has by express and may have."""

    finished: CompletionRate = field(default_factory=CompletionRate)
    allowance: float = 0.0
    out: int = 0

    def most(self, now: float) -> float:
        return min(self.finished.per_second(now) * HORIZON, MOST)


class Express:
    """How many tasks each worker may be sent past the window.

    Args:
        directory: the live workers.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._workers: dict[str, _Runner] = {}

    def finished(self, worker: str, count: int, now: float) -> None:
        """`worker` has replied that it has finished `count` tasks."""
        known = self._workers.get(worker)
        if known is None:
            if not count or worker not in self._directory.workers:
                return
            self._forget()
            known = self._workers[worker] = _Runner()
        known.finished.add(count, now)
        known.allowance = min(known.allowance + count / RARITY, known.most(now))

    def taken(self, worker: str, count: int = 1) -> None:
        """So many tasks are about to go to `worker` by express."""
        known = self._workers.setdefault(worker, _Runner())
        known.out += count
        known.allowance -= count

    def landed(self, worker: str) -> None:
        """One of these is over, has come back, or did not go after all."""
        self._workers[worker].out -= 1

    def rooms(self, queue: str, now: float) -> dict[str, int]:
        """How many more tasks may be sent by express to each worker that serves `queue` and takes any."""
        found: dict[str, int] = {}
        for worker in self._directory.serving(queue):
            name = worker.beat.worker
            known = self._workers.get(name)
            if known is not None and worker.beat.direct:
                room = int(min(known.allowance, known.most(now) - known.out))
                if room > 0:
                    found[name] = room
        return found

    def _forget(self) -> None:
        for name, known in list(self._workers.items()):
            if not known.out and name not in self._directory.workers:
                del self._workers[name]


class Line(Struct):
    """What goes to the work queue of one queue, in order: where the last of each priority stands.

    What goes to a worker's direct queue is not in it: that moves on while these wait.

    Attributes:
        sent: how many go, or have gone.
        last: by priority, how many there were with the last one of it.
    """

    sent: int = 0
    last: dict[int, int] = field(default_factory=dict)

    def add(self, priority: int, count: int = 1) -> None:
        """So many more go."""
        self.sent += count
        self.last[priority] = self.sent

    def drop(self, count: int) -> None:
        """Of those that were to go so many do not after all."""
        self.sent -= count

    def has_higher(self, priority: int, waiting: int) -> bool:
        """Whether a higher priority than this is among the last `waiting` of them."""
        return any(each > priority and self.sent - at < waiting for each, at in self.last.items())
